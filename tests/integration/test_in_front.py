"""How a taker finds tasks that came due after its look and stand in front of what it saw."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from redis.asyncio import Redis

from delaybox.core.errors import PartAway
from delaybox.core.lane import lane_of
from delaybox.core.queue import LiveRules
from delaybox.core.shares import Part
from delaybox.core.task import NewTask, Priority, TaskType
from delaybox.engine import in_front, shares
from delaybox.engine.asks import ITEMS, Ask
from delaybox.engine.clock_estimate import RedisClock
from delaybox.engine.due_tracker import Tracker
from delaybox.engine.loops import Loop
from delaybox.engine.options import EngineOptions
from delaybox.engine.shares import Chooser
from delaybox.store import looks
from delaybox.store.loader import ScriptCall
from delaybox.store.replies import ClaimLimits
from delaybox.store.servers import Servers
from delaybox.store.store import Store, read_claim
from tests.engines import until
from tests.takers import Collecting, add, asks_each_time, call, chosen, looks_count, surveys
from tests.waiting import PATIENCE_S

__all__ = ["asks_each_time", "surveys"]  # fixtures


@pytest.fixture
async def store(client: Redis, prefix: str) -> Store:
    return await Store.open(Servers(client), prefix=prefix, partitions=8)


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

    looks_count(monkeypatch, 1e9)
    monkeypatch.setattr(shares, "_PLAIN_MS", 1e9)
    monkeypatch.setattr(in_front, "CRITICAL_MS", -1.0)
    monkeypatch.setattr(in_front, "reachable", counted_ask)
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


@pytest.mark.parametrize("under_way", [False, True], ids=["alone", "beside a claim"])
@pytest.mark.parametrize("step_ms", [3.0, 10.5, 21.0])
async def test_a_critical_task_is_found_soon_where_two_halves_take_turns(
    store: Store, monkeypatch: pytest.MonkeyPatch, under_way: bool, step_ms: float
) -> None:
    """Where claims last, a decision is made for one partition while a claim from the other one is under way. Only the
    partitions of that decision were asked, every 40 ms: always the same one, and the other one's critical task waited
    for up to 651 ms."""
    now = 1e6
    for module in (shares, in_front):
        monkeypatch.setattr(module, "local_ms", lambda: now)
    chooser, lanes = Chooser(store, LiveRules(), guest=True), (lane_of(TaskType.WORKER, "default", "f"),)

    async def critical(due: list[int]) -> int:
        parts = await chooser.parts(due, lambda: 64, 250, "w", lambda _: lanes, under_way=under_way)
        while (asking := chooser._in_front._asking) is not None and not asking.done():
            await asyncio.wait({asking})
        return sum(part.critical for part in (parts or {}).values())

    for p in (0, 1):
        await add(store, p, *(call() for _ in range(2_000)))
    chooser.press([0, 1])
    assert not await critical([0, 1])
    for p in (0, 1):
        await add(store, p, call(priority=Priority.CRITICAL))
    chosen, began = list[float](), now
    while len(chosen) < 2 and now < began + 1_000:
        now += step_ms
        chosen += [now - began] * await critical([round((now - began) / step_ms) % 2])
    # Once it is due to be asked, the answer, and the turn of the partition.
    assert max(chosen) <= 5.0 + 4 * step_ms and len(chosen) == 2


async def test_no_decision_beside_a_claim_waits_for_an_answer(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a thousand tasks in each claim the next one came 17 ms later, and the server had nothing to do meanwhile."""
    monkeypatch.setattr(in_front, "CRITICAL_MS", -1.0)
    monkeypatch.setattr(in_front, "FRESH_MS", 1e9)
    answers, asked = asyncio.Event(), list[int]()
    really = store.servers.ask

    async def ask(*command: str) -> Any:
        asked.append(len(command))
        await answers.wait()
        return await really(*command)

    monkeypatch.setattr(store.servers, "ask", ask)
    chooser, lanes = Chooser(store, LiveRules(), guest=True), (lane_of(TaskType.WORKER, "default", "f"),)

    async def critical(*, under_way: bool = True) -> int:
        parts = await chooser.parts([0, 1], lambda: 1, 250, "w", lambda _: lanes, under_way=under_way)
        assert parts
        return sum(part.critical for part in parts.values())

    for p in (0, 1):
        await add(store, p, *(call() for _ in range(20)))
    chooser.press([0, 1])
    await critical()
    await add(store, 1, call(priority=Priority.CRITICAL))
    for _ in range(3):
        assert not await critical()
        await asyncio.sleep(0)
    assert len(asked) == 1, "one question at a time"
    answers.set()
    # The first decision that has no claim beside it waits for the answer.
    assert await critical(under_way=False) == 1
    monkeypatch.setattr(store.servers, "ask", really)
    await add(store, 0, call(priority=Priority.CRITICAL))
    assert not await critical()
    question = chooser._in_front._asking
    assert question is not None
    await question
    assert await critical() == 1
    await critical()
    chooser.close()


async def test_a_tracker_decides_beside_its_claim_without_an_answer(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_front, "CRITICAL_MS", -1.0)
    taker = Collecting()
    taker.types, taker.free = TaskType.WORKER.value, ITEMS
    tracker = Tracker(store, taker, EngineOptions(node_id="test", clock=False, channel=""), RedisClock())
    answers, claims, sent = asyncio.Event(), asyncio.Event(), list[int]()
    send, ask = tracker._send, store.servers.ask

    async def held(asks: Sequence[Ask], *how: Any) -> None:
        sent.append(sum(one.limits.slots for one in asks))
        await claims.wait()
        await send(asks, *how)

    async def unanswered(*command: str) -> Any:
        await answers.wait()
        return await ask(*command)

    monkeypatch.setattr(tracker, "_send", held)
    monkeypatch.setattr(store.servers, "ask", unanswered)
    for p in range(store.partitions):
        await add(store, p, *(call() for _ in range(ITEMS)))
    tracker._chooser.press(range(store.partitions))
    tracker._deep.update(range(store.partitions))
    try:
        await tracker.step()
        taker.free += ITEMS
        async with asyncio.timeout(PATIENCE_S):
            await tracker.step()
        assert sent == [ITEMS, ITEMS]
    finally:
        answers.set()
        claims.set()
        await tracker.finish(5.0)
        tracker.close()


async def test_a_task_that_comes_between_a_look_for_nothing_and_its_claim_is_found(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The claim promised to look again after a second, so nobody was called to the task that it had not seen."""
    taker, came = Collecting(), asyncio.Event()
    taker.types, taker.free = TaskType.WORKER.value, 10
    options = EngineOptions(node_id="test", clock=False, channel="", poll_ms=60_000)
    tracker = Tracker(store, taker, options, RedisClock())
    really = store.runner.run_many

    async def run_many(calls: Sequence[ScriptCall]) -> Sequence[Any]:
        if not came.is_set() and all(one.script == "claim" for one in calls):
            assert len(calls) == 2, "one of them for a partition in which a look found nothing"
            came.set()
            await add(store, 0, call(priority=Priority.CRITICAL))
        return await really(calls)

    monkeypatch.setattr(store.runner, "run_many", run_many)
    await add(store, 1, *(call() for _ in range(20)))
    tracker.keep(frozenset({0, 1}))
    tracker._chooser.press([0, 1])
    loop = Loop("tracker", tracker.step)
    loop.start()
    try:
        await until(lambda: len(taker.got) == 21)
    finally:
        await loop.stop()
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
