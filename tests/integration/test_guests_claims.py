"""The claims of guests, which wait to be called: when they look, and what one claim spares the others of a process."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import pytest
from redis.asyncio import Redis

from delaybox.core.lane import lane_of
from delaybox.core.task import NewTask, TaskType
from delaybox.engine.clock_estimate import RedisClock
from delaybox.engine.due_tracker import Tracker
from delaybox.engine.engine import Engine
from delaybox.engine.loops import Loop
from delaybox.engine.options import EngineOptions
from delaybox.store import keys
from delaybox.store.loader import ScriptCall
from delaybox.store.record import draft
from delaybox.store.servers import Servers
from delaybox.store.store import Batch, Claimed, Store
from tests.engines import until

POLL_MS = 100
GUEST = EngineOptions(node_id="test", clock=False, channel="", poll_ms=POLL_MS)


class Takes:
    """A taker of WORKER tasks of one function."""

    types, in_flight = "w", 0

    def __init__(self, name: str) -> None:
        self.lane = lane_of(TaskType.WORKER, "default", name)
        self.free = 1_000
        self.got: list[bytes] = []

    def lanes_at(self, partition: int, *, all_: bool) -> tuple[bytes, ...]:
        return (self.lane,)

    def waits(self, partition: int, queues: Mapping[bytes, bool]) -> None: ...

    def names(self) -> str:
        return ""

    def fired_in_place(self, partition: int, claimed: Claimed) -> None: ...

    def met(self, lanes: Sequence[bytes]) -> bool:
        return False

    def full(self, partitions: Sequence[int]) -> None: ...

    def accept(self, partition: int, lease_id: bytes, leased: Sequence[bytes]) -> list[float]:
        self.got += leased[::2]
        return [0.0] * (len(leased) // 2)


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
