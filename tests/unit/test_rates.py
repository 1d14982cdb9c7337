"""How often something happened in the last minute."""

from __future__ import annotations

import pytest

from delaybox.core.rates import Means, Rates


def test_a_rate_is_over_the_last_minute() -> None:
    rates = Rates(100.0)
    for second in range(120):
        rates.add([b"a", b"a"], 100.0 + second)
    rates.add([b"b"] * 30, 219.5)
    assert rates.per_second(219.9) == {b"a": 2.0, b"b": 0.5}


def test_a_young_one_divides_by_its_age_but_by_a_second_at_least() -> None:
    rates = Rates(100.0)
    rates.add([b"a"] * 8, 100.1)
    assert rates.per_second(100.1) == {b"a": 8.0}
    assert rates.per_second(104.0) == {b"a": 2.0}


def test_what_ended_a_minute_ago_is_left_out() -> None:
    rates = Rates(0.0)
    rates.add([b"a"], 1.0)
    assert rates.per_second(60.0) == {b"a": round(1 / 60, 3)}
    assert rates.per_second(66.0) == {}


def test_of_very_many_keys_the_busiest_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("delaybox.core.rates._MOST_KEYS", 10)
    counted = Rates(0.0)
    for n in range(1_000):
        counted.add([b"once-%d" % n], 1.0)
        counted.add({b"busy": 5}, 1.0)
        assert len(counted._slots[-1][1]) <= 20
    found = counted.per_second(60.0)
    assert found[b"busy"] == round(5_000 / 60, 3) and len(found) <= 20


def test_means_are_of_the_keys_that_were_measured_last() -> None:
    means = Means(most=2)
    for n in range(100):
        means.add(b"stays", 7.0)
        means.add(b"once-%d" % n, float(n))
    assert means.all() == {b"stays": 7.0, b"once-99": 99.0}
