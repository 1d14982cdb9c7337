"""Permits are dealt such that no limit is ever passed, whatever message is lost, and such that none lies idle."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import replace

import pytest

from delaybox.core.queue import QueueRules
from delaybox.core.queue_limits import GRANT_MS, RATE_TURN_MS, TURN_MS, Grant, Needs, Share, deal, rate_of
from tests.faults.simulated.partition import Permits


@pytest.mark.parametrize("seed", range(40))
def test_no_interval_holds_more_than_the_rate_whatever_is_lost(seed: int) -> None:
    rng = random.Random(seed)
    rate = rate_of(rng.choice(["5/s", "20/s", "3/2s", "50/s"]))
    permits, hold = rate.permits(None)
    places = [Permits(n) for n in range(6)]
    ledger: dict[int, Share] = {}
    late: list[tuple[int, Grant, int]] = []
    claims: deque[int] = deque()
    for now in range(1_000_000, 1_015_000, 5):
        if rng.random() < 0.2:
            rng.choice(places).waiting += rng.randrange(12)
        place = rng.choice(places)
        for _ in range(place.claim(now, hold)):
            claims.append(now)
        while claims and claims[0] <= now - rate.interval_ms:
            claims.popleft()
        assert len(claims) <= rate.count
        if rng.random() < 0.5:
            report = rng.choice(places).visit(None, 0, now)
            if rng.random() < 0.05:
                continue  # the report is lost
            ledger, grants = deal(ledger, [report], permits, now, rate=True)
            late += [(now + rng.choice([0, 5, 40, 1_900, 2_500]), grant, now) for grant in grants]
        for when, grant, made in [one for one in late if one[0] <= now]:
            late.remove((when, grant, made))
            if rng.random() < 0.9:
                places[grant.partition].visit(grant, made + GRANT_MS, now)
        assert sum(p.budget for p in places) <= permits


def settle(
    places: list[Permits], ledger: dict[int, Share], permits: int, now: int, *, rate: bool = False
) -> dict[int, Share]:
    """What an engine does, without any loss."""
    asked: dict[int, Grant | None] = {p.number: None for p in places if p.waiting or p.budget}
    for _ in range(10):
        reports = [places[n].visit(grant, now + GRANT_MS, now) for n, grant in asked.items()]
        ledger, grants = deal(ledger, reports, permits, now, rate=rate)
        asked = {grant.partition: grant for grant in grants}
        if not asked:
            break
    return ledger


def test_work_in_one_partition_gets_all_permits_from_those_that_have_none_left() -> None:
    places = [Permits(n, waiting=100) for n in range(4)]
    ledger = settle(places, {}, 20, 1_000)
    assert [p.budget for p in places] == [5, 5, 5, 5]
    for place in places[1:]:
        place.waiting = 0
    ledger = settle(places, ledger, 20, 2_000)
    assert [p.budget for p in places] == [20, 0, 0, 0]
    places[3].waiting = 1
    settle(places, ledger, 20, 3_000)
    assert [p.budget for p in places] == [19, 0, 0, 1]


def test_with_fewer_permits_than_partitions_they_go_to_the_earliest_and_come_round() -> None:
    places = [Permits(n, waiting=1) for n in range(4)]
    ledger = settle(places, {}, 1, 1_000)
    order: list[int] = []
    for turn in range(4):
        now = 1_000 + turn * TURN_MS
        (has,) = [p for p in places if p.budget]
        assert has.claim(now, 10_000) == 1
        order.append(has.number)
        has.used.clear()
        ledger = settle([*places], ledger, 1, now)
    assert order == [0, 1, 2, 3]


def test_a_permit_stays_for_a_turn_where_work_goes_on_and_leaves_at_once_where_none_is_left() -> None:
    places = [Permits(n, waiting=50) for n in range(3)]
    ledger = settle(places, {}, 1, 1_000)
    for now in range(1_001, 1_000 + TURN_MS, 50):
        assert places[0].claim(now, 10_000) == 1, "others wait until its turn is over"
        places[0].used.clear()
        ledger = settle(places, ledger, 1, now)
    places[0].waiting = 0
    ledger = settle(places, ledger, 1, 1_000 + TURN_MS)
    assert [p.budget for p in places] == [0, 1, 0]
    places[2].critical = True
    settle(places, ledger, 1, 1_001 + TURN_MS)
    assert [p.budget for p in places] == [0, 0, 1], "critical tasks wait for no turn"


def test_a_limit_that_is_lowered_is_taken_back() -> None:
    places = [Permits(n, waiting=100) for n in range(4)]
    ledger = settle(places, {}, 20, 1_000)
    places[0].claim(1_000, 10_000)
    ledger = settle(places, ledger, 4, 2_000)
    assert [p.budget for p in places] == [5, 0, 0, 0], "what is in use stays until it is used no more"
    places[0].used.clear()
    settle(places, ledger, 4, 3_000)
    assert [p.budget for p in places] == [1, 1, 1, 1]


def test_a_record_that_the_server_lost_is_made_again_from_reports() -> None:
    ledger, _ = deal({}, [Needs(partition=1, budget=5, seq=900, want=5, deadline=1, at=1_000)], 8, 1_000)
    assert ledger[1].dealt == 5
    ledger, grants = deal(ledger, [Needs(partition=2, budget=0, seq=0, want=9, deadline=2, at=1_000)], 8, 1_000)
    assert [(g.partition, g.budget) for g in grants if g.cap is None] == [(2, 3)]


def test_a_report_that_comes_late_takes_nobodys_permits() -> None:
    """Two engines visit one partition; what the first has read is dealt by after what the second has."""
    places = [Permits(n, waiting=100) for n in range(2)]
    ledger = settle(places, {}, 2, 1_000)
    assert [p.budget for p in places] == [1, 1]
    places[0].waiting = 0
    late = places[0].visit(None, 0, 2_000)
    ledger = settle(places, ledger, 2, 2_001)
    assert [p.budget for p in places] == [0, 2]
    ledger, grants = deal(ledger, [late], 2, 2_002)
    assert not [grant for grant in grants if grant.cap is not None], "all together have no more than there is"
    assert ledger[0].dealt == 0
    ledger, _ = deal(ledger, [replace(late, at=2_003, seq=late.seq + 1)], 2, 2_003)
    assert ledger[0].dealt == 1, "what is newer counts"


@pytest.mark.parametrize("rate", [False, True])
def test_what_a_rate_gives_a_partition_beyond_its_part_leaves_at_once_and_the_last_one_after_a_turn(rate: bool) -> None:
    places = [Permits(0, waiting=100), Permits(1)]
    ledger = settle(places, {}, 6, 1_000, rate=rate)
    assert [p.budget for p in places] == [6, 0]
    places[1].waiting = 100
    ledger = settle(places, ledger, 6, 1_100, rate=rate)
    assert [p.budget for p in places] == ([4, 2] if rate else [6, 0])
    ledger = settle(places, ledger, 6, 1_100 + (RATE_TURN_MS if rate else TURN_MS), rate=rate)
    assert [p.budget for p in places] == [3, 3]


@pytest.mark.parametrize(
    ("text", "burst", "permits", "hold"),
    [
        ("100/s", None, 100, 1_000),
        ("100/s", 10, 10, 100),
        ("100/s", 1, 1, 10),
        ("100/s", 51, 50, 500),
        ("5/10m", None, 5, 600_000),
        ("7/s", 3, 1, 143),
    ],
)
def test_permits_of_a_rate(text: str, burst: int | None, permits: int, hold: int) -> None:
    rate = rate_of(text)
    assert rate.permits(burst) == (permits, hold)
    assert str(rate) == text
    assert permits * -(-rate.interval_ms // hold) <= rate.count


@pytest.mark.parametrize("count", [1, 3, 7, 10, 97, 100, 101, 1_000, 9_973])
def test_a_burst_wastes_no_more_than_a_fiftieth(count: int) -> None:
    for burst in {1, 2, 3, count // 3 or 1, count // 2 or 1, count}:
        permits, hold = rate_of(f"{count}/s").permits(burst)
        assert (permits <= burst and permits * -(-1_000 // hold) <= count) or hold == 1
        assert permits * (count // permits) >= 0.98 * count


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "is no rate"),
        ("100", "such as '100/s'"),
        ("/s", "is no rate"),
        ("-5/s", "is no rate"),
        ("1.5/s", "is no rate"),
        ("5/fortnight", "is no rate"),
        ("0/s", "set paused"),
        ("5/ms", "between 100ms and d"),
        ("5/2d", "between 100ms and d"),
        ("1000000/h", "such as '277/s'"),
        ("9" * 5_000 + "/s", "is no rate"),
    ],
)
def test_what_is_no_rate(text: str, part: str) -> None:
    with pytest.raises(ValueError, match=r".") as error:
        rate_of(text)
    assert part in str(error.value)


def test_pools_of_a_queue() -> None:
    rules = QueueRules(concurrency=3, rate=rate_of("10/s"))
    assert [(p.name, p.permits, p.hold_ms) for p in rules.pools("mail")] == [(b"cmail", 3, 0), (b"rmail", 10, 1_000)]
    assert [p.name for p in rules.pools("default")] == [b"c", b"r"]
    assert QueueRules().pools("mail") == [] and not QueueRules(burst=3).limited


def test_reports_count_at_once_when_the_clock_was_set_back() -> None:
    """As by a fail-over to a server whose clock is behind. Until it had caught up no permit moved."""
    ledger, _ = deal({}, [Needs(partition=1, budget=0, seq=0, want=5, deadline=1, at=100_000)], 5, 100_000)
    assert ledger[1].dealt == 5
    now = 95_000
    back = Needs(partition=1, budget=0, seq=ledger[1].seq, want=0, deadline=0, at=now)
    waits = Needs(partition=2, budget=0, seq=0, want=5, deadline=1, at=now)
    ledger, grants = deal(ledger, [back, waits], 5, now)
    assert [(grant.partition, grant.budget) for grant in grants] == [(2, 5)]


@pytest.mark.parametrize("rate", [False, True])
def test_a_turn_is_over_when_the_clock_was_set_back(rate: bool) -> None:
    """Else who has the permits would keep them until the clock is again where it was."""
    busy = Needs(partition=1, budget=0, seq=0, want=9, deadline=1, at=9_000_000)
    ledger, _ = deal({}, [busy], 4, 9_000_000, rate=rate)
    now = 1_000_000
    reports = [replace(busy, budget=4, seq=ledger[1].seq, at=now), replace(busy, partition=2, at=now)]
    _, grants = deal(ledger, reports, 4, now, rate=rate)
    assert [(grant.partition, grant.cap) for grant in grants] == [(1, 2)]


@pytest.mark.parametrize(
    ("want", "rate", "asked_ms"), [(12, True, 1_000), (3, True, 300), (2, True, 200), (9, False, 1_000)]
)
def test_who_has_permits_is_asked_when_it_may_have_no_more_work(want: int, rate: bool, asked_ms: int) -> None:
    """While another one waits: for concurrency each end is reported, and what waits for a rate takes its time."""
    start = 1_000_000
    busy = Needs(partition=1, budget=0, seq=0, want=want, deadline=1, at=start)
    ledger, (grant,) = deal({}, [busy], 1, start, rate=rate, hold_ms=100)
    for later in (asked_ms, asked_ms + 1):
        waits = Needs(partition=2, budget=0, seq=0, want=1, deadline=2, at=start + later)
        _, grants = deal(ledger, [waits], 1, start + later, rate=rate, hold_ms=100)
        assert [g for g in grants if g.cap is None] == ([grant] if later > asked_ms else [])
