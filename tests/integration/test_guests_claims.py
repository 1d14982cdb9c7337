"""The claims of guests, which wait to be called: when they look, and what one claim spares the others of a process."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest
from redis.asyncio import Redis

from delaybox.core.errors import StoreUnavailable
from delaybox.core.lane import lane_of
from delaybox.core.task import NewTask, Priority, TaskType
from delaybox.engine import spared_claims
from delaybox.engine.asks import UNTIL_CALLED
from delaybox.engine.clock_estimate import RedisClock
from delaybox.engine.due_tracker import Tracker
from delaybox.engine.engine import Engine
from delaybox.engine.loops import Loop
from delaybox.engine.options import EngineOptions
from delaybox.engine.spared_claims import SparedClaims
from delaybox.store import keys
from delaybox.store.loader import ScriptCall
from delaybox.store.record import draft
from delaybox.store.servers import Servers
from delaybox.store.store import Batch, Store
from tests.engines import until
from tests.lab import Lab
from tests.takers import Collecting

POLL_MS = 100
GUEST = EngineOptions(node_id="test", clock=False, channel="", poll_ms=POLL_MS)


class Takes(Collecting):
    """A taker of WORKER tasks of one function."""

    types = "w"

    def __init__(self, name: str) -> None:
        super().__init__()
        self.lane = lane_of(TaskType.WORKER, "default", name)

    def lanes_at(self, partition: int, *, all_: bool) -> tuple[bytes, ...]:
        return (self.lane,)

    async def has(self, count: int) -> None:
        """Returns when so many tasks came."""
        await until(lambda: len(self.got) == count)


@contextlib.asynccontextmanager
async def stepping(*trackers: Tracker) -> AsyncIterator[None]:
    loops = [Loop("tracker", tracker.step) for tracker in trackers]
    for loop in loops:
        loop.start()
    try:
        yield
    finally:
        for tracker, loop in zip(trackers, loops, strict=True):
            await loop.stop()
            await tracker.finish(1.0)
            tracker.close()


async def add(store: Store, name: str, *, due_ms: int | None = None) -> bytes:
    task = NewTask(type=TaskType.WORKER, name=name, due_ms=due_ms)
    (answers,) = await store.schedule([Batch(0, [draft(task)])])
    assert not isinstance(answers, BaseException), answers
    return answers[0].task_id


async def test_what_a_claim_promised_is_kept_by_a_taker_that_waits_to_be_called_since(
    client: Redis, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing announces what is due after the promised look, so that look must come."""
    store = await Store.open(Servers(client), prefix=prefix, partitions=1)
    taker = Takes("send")
    tracker = Tracker(store, taker, GUEST, RedisClock())
    run_many, added = store.runner.run_many, list[bytes]()

    async def called_meanwhile(calls: Sequence[ScriptCall]) -> Sequence[Any]:
        replies = await run_many(calls)
        if calls[0].script == "claim" and not added:
            tracker.wait_to_be_called()
            due_ms = await store.ping() + 2 * POLL_MS
            added.append(await add(store, "send", due_ms=due_ms))
            promised: Any = await client.hget(keys.clock(store.tags[0]), "wake:w")
            assert int(promised) < due_ms
        return replies

    monkeypatch.setattr(store.runner, "run_many", called_meanwhile)
    async with stepping(tracker):
        await until(lambda: taker.got != [])
    assert taker.got == added


async def test_a_call_that_meets_a_claim_which_asks_for_all_room_is_answered_after_it(
    client: Redis, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It passed for one that meets no room, and nothing told of that room: it was never taken by anybody."""
    store = await Store.open(Servers(client), prefix=prefix, partitions=2)
    taker = Takes("send")
    taker.free = 10
    tracker = Tracker(store, taker, GUEST, RedisClock())
    tracker.wait_to_be_called()
    tracker.keep(frozenset({1}))
    waiting = await add(store, "send")
    run_many, called = store.runner.run_many, list[str]()

    async def called_meanwhile(calls: Sequence[ScriptCall]) -> Sequence[Any]:
        if calls[0].script == "claim" and not called:
            called.append(calls[0].tag)
            tracker.call(0)
        return await run_many(calls)

    monkeypatch.setattr(store.runner, "run_many", called_meanwhile)
    async with stepping(tracker):
        await until(lambda: taker.got != [])
    assert taker.got == [waiting] and called == [store.tags[1]]


async def test_who_claims_nothing_knows_the_servers_clock_all_the_same(
    client: Redis, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first task after hours of rest is as punctual as others, though the clocks drifted apart meanwhile."""
    store = await Store.open(Servers(client), prefix=prefix, partitions=1)
    glance, ahead_ms = store.glance, 3_600_000

    async def drifted() -> int:
        return await glance() + ahead_ms

    monkeypatch.setattr(store, "glance", drifted)
    engine = Engine(store, {}, GUEST, hosts=True)
    await engine.start()
    try:
        await until(lambda: engine._clocks.now_ms(0) > time.time() * 1000 + ahead_ms / 2)
    finally:
        await engine.stop(0.0)


async def test_a_guests_claim_shows_whether_worker_tasks_of_any_lane_are_left(lab: Lab) -> None:
    def send(name: str = "send", **parts: Any) -> NewTask:
        return NewTask(type=TaskType.WORKER, name=name, **parts)

    async def clear(**limits: Any) -> bool:
        return (await lab.claim(**{"types": "w", "lanes": (Takes("send").lane,), "guest": True, **limits})).clear

    assert await clear(), "nothing there"
    await lab.add(send())
    assert await clear(), "one task"
    await lab.add(send(), send(priority=Priority.CRITICAL), NewTask(), send(delay_ms=1_000))
    assert await clear(), "several, and what is of other types or due later"
    await lab.add(send(), send())
    assert not await clear(slots=2), "it cannot know whether there were more than it had slots for"
    await lab.add(send(), send("other"))
    assert not await clear(), "another function's is left"
    await lab.move(2_000)
    assert not await clear() and not await clear(), "that is ready now"
    await lab.claim()
    assert await clear(types="w", lanes=()), "of all lanes"
    assert not await clear(guest=False) and not await clear(types="sw") and not await clear(fresh_ms=1_000)


class Counting:
    """The claims of each function's taker."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        self._run_many = store.runner.run_many
        self.count: Counter[bytes] = Counter()
        self.held: dict[bytes, asyncio.Event] = {}
        """Answers of claims for a lane that wait for this."""
        self.fails: set[bytes] = set()
        self.trackers: Sequence[Tracker] = ()
        monkeypatch.setattr(store.runner, "run_many", self._counted)

    async def _counted(self, calls: Sequence[ScriptCall]) -> Sequence[Any]:
        lane = calls[0].args[-1] if calls[0].script == "claim" else b""
        self.count[lane] += 1
        if lane in self.fails:
            raise StoreUnavailable("cut off")
        replies = await self._run_many(calls)
        if lane in self.held:
            await self.held[lane].wait()
        return replies


@contextlib.asynccontextmanager
async def two_guests(
    client: Redis, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Store, Counting, Takes, Takes, Callable[[], None]]]:
    """Two takers of one process that wait to be called, asleep; and what a message to both does."""
    store = await Store.open(Servers(client), prefix=prefix, partitions=1)
    counting, clock, beside = Counting(store, monkeypatch), RedisClock(), SparedClaims()
    one, other = Takes("one"), Takes("other")
    takers = {taker: Tracker(store, taker, GUEST, clock, beside=beside) for taker in (one, other)}

    counting.trackers = list(takers.values())

    def kick() -> None:
        for taker in beside.first(takers):
            takers[taker].kick(0, 1.0)

    for tracker in takers.values():
        tracker.wait_to_be_called()
    async with stepping(*takers.values()):
        await until(lambda: all(t._asleep_until == UNTIL_CALLED for t in takers.values()))
        counting.count.clear()
        yield store, counting, one, other, kick


async def test_a_claim_that_leaves_nothing_spares_the_other_guest_its_own(
    client: Redis, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two_guests(client, prefix, monkeypatch) as (store, counting, one, other, kick):
        for count in range(1, 11):
            await add(store, "one")
            kick()
            await one.has(count)
        assert (counting.count[one.lane], counting.count[other.lane]) == (10, 0)
        await add(store, "other")
        kick()
        await until(lambda: len(other.got) == 1)
        # From now on it is the other one that claims.
        for count in range(2, 11):
            await add(store, "other")
            kick()
            await other.has(count)
        assert (counting.count[one.lane], counting.count[other.lane]) == (11, 10)


async def test_what_is_due_later_is_claimed_by_one_of_two_guests(
    client: Redis, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two_guests(client, prefix, monkeypatch) as (store, counting, one, other, kick):
        await add(store, "one")
        kick()
        await until(lambda: len(one.got) == 1)
        # One after the other: of what comes due while an answer is on its way both may be the first to hear.
        for count in range(2, 10):
            await add(store, "one", due_ms=await store.ping() + 60)
            kick()
            await one.has(count)
        assert counting.count[other.lane] < counting.count[one.lane] / 2


async def test_what_came_due_while_the_favourite_claimed_is_left_to_it(
    client: Redis, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a task a millisecond both knew at the end of each claim of the next one, and both claimed."""
    async with two_guests(client, prefix, monkeypatch) as (store, counting, one, other, kick):
        monkeypatch.setattr(spared_claims, "BEHIND_MS", 300.0)
        await add(store, "one")
        kick()
        await one.has(1)
        for count in range(2, 12, 2):
            answer = counting.held[one.lane] = asyncio.Event()
            due_ms = await store.ping() + 30
            before = counting.count[one.lane]
            await add(store, "one")
            await add(store, "one", due_ms=due_ms)
            kick()
            await until(lambda: counting.count[one.lane] > before)  # noqa: B023 - done before the next round
            while await store.ping() <= due_ms:
                await asyncio.sleep(0.005)
            counting.held.clear()
            answer.set()
            await one.has(count + 1)
        assert counting.count[other.lane] == 0


async def test_what_the_favourite_leaves_waits_for_nothing_but_the_end_of_its_claim(
    client: Redis, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two_guests(client, prefix, monkeypatch) as (store, counting, one, other, kick):
        monkeypatch.setattr(spared_claims, "BEHIND_MS", 3_600_000.0)
        await add(store, "one")
        kick()
        await one.has(1)
        due_ms = await store.ping() + 60
        await add(store, "other", due_ms=due_ms)
        for tracker in counting.trackers:
            tracker.kick(0, float(due_ms))
        await other.has(1)


async def test_a_message_for_the_first_of_several_tasks_is_enough_for_all_members(
    client: Redis, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is due after the promised moment is not announced, and claims announce nothing: who waited for that moment
    claims then, and learns of the next."""
    store = await Store.open(Servers(client), prefix=prefix, partitions=1)
    takers = {name: Takes(name) for name in ("one", "other")}
    # Each in a process of its own: no claim spares the other one.
    trackers = [Tracker(store, taker, GUEST, RedisClock()) for taker in takers.values()]
    for tracker in trackers:
        tracker.wait_to_be_called()
    async with stepping(*trackers):
        await until(lambda: all(t._asleep_until == UNTIL_CALLED for t in trackers))
        first = await store.ping() + 100
        for n in range(40):
            await add(store, "other" if n % 4 == 3 else "one", due_ms=first + 2 * n)
        for tracker in trackers:
            tracker.kick(0, float(first))
        await takers["one"].has(30)
        await takers["other"].has(10)


async def test_what_is_announced_while_a_claim_is_under_way_is_not_taken_for_seen(
    client: Redis, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two_guests(client, prefix, monkeypatch) as (store, counting, one, other, kick):
        counting.held[one.lane] = asyncio.Event()
        await add(store, "one")
        kick()
        await until(lambda: counting.count[one.lane] == 1)
        # The claim has been carried out when a script that was sent after it is answered.
        await add(store, "other")
        kick()
        await until(lambda: len(other.got) == 1)
        assert one.got == []
        await add(store, "other")
        counting.held.pop(one.lane).set()
        await until(lambda: len(one.got) == 1)
        kick()
        await until(lambda: len(other.got) == 2)


async def test_a_claim_that_fails_spares_nobody(client: Redis, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with two_guests(client, prefix, monkeypatch) as (store, counting, one, other, kick):
        counting.fails.add(one.lane)
        await add(store, "other")
        kick()
        await until(lambda: len(other.got) == 1)
        assert counting.count[one.lane] >= 1
        counting.fails.clear()
        await add(store, "one")
        await until(lambda: len(one.got) == 1)
