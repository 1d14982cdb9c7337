"""The order of choice of a taker that has fewer slots than work, over all partitions."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest
from redis.asyncio import Redis

from delaybox.core.delivery import DONE, Delivery, Report
from delaybox.core.lane import lane_of
from delaybox.core.queue import LiveRules, QueueRules
from delaybox.core.shares import Part
from delaybox.core.task import Priority, TaskType
from delaybox.engine.asks import ITEMS, ROUND, Ask
from delaybox.engine.clock_estimate import RedisClock
from delaybox.engine.due_tracker import Tracker
from delaybox.engine.engine import Engine
from delaybox.engine.guest import Guest
from delaybox.engine.options import EngineOptions
from delaybox.engine.shares import Chooser
from delaybox.service.rules import Rules
from delaybox.store.fsck import fsck
from delaybox.store.loader import ScriptCall
from delaybox.store.replies import ClaimLimits
from delaybox.store.servers import Servers
from delaybox.store.store import Store
from tests.engines import until
from tests.takers import Collecting, add, asks_each_time, call, chosen, looks_count, surveys

__all__ = ["asks_each_time", "surveys"]  # fixtures


class Places:
    """A target with few places, each of which is free again in a moment. ``got``: what it was given, in order."""

    def __init__(self, places: int) -> None:
        self.free = places
        self.got: list[Delivery] = []
        self.guest: Guest | None = None
        self.open = asyncio.Event()
        self.open.set()

    def room(self) -> int:
        return self.free

    async def deliver(self, batch: Sequence[Delivery], report: Report) -> None:
        self.got += batch
        self.free -= len(batch)
        await self.open.wait()
        await asyncio.sleep(0.001)
        report(batch, DONE)
        self.free += len(batch)
        if self.guest is not None:
            self.guest.more_room()


@contextlib.asynccontextmanager
async def taking(store: Store, places: Places, queues: Sequence[str] = ("*",)) -> AsyncIterator[Engine]:
    rules = LiveRules()
    engine = Engine(store, {}, EngineOptions(node_id="test", clock=False), hosts=True, rules=rules)
    await engine.start()
    try:
        await until(lambda: rules.version >= 0)
        lanes = [lane_of(TaskType.WORKER, queue, "f") for queue in queues]
        places.guest = engine.admit(lanes=lanes, target=places, room=places.room)
        yield engine
    finally:
        await engine.stop(2.0)


def counted(got: Sequence[Delivery], what: Callable[[Delivery], Any]) -> Counter[Any]:
    return Counter(what(d) for d in got)


@pytest.fixture
async def store(client: Redis, prefix: str) -> Store:
    return await Store.open(Servers(client), prefix=prefix, partitions=8)


def queue_of(d: Delivery) -> str:
    return d.lane.decode()[1:].partition(":")[0]


async def test_queues_share_by_weight_however_their_tasks_lie(store: Store) -> None:
    weights = {"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0, "idle": 50.0}
    for queue, weight in weights.items():
        await Rules(store).set(queue, QueueRules(weight=weight))
    for p in range(8):
        for queue in "bcd":
            await add(store, p, *(call(queue) for _ in range(80)))
    # All of these lie in one partition.
    await add(store, 0, *(call("a") for _ in range(400)))
    places = Places(40)
    async with taking(store, places):
        await until(lambda: len(places.got) >= 1_000)
    shares = counted(places.got[:1_000], queue_of)
    for n, queue in enumerate("abcd", 1):
        # The last round of claims may have come in part.
        assert abs(shares[queue] - 100 * n) <= 10, shares
    assert (await fsck(store)).problems == []


async def test_ten_queues_share_by_weight_though_some_lie_behind_the_backlogs_of_others(store: Store) -> None:
    weights = {f"q{n}": float(n + 1) for n in range(10)}
    for queue, weight in weights.items():
        await Rules(store).set(queue, QueueRules(weight=weight))
    for n, queue in enumerate(weights):
        # Half of them in one partition, the last ones behind thousands of tasks; the others in three or in all.
        where = ([0], [0], range(8), [1, 2, 3], [0])[n % 5]
        for p in where:
            await add(store, p, *(call(queue) for _ in range(1_500 // len(where))))
    places = Places(100)
    async with taking(store, places):
        # Sixty rounds of the 100 places: what is cut off from the first and the last round counts for little.
        await until(lambda: len(places.got) >= 6_400)
    shares = counted(places.got[400:6_400], queue_of)
    off = {queue: round(100 * shares[queue] / (6_000 * weight / 55) - 100, 1) for queue, weight in weights.items()}
    assert max(map(abs, off.values())) <= 5, off


async def test_a_queue_that_wakes_neither_waits_nor_overtakes(store: Store) -> None:
    await Rules(store).set("woken", QueueRules(weight=1.0))
    for p in range(8):
        await add(store, p, *(call("busy") for _ in range(150)))
    places = Places(20)
    async with taking(store, places):
        await until(lambda: len(places.got) >= 400)
        places.open.clear()
        await until(lambda: not places.room())
        before = len(places.got)
        await add(store, 3, *(call("woken") for _ in range(300)))
        places.open.set()
        await until(lambda: len(places.got) >= before + 400)
    woken = counted(places.got[before + 40 : before + 400], queue_of)["woken"]
    assert 160 <= woken <= 200, woken


async def test_critical_tasks_come_first_over_all_partitions_and_others_keep_their_floor(store: Store) -> None:
    for p in range(8):
        await add(store, p, *(call("others", priority=Priority.LOW) for _ in range(200)))
    await add(store, 5, *(call(priority=Priority.CRITICAL) for _ in range(1_000)))
    places = Places(10)
    async with taking(store, places):
        await until(lambda: len(places.got) >= 1_030)
    others = counted(places.got[20:1_020], queue_of)["others"]
    assert 40 <= others <= 60, others


def gave_too_little(chooser: Chooser, partition: int) -> None:
    """A claim that was to bring ten tasks from there brought two."""
    limits = ClaimLimits(slots=10, types="w", guest=True)
    assert len([*chooser.planned([partition], limits, {partition: Part(others=10)}, lambda _: ())]) == 1
    chooser.gave(partition, 2)


async def test_a_taker_looks_again_only_while_more_waits_than_it_has_slots_for(
    store: Store, surveys: list[str]
) -> None:
    await add(store, 0, *(call() for _ in range(3)))
    chooser = Chooser(store, LiveRules(), guest=True)

    chooser.press([0, 1])
    assert await chosen(chooser, 3) == {0: Part(others=3), 1: Part()}
    # No slot is left, so others may have come meanwhile for which there is none.
    chooser.filled(0)
    assert await chosen(chooser, 4) == {0: Part(others=3), 1: Part()} and len(surveys) == 4
    # One slot is left, so whatever came meanwhile is taken without a choice. In partition 1 nothing was asked for.
    chooser.filled(0)
    chooser.relieve(1)
    assert await chosen(chooser, 4) is None and len(surveys) == 4
    # A claim that nothing was decided for took all that it asked for.
    chooser.filled(0)
    assert await chosen(chooser, 4) == {0: Part(others=3), 1: Part()} and len(surveys) == 6


@pytest.mark.usefixtures("asks_each_time")
async def test_while_a_backlog_lasts_one_look_serves_many_claims_and_a_task_in_front_is_found(
    store: Store, surveys: list[str]
) -> None:
    chooser = Chooser(store, LiveRules(), guest=True)

    async def taken() -> dict[int, int]:
        return {p: part.total for p, part in (await chosen(chooser, 10) or {}).items()}

    for p in (0, 1):
        await add(store, p, *(call(priority=Priority.NORMAL) for _ in range(100)))
    chooser.press([0, 1])
    assert [sum((await taken()).values()) for _ in range(5)] == [10] * 5
    assert surveys == [store.tags[0], store.tags[1]]
    # Its virtual deadline is 8 s earlier than those of the others.
    await add(store, 1, call(priority=Priority.HIGH))
    before = await taken()
    assert surveys[2:] == [store.tags[1]] and before.get(1)
    # Others were faster, so it is looked at again.
    gave_too_little(chooser, 1)
    await taken()
    assert surveys[3:] == [store.tags[1]]


async def test_where_queues_have_rules_a_claim_that_gives_too_little_brings_no_look(
    store: Store, surveys: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limited queue with a backlog gives too little again and again, and each look would be at all partitions."""
    looks_count(monkeypatch, 1e9)
    rules = LiveRules()
    rules.take(1, {"mail": QueueRules(concurrency=5)})
    chooser = Chooser(store, rules, guest=True)
    for p in (0, 1):
        await add(store, p, *(call() for _ in range(100)))
    chooser.press([0, 1])
    assert await chosen(chooser, 10)
    gave_too_little(chooser, 1)
    assert await chosen(chooser, 10)
    assert surveys == [store.tags[0], store.tags[1]]


async def test_where_a_look_finds_nothing_a_claim_says_when_to_come_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No claim was planned there, so it stayed due, and was looked at every 15 ms while work waited elsewhere."""
    looks_count(monkeypatch, 1.0)
    sent: Counter[tuple[str, str]] = Counter()
    really = store.runner.run_many

    async def run_many(calls: Sequence[ScriptCall]) -> list[Any]:
        sent.update((one.script, one.tag) for one in calls)
        return await really(calls)

    monkeypatch.setattr(store.runner, "run_many", run_many)
    await add(store, 0, *(call() for _ in range(400)))
    places = Places(2)
    async with taking(store, places):
        await until(lambda: len(places.got) >= 20)
        for p in range(1, 8):
            assert places.guest is not None
            places.guest.call(p)
        await until(lambda: len(places.got) >= 400)
    for tag in store.tags[1:]:
        assert sent["survey", tag] <= sent["claim", tag] + 1, sent


async def test_what_is_chosen_is_claimed_in_rounds_too(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """All 4,000 that there was room for were claimed in one piece: 30 ms, in which the worker had nothing to do."""
    taker, asked = Collecting(), list[int]()
    taker.types, taker.free = TaskType.WORKER.value, 4_000
    tracker = Tracker(store, taker, EngineOptions(node_id="test", clock=False, channel=""), RedisClock())
    send = tracker._send

    async def counted(asks: Sequence[Ask], *how: Any) -> None:
        asked.append(sum(ask.limits.slots for ask in asks))
        await send(asks, *how)

    monkeypatch.setattr(tracker, "_send", counted)
    for p in range(store.partitions):
        await add(store, p, *(call() for _ in range(ITEMS)))
    tracker._chooser.press(range(store.partitions))
    try:
        await tracker.step()
        assert asked == [ROUND] and len(taker.got) == ROUND < store.partitions * ITEMS
    finally:
        await tracker.finish(5.0)
        tracker.close()
