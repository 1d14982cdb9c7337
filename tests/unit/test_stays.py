"""For how long who was called to a partition goes on to look there."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from delaybox.engine.asks import UNTIL_CALLED
from delaybox.engine.stays import LEND_MS, MISSES, SOON_MS, STAY_MS, THEIRS_MS, Stays

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


def test_who_finds_something_looks_sooner_and_who_finds_nothing_leaves() -> None:
    """Whatever came due where a member had no room was 5 ms late, and others looked there that never found anything."""
    stays = Stays()
    stays.begin(3, NOW, STAY_MS)
    assert stays.look(3, claimed(NOW, b"id", b"record"), NOW + 10) == NOW + 10 + THEIRS_MS / 4
    for _ in range(3):
        at = stays.look(3, claimed(NOW + 10, b"id", b"record"), NOW + 20)
    assert at == NOW + 20 + SOON_MS
    found = [stays.look(3, claimed(NOW + 20), NOW + 30) for _ in range(MISSES)]
    assert found[:2] == [NOW + 30 + SOON_MS * 2, NOW + 30 + SOON_MS * 4]
    assert found[-2:] == [NOW + 30 + THEIRS_MS, UNTIL_CALLED]
    assert not stays.on(3, NOW + 20)
    stays.begin(3, NOW + 30, STAY_MS)
    assert stays.on(3, NOW + 30), "it was called again"


def test_what_is_lent_is_left_to_others_until_they_leave_something() -> None:
    stays = Stays()
    stays.lend(3, NOW)
    assert stays.to_lend([3, 4], NOW) == 4
    first = NOW + 20
    assert stays.heard(3, NOW, first, mine=True) == first + THEIRS_MS
    # Others are on their way.
    assert stays.look(3, claimed(NOW + 5, b"id", b"record"), first, mine=True, late_ms=6.0) == first + THEIRS_MS
    found = claimed(NOW + 60, b"id", b"record")
    lent = NOW + 70 + THEIRS_MS
    # They leave one, and take the next. What came a moment ago they would have taken as well.
    assert stays.look(3, found, NOW + 70, mine=True, late_ms=THEIRS_MS) == lent
    assert stays.look(3, claimed(NOW + 60), NOW + 70, mine=True) == lent
    assert stays.look(3, found, NOW + 70, mine=True, late_ms=1.0) == lent
    assert stays.look(3, found, NOW + 70, mine=True, late_ms=THEIRS_MS) == lent
    assert stays.look(3, found, NOW + 70, mine=True, late_ms=THEIRS_MS) == NOW + 70, "they leave one after the other"
    assert stays.heard(3, NOW + 70, NOW + 80, mine=True) == NOW + 80
    assert stays.to_lend([3], NOW + 500) is None and stays.to_lend([3], NOW + 1_000) == 3


def test_what_is_lent_comes_back_after_a_while_or_with_a_call() -> None:
    stays = Stays()
    stays.lend(3, NOW)
    late = NOW + LEND_MS
    assert stays.look(3, claimed(round(late)), late + 10, mine=True) == late + 10
    stays.lend(3, NOW)
    stays.begin(3, NOW, STAY_MS)
    assert stays.look(3, claimed(NOW + 1), NOW + 10, mine=True) == NOW + 10
    # The server's clock was set back.
    stays.lend(4, NOW)
    back = NOW - 3_600_000
    assert stays.look(4, claimed(back), back + 10, mine=True) == back + 10 and stays.to_lend([4], back) == 4


def test_others_are_not_counted_on_where_nothing_was_due_for_long() -> None:
    """They have left by then, so whoever lent it would be late by what it leaves to them."""
    stays = Stays()
    stays.lend(3, NOW)
    assert stays.look(3, claimed(NOW + 1), NOW + 900, mine=True) == NOW + 900
    assert stays.look(3, claimed(NOW + 900), UNTIL_CALLED, mine=True) == UNTIL_CALLED
    assert stays.heard(3, NOW + 910, NOW + 910, mine=True) == NOW + 910 + THEIRS_MS
