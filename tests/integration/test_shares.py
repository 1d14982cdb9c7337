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
from delaybox.core.errors import PartAway
from delaybox.core.lane import lane_of
from delaybox.core.queue import LiveRules, QueueRules
from delaybox.core.shares import Part
from delaybox.core.task import NewTask, Priority, TaskType
from delaybox.engine import shares
from delaybox.engine.asks import ITEMS, ROUND, Ask
from delaybox.engine.clock_estimate import RedisClock
from delaybox.engine.due_tracker import Tracker
from delaybox.engine.engine import Engine
from delaybox.engine.guest import Guest
from delaybox.engine.options import EngineOptions
from delaybox.engine.shares import Chooser
from delaybox.service.rules import Rules
from delaybox.store import looks
from delaybox.store.fsck import fsck
from delaybox.store.loader import ScriptCall
from delaybox.store.record import draft
from delaybox.store.replies import ClaimLimits
from delaybox.store.servers import Servers
from delaybox.store.store import Batch, Store, read_claim
from tests.engines import until
from tests.takers import Collecting


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


def call(queue: str = "default", **parts: Any) -> NewTask:
    return NewTask(type=TaskType.WORKER, queue=queue, name="f", **parts)


async def add(store: Store, partition: int, *tasks: NewTask) -> None:
    for at in range(0, len(tasks), 500):
        (answers,) = await store.schedule([Batch(partition, [draft(t) for t in tasks[at : at + 500]])])
        assert not isinstance(answers, BaseException), answers


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


@pytest.fixture
def surveys(store: Store, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The partitions that takers looked at to decide what they claim, in order."""
    sent: list[str] = []
    really = store.runner.run_many

    async def run_many(calls: Sequence[ScriptCall]) -> list[Any]:
        sent.extend(one.tag for one in calls if one.script == "survey")
        return await really(calls)

    monkeypatch.setattr(store.runner, "run_many", run_many)
    return sent


@pytest.fixture
def asks_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without rules a look counts for ever, and each decision asks what stands in front of it."""
    monkeypatch.setattr(shares, "_FRESH_MS", -1.0)
    monkeypatch.setattr(shares, "_PLAIN_MS", 1e9)


async def chosen(chooser: Chooser, slots: int) -> dict[int, Part] | None:
    """What to claim from the first two partitions."""
    lane = lane_of(TaskType.WORKER, "*", "f")
    return await chooser.parts([0, 1], lambda: slots, 250, TaskType.WORKER.value, lambda _: (lane,))


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
    monkeypatch.setattr(shares, "_FRESH_MS", 1e9)
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
    monkeypatch.setattr(shares, "_FRESH_MS", 1.0)
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


@pytest.mark.parametrize("served", ["default", "mail"])
async def test_a_critical_task_is_found_before_the_next_look(
    store: Store, monkeypatch: pytest.MonkeyPatch, served: str
) -> None:
    looked, asked = list[int](), list[int]()
    chooser = Chooser(store, LiveRules(), guest=True)
    look, ask = chooser._look, looks.reachable

    async def counted_look(partitions: Sequence[int], *how: Any) -> Any:
        looked.extend(partitions)
        return await look(partitions, *how)

    async def counted_ask(store: Store, partitions: Sequence[int], of: Any) -> Any:
        asked.extend(partitions)
        return await ask(store, partitions, of)

    for name in ("_FRESH_MS", "_PLAIN_MS"):
        monkeypatch.setattr(shares, name, 1e9)
    monkeypatch.setattr(shares, "_CRITICAL_MS", -1.0)
    monkeypatch.setattr(shares, "reachable", counted_ask)
    monkeypatch.setattr(chooser, "_look", counted_look)

    async def one_more() -> dict[int, Part] | None:
        lane = lane_of(TaskType.WORKER, served, "f")
        return await chooser.parts([0, 1, 2], lambda: 1, 250, TaskType.WORKER.value, lambda _: (lane,))

    for p in range(3):
        await add(store, p, *(call(served) for _ in range(20)))
    chooser.press([0, 1, 2])
    assert sum(part.others for part in (await one_more() or {}).values()) == 1
    assert sum(part.others for part in (await one_more() or {}).values()) == 1
    assert (looked, asked) == ([0, 1, 2], []), "that there is no critical task anywhere one command says"
    await add(store, 1, call(priority=Priority.CRITICAL))
    for _ in range(2):
        parts = await one_more()
        assert parts is not None
        if served == "default":
            assert parts == {1: Part(critical=1)}
        else:
            assert sum(part.critical for part in parts.values()) == 0, "another one serves it"
    # That it is another's is found out once.
    assert looked == [0, 1, 2, 1, 1] if served == "default" else [0, 1, 2, 1]
    assert asked == [0, 1, 2, 0, 1, 2]


@pytest.mark.usefixtures("asks_each_time")
async def test_a_critical_task_that_a_claim_made_ready_is_found_before_the_next_look(
    store: Store, surveys: list[str]
) -> None:
    chooser = Chooser(store, LiveRules(), guest=False)

    async def one_more() -> dict[int, Part] | None:
        return await chooser.parts([0, 1], lambda: 1, 250, "s", lambda _: ())

    def command(**parts: Any) -> NewTask:
        return NewTask(type=TaskType.SHELL_CMD, queue="default", payload=b"true", **parts)

    for p in (0, 1):
        await add(store, p, *(command() for _ in range(20)))
    chooser.press([0, 1])
    assert await one_more()
    assert surveys == [store.tags[0], store.tags[1]]
    await add(store, 1, command(priority=Priority.CRITICAL))
    # A time keeper also claims where it has planned nothing.
    (reply,) = await store.runner.run_many([store.claim_call(1, b"l" * 16, ClaimLimits(slots=0, types="s"))])
    assert read_claim(reply).promoted
    assert await one_more() == {1: Part(critical=1)}
    assert surveys[2:] == [store.tags[1]]


@pytest.mark.usefixtures("asks_each_time")
async def test_while_all_that_waits_is_ready_one_command_says_that_nothing_is_in_front(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    chooser = Chooser(store, LiveRules(), guest=False)
    sent: list[int] = []
    really = store.servers.replies

    async def replies(commands: Sequence[Any]) -> list[Any]:
        sent.append(len(commands))
        return await really(commands)

    monkeypatch.setattr(store.servers, "replies", replies)

    def command(**parts: Any) -> NewTask:
        return NewTask(type=TaskType.SHELL_CMD, queue="default", payload=b"true", **parts)

    for p in (0, 1):
        await add(store, p, *(command() for _ in range(20)))
        await store.runner.run_many([store.claim_call(p, bytes([p]) * 16, ClaimLimits(slots=0, types="s"))])

    async def one_more() -> dict[int, Part] | None:
        return await chooser.parts([0, 1], lambda: 1, 250, "s", lambda _: ())

    chooser.press([0, 1])
    for _ in range(4):
        assert await one_more()
    # The first decision follows a look.
    assert sent == [1 + 2 * 5, 1, 1]
    await add(store, 1, command(priority=Priority.CRITICAL))
    assert await one_more() == {1: Part(critical=1)}
    assert sent == [1 + 2 * 5, 1, 1, 1, 1 + 2 * 5]


async def test_beside_a_claim_nothing_is_asked_that_would_wait_for_its_end(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a thousand tasks in each claim the next one came 17 ms later, and the server had nothing to do meanwhile."""
    for name in ("_FRESH_MS", "_CRITICAL_MS"):
        monkeypatch.setattr(shares, name, -1.0)
    monkeypatch.setattr(shares, "_UNDER_WAY_MS", 1e9)
    chooser, asked = Chooser(store, LiveRules(), guest=True), list[int]()
    really = chooser._find_earlier

    async def find_earlier(due: Sequence[int], priorities: range, *how: Any) -> None:
        asked.append(len(priorities))
        await really(due, priorities, *how)

    monkeypatch.setattr(chooser, "_find_earlier", find_earlier)

    async def one_more(*, under_way: bool) -> dict[int, Part] | None:
        lanes = (lane_of(TaskType.WORKER, "default", "f"),)
        return await chooser.parts([0, 1], lambda: 1, 250, "w", lambda _: lanes, under_way=under_way)

    for p in (0, 1):
        await add(store, p, *(call() for _ in range(20)))
    chooser.press([0, 1])
    for under_way in (False, True, True, False, True):
        assert await one_more(under_way=under_way)
    # The first decision follows a look.
    assert asked == [4]


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


@pytest.mark.usefixtures("asks_each_time")
async def test_a_partition_that_moves_hides_no_critical_task_of_others(
    store: Store, surveys: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    chooser = Chooser(store, LiveRules(), guest=True)
    for p in (0, 1):
        await add(store, p, *(call() for _ in range(20)))
    chooser.press([0, 1])
    assert await chosen(chooser, 1)
    await add(store, 1, call(priority=Priority.CRITICAL))
    really = store.servers.replies

    async def replies(commands: Sequence[Any]) -> list[Any]:
        found = await really(commands)
        moving = store.tags[0] + ":"
        return [
            PartAway("it moves") if len(c) > 1 and str(c[1]).startswith(moving) else r
            for c, r in zip(commands, found, strict=True)
        ]

    monkeypatch.setattr(store.servers, "replies", replies)
    assert await chosen(chooser, 1) == {1: Part(critical=1)}
