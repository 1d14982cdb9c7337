"""What comes due while a claim is under way elsewhere does not wait for the answer of that."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from redis.asyncio import Redis

from delaybox.core.errors import StoreUnavailable
from delaybox.core.task import NewTask
from delaybox.engine.clock_estimate import RedisClock
from delaybox.engine.due_tracker import Tracker
from delaybox.engine.loops import Loop
from delaybox.engine.options import EngineOptions
from delaybox.store.loader import ScriptCall
from delaybox.store.record import draft
from delaybox.store.servers import Servers
from delaybox.store.store import Batch, Store
from tests.engines import until
from tests.takers import Collecting

PARTITIONS = 4
POLL_MS = 600_000
"""Nothing is found by chance."""


class Held:
    """Answers of claims from one partition after the other wait, until they are let go."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        self._store = store
        self._run_many = store.runner.run_many
        self.under_way: list[int] = []
        """Partitions of claims that are carried out, and whose answers wait."""
        self.most = 0
        self.holds: set[int] = set()
        self.fails: set[int] = set()
        self._go = asyncio.Event()
        monkeypatch.setattr(store.runner, "run_many", self._held)

    async def _held(self, calls: Sequence[ScriptCall]) -> Sequence[Any]:
        replies = await self._run_many(calls)
        claimed = [self._store.tags.index(call.tag) for call in calls if call.script == "claim"]
        if not self.fails.isdisjoint(claimed):
            self.fails.clear()
            raise StoreUnavailable("cut off")
        if not self.holds.isdisjoint(claimed):
            self.under_way += claimed
            self.most = max(self.most, len(self.under_way))
            await self._go.wait()
        return replies

    def let_go(self) -> None:
        self.holds.clear()
        self.under_way.clear()
        self._go.set()


async def add(store: Store, partition: int, *, due_ms: int | None = None) -> bytes:
    (answers,) = await store.schedule([Batch(partition, [draft(NewTask(due_ms=due_ms))])])
    assert not isinstance(answers, BaseException), answers
    return answers[0].task_id


class Rig:
    """A tracker that waits for a claim from partition 0."""

    def __init__(self, store: Store, taker: Collecting, tracker: Tracker, held: Held) -> None:
        self.store, self.taker, self.tracker, self.held = store, taker, tracker, held

    async def come(self, partition: int) -> bytes:
        """A task that is due now, and announced."""
        task_id = await add(self.store, partition)
        self.tracker.kick(partition)
        return task_id


@contextlib.asynccontextmanager
async def waiting(
    client: Redis, prefix: str, monkeypatch: pytest.MonkeyPatch, *, free: int = 1_000
) -> AsyncIterator[Rig]:
    store = await Store.open(Servers(client), prefix=prefix, partitions=PARTITIONS)
    taker = Collecting()
    taker.types, taker.free = "p", free
    options = EngineOptions(node_id="test", channel="", poll_ms=POLL_MS)
    held = Held(store, monkeypatch)
    tracker = Tracker(store, taker, options, RedisClock())
    loop = Loop("tracker", tracker.step)
    loop.start()
    try:
        # It looks everywhere when it begins.
        await until(lambda: tracker._asleep_until > 0)
        held.holds.add(0)
        rig = Rig(store, taker, tracker, held)
        await rig.come(0)
        await until(lambda: held.under_way == [0])
        yield rig
    finally:
        held.let_go()
        await loop.stop()
        await tracker.finish(1.0)
        tracker.close()


async def test_what_is_announced_meanwhile_is_claimed_beside_it(
    client: Redis, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with waiting(client, prefix, monkeypatch) as rig:
        came: list[bytes] = []
        for partition in (1, 2, 1):
            came.append(await rig.come(partition))
            await until(lambda: rig.taker.got == came)
        assert rig.held.under_way == [0]


async def test_what_comes_due_meanwhile_is_claimed_beside_it(
    client: Redis, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with waiting(client, prefix, monkeypatch) as rig:
        task_id = await add(rig.store, 1, due_ms=await rig.store.ping() + 50)
        rig.tracker.kick(1, await rig.store.ping() + 50)
        await until(lambda: rig.taker.got == [task_id])
        assert rig.held.under_way == [0]


async def test_nor_do_those_behind_the_first_of_many_wait_for_its_answer(
    client: Redis, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first claim brings eight of them and says that more may be due: the rest waited for the claim elsewhere."""
    async with waiting(client, prefix, monkeypatch) as rig:
        (answers,) = await rig.store.schedule([Batch(1, [draft(NewTask()) for _ in range(9)])])
        assert not isinstance(answers, BaseException), answers
        rig.tracker.kick(1)
        await until(lambda: len(rig.taker.got) == 9)
        assert rig.held.under_way == [0]


async def test_no_more_than_one_is_beside_it(client: Redis, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with waiting(client, prefix, monkeypatch) as rig:
        rig.held.holds.add(1)
        await rig.come(1)
        await until(lambda: rig.held.under_way == [0, 1])
        last = await rig.come(2)
        # The claim would have been sent before an answer of a script that is sent now.
        await rig.store.ping()
        await rig.store.ping()
        assert rig.held.most == 2 and rig.taker.got == []
        rig.held.let_go()
        await until(lambda: len(rig.taker.got) == 3)
        assert last in rig.taker.got


async def test_a_claim_that_may_take_all_places_is_waited_for(
    client: Redis, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with waiting(client, prefix, monkeypatch, free=10) as rig:
        task_id = await rig.come(1)
        await rig.store.ping()
        assert rig.taker.got == []
        rig.held.let_go()
        await until(lambda: task_id in rig.taker.got)


async def test_one_that_fails_beside_it_is_sent_again(
    client: Redis, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with waiting(client, prefix, monkeypatch) as rig:
        rig.held.fails.add(1)
        task_id = await rig.come(1)
        await until(lambda: not rig.held.fails)
        rig.held.let_go()
        rig.tracker.kick(1)
        await until(lambda: task_id in rig.taker.got)
        assert rig.taker.got.count(task_id) == 1
