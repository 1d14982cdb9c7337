"""A taker without room lends one of its partitions to others, and is not in their way there."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from redis.asyncio import Redis

from delaybox.core.lane import lane_of
from delaybox.core.task import NewTask, TaskType
from delaybox.engine.calls import WorkerCalls
from delaybox.engine.clock_estimate import RedisClock
from delaybox.engine.due_tracker import Tracker
from delaybox.engine.engine import Engine
from delaybox.engine.loops import Loop
from delaybox.engine.options import EngineOptions
from delaybox.engine.stays import THEIRS_MS
from delaybox.store.record import draft
from delaybox.store.servers import Servers
from delaybox.store.store import Batch, Store
from tests.engines import Recorder, until
from tests.takers import Collecting

LANE = lane_of(TaskType.WORKER, "default", "send")
GUEST = EngineOptions(node_id="test", clock=False, channel="", poll_ms=60_000)


class Full(Collecting):
    """Has no room at first."""

    types, free = "w", 0

    def __init__(self) -> None:
        super().__init__()
        self.lent: list[int] = []
        self.called: list[list[int]] = []

    def lanes_at(self, partition: int, *, all_: bool) -> tuple[bytes, ...]:
        return (LANE,)

    def lends(self, partition: int) -> bool:
        self.lent.append(partition)
        return True

    def full(self, partitions: Sequence[int]) -> None:
        self.called.append(list(partitions))


async def test_who_has_no_room_lends_one_partition_and_calls_others_to_the_rest(client: Redis, prefix: str) -> None:
    store = await Store.open(Servers(client), prefix=prefix, partitions=4)
    taker = Full()
    tracker = Tracker(store, taker, GUEST, RedisClock())
    tracker.wait_to_be_called()
    (answers,) = await store.schedule([Batch(0, [draft(NewTask(type=TaskType.WORKER, name="send"))])])
    assert not isinstance(answers, BaseException), answers
    loop = Loop("tracker", tracker.step)
    loop.start()
    try:
        await until(lambda: taker.called != [])
        assert taker.lent == [0] and taker.called == [[1, 2, 3]] and [*tracker._stays._lent] == [0]
        # A place is free again: what waits is taken by whoever is first.
        await until(lambda: tracker._look[0] > tracker._clock.now_ms())
        taker.free = 10
        tracker.slots_freed()
        await until(lambda: len(taker.got) == 1)
    finally:
        await loop.stop()
        await tracker.finish(1.0)
    tracker.close()


async def test_what_is_announced_in_a_partition_that_is_lent_is_left_to_others(client: Redis, prefix: str) -> None:
    store = await Store.open(Servers(client), prefix=prefix, partitions=2)
    tracker = Tracker(store, Full(), GUEST, RedisClock())
    tracker.wait_to_be_called()
    tracker._look = [math.inf, math.inf]
    now = tracker._clock.now_ms()
    tracker._stays.lend(0, now)
    for partition in (0, 1):
        tracker.kick(partition, now + 10)
    assert tracker._look == [now + 10 + THEIRS_MS, now + 10]
    tracker.close()


@pytest.mark.parametrize("lent", [True, False])
async def test_who_saves_places_for_large_tasks_is_told_of_what_is_lent(
    client: Redis, prefix: str, monkeypatch: pytest.MonkeyPatch, lent: bool
) -> None:
    """It learned of what waits there a poll later, and smaller tasks took each place that came free meanwhile."""
    monkeypatch.setattr(WorkerCalls, "lend", lambda *_: lent)
    store = await Store.open(Servers(client), prefix=prefix, partitions=2)
    told: list[list[int]] = []
    engine = Engine(store, {}, GUEST, hosts=True)
    guest = engine.admit(lanes=[LANE], target=Recorder(), room=lambda: 0, full=lambda found: told.append([*found]))
    try:
        assert guest.lends(1) is lent
        assert told == [[1]] * lent, "what is not lent comes with all else for which there is no room"
    finally:
        await engine.stop(0.0)


@pytest.mark.parametrize("called_only", [True, False])
async def test_who_claims_only_when_called_hears_calls_of_its_own_member(
    client: Redis, prefix: str, called_only: bool
) -> None:
    store = await Store.open(Servers(client), prefix=prefix, partitions=2)
    engine = Engine(store, {}, GUEST, hosts=True)
    guest = engine.admit(lanes=[LANE], target=Recorder(), room=lambda: 1, called_only=called_only)
    try:
        assert guest.own_call(1) is called_only
        assert guest.tracker._of(1)._called == ({1} if called_only else set())
    finally:
        await engine.stop(0.0)
