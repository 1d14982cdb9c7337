"""T34: the pure decisions (owners, members needed, limits, shares) in a world with a virtual clock, by seeds.

Minutes of a fleet pass in a second: members die, also two at a time, freeze, come and go by need, and messages about
permits get lost or come late. Each rule, left out, must be missed, or the simulation would prove nothing.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

import pytest

from delaybox.core.queue_limits import Grant, Needs, Share
from tests.faults.harness.scale import SEED, scaled
from tests.faults.simulated.fleet import (
    BEAT_MS,
    GONE_MS,
    MOST,
    NARROW,
    PACED,
    RATE,
    STAND_IN_MS,
    TURN_MS,
    WHOLE,
    Broken,
    Fleet,
    Rules,
)

pytestmark = [pytest.mark.faults, pytest.mark.timeout(scaled(300, 1_800))]

SEEDS = scaled(1, 40)
SECONDS = scaled(20, 120)


def turmoil(seed: int, rules: Rules = WHOLE) -> Fleet:
    """A fleet that suffers all the time, and then has peace until all has ended."""
    fleet = Fleet(seed, rules)
    fleet.start(4)
    fleet.scales()
    for _ in range(SECONDS):
        fleet.schedule(fleet.draw.randrange(60), "one", 3_000, critical=0.1)
        fleet.schedule(fleet.draw.randrange(60), "three", 8_000)
        fleet.schedule(fleet.draw.randrange(RATE), PACED, 1_000)
        fleet.schedule(fleet.draw.randrange(12), NARROW, 500)
        for _ in range(2):
            if fleet.draw.random() < 0.3:
                fleet.harm()
            fleet.run(500)
    fleet.run(120_000, fleet.over)
    return fleet


def test_a_fleet_in_turmoil_keeps_its_promises() -> None:
    began, sums = time.monotonic(), Counter[str]()
    for seed in range(SEED, SEED + SEEDS):
        fleet = turmoil(seed)
        tasks = fleet.scheduled()
        assert set(fleet.done) == set(range(tasks)), f"seed {seed}: lost {tasks - len(fleet.done)}"
        assert set(fleet.done.values()) == {1}, f"seed {seed}: ended twice"
        harm = sum(fleet.did.values())
        sums.update(tasks=tasks, harm=harm, again=fleet.runs - tasks, changes=fleet.changes, seconds=fleet.now // 1_000)
    simulated = sums["seconds"] - SEEDS * 1_000
    print(
        f"T34 seeds={SEEDS} simulated={simulated}s tasks={sums['tasks']} harm={sums['harm']} again={sums['again']} "
        f"joined_or_left={sums['changes']} lost=0 early=0 failing_seeds=0 in {time.monotonic() - began:.1f}s"
    )
    assert sums["harm"] and sums["again"] and sums["changes"]


def shared(rules: Rules = WHOLE) -> float:
    """How much more a queue of three times the weight got, while both waited."""
    fleet = Fleet(SEED, rules, calm=True)
    fleet.start(3)
    fleet.schedule(6_000, "one", 100)
    fleet.schedule(6_000, "three", 100)
    fleet.run(30_000)
    return fleet.taken["three"] / fleet.taken["one"]


def test_queues_share_a_fleet_by_their_weights() -> None:
    assert 2.7 < shared() < 3.3


def test_a_limit_is_used_and_enough_members_come_and_go_again() -> None:
    fleet = Fleet(SEED, calm=True)
    fleet.start(2)
    fleet.scales()
    fleet.schedule(RATE * 60, PACED, 100)
    fleet.run(45_000)
    assert fleet.taken[PACED] >= 0.9 * RATE * 45
    assert len(fleet.members) == 2, "more members do not help what has a limit"
    fleet.schedule(2_400, "one", 30_000)
    fleet.run(20_000)
    assert 3 <= len(fleet.members) <= MOST
    fleet.run(60_000, fleet.over)
    fleet.run(40_000)
    assert len(fleet.members) == 2


def burst(rules: Rules = WHOLE) -> int:
    """How many members there are at most for much that is due at once, which no forecast showed."""
    fleet = Fleet(SEED, rules, calm=True)
    fleet.start(2)
    fleet.scales()
    fleet.run(500)  # between two looks
    fleet.schedule(3_000, "one", 50)
    most = 0
    for _ in range(10):
        fleet.run(1_000)
        most = max(most, len(fleet.members))
    return most


def test_a_backlog_calls_for_members() -> None:
    assert 4 <= burst() <= MOST


def generous(
    ledger: dict[int, Share], reports: Sequence[Needs], *_: object, **__: object
) -> tuple[dict[int, Share], list[Grant]]:
    """Deals what is wanted, whoever has how many."""
    return ledger, [Grant(r.partition, r.want, r.seq + 1) for r in reports if r.want > r.budget]


def test_permits_that_nobody_has_on_record_pass_a_limit() -> None:
    with pytest.raises(Broken, match=r"began within a second|run, and"):
        for seed in range(SEED, SEED + 5):
            turmoil(seed, Rules(deal=generous))


def alone(rules: Rules = WHOLE) -> int:
    """For how long (ms) a partition is left alone when its owner dies."""
    fleet = Fleet(SEED, rules, calm=True)
    fleet.start(4)
    fleet.run(10_000)
    fleet.longest_alone = 0
    fleet.kill()
    fleet.run(10_000)
    return fleet.longest_alone


def test_a_stand_in_looks_before_the_list_shows_that_an_owner_is_gone() -> None:
    assert alone() < STAND_IN_MS + 3 * TURN_MS
    assert alone(Rules(stand_in=False)) > GONE_MS - BEAT_MS


def test_what_is_not_counted_is_missed() -> None:
    assert not 2.7 < shared(Rules(counted=False)) < 3.3
    assert burst(Rules(backlog=False)) == 2
