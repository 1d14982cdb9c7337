"""For how long who was called to a partition goes on to look there."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from delaybox.engine.asks import UNTIL_CALLED
from delaybox.engine.stays import STAY_MS, THEIRS_MS, Stays

NOW = 7_200_000


def claimed(now_ms: int, *leased: bytes) -> Any:
    return SimpleNamespace(now_ms=now_ms, leased=leased)


def test_it_looks_again_at_what_is_due_within_the_stay() -> None:
    stays = Stays()
    assert not stays.on(3, NOW)
    stays.begin(3, NOW, STAY_MS)
    assert stays.on(3, NOW + 500) and not stays.on(4, NOW + 500) and not stays.on(3, NOW + STAY_MS)
    assert stays.look(3, claimed(NOW + 500), NOW + 900) == NOW + 900 + THEIRS_MS
    assert stays.look(3, claimed(NOW + 500), NOW + 1_100) == UNTIL_CALLED
    stays.look(3, claimed(NOW + 900, b"id", b"record"), NOW + 1_000)
    assert stays.on(3, NOW + 1_800), "it found something"


def test_a_clock_that_is_set_back_ends_it() -> None:
    """It looked at partitions of others for as long as the step was."""
    stays = Stays()
    stays.begin(3, NOW, STAY_MS)
    back = NOW - 3_600_000
    assert not stays.on(3, back)
    assert stays.look(3, claimed(back), back + 60_000) == UNTIL_CALLED
    stays.begin(3, back, STAY_MS)
    assert stays.on(3, back + 500)
