"""Tasks that are handed out at most once: acked before, never a second time, whatever becomes of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from delaybox.core import ids
from delaybox.core.delivery import DONE, LOST, Delivery, Failed, HandBack, Outcome, Snoozed
from delaybox.core.errors import TaskFinished
from delaybox.core.task import DeliveryMode, NewTask, TaskType, UniqueWhile
from delaybox.service import Service
from delaybox.store.fsck import fsck
from delaybox.store.record import read
from delaybox.store.servers import Servers
from delaybox.store.store import ClaimLimits, Store
from tests.engines import running
from tests.waiting import until_async

ONCE: Any = {"type": TaskType.WORKER, "name": "f", "delivery": DeliveryMode.AT_MOST_ONCE}


class Target:
    """Notes what is still stored of each task at the moment at which it is handed out."""

    def __init__(self, store: Store, outcome: Callable[[Delivery], Outcome]) -> None:
        self.store, self.outcome = store, outcome
        self.got: list[tuple[Delivery, str]] = []
        self.more = asyncio.Event()

    async def deliver(self, batch: Any, report: Any) -> None:
        for d in batch:
            self.got.append((d, (await self.store.get(d.task_id)).place))
            report([d], self.outcome(d))
        self.more.set()

    async def wait_for(self, count: int) -> list[tuple[Delivery, str]]:
        async with asyncio.timeout(60):
            while len(self.got) < count:
                self.more.clear()
                await self.more.wait()
        return self.got


@pytest.fixture
async def store(client: Redis, prefix: str) -> AsyncIterator[Store]:
    opened = await Store.open(Servers(client), prefix=prefix, partitions=1)
    yield opened
    assert (await fsck(opened)).problems == []


OUTCOMES: list[Outcome] = [DONE, Failed("broke"), Failed("no", retryable=False), HandBack(), LOST, Snoozed("later", 1)]


@pytest.mark.parametrize("outcome", OUTCOMES, ids=lambda o: type(o).__name__)
@pytest.mark.parametrize("size", [1, 5_000])
async def test_nothing_is_left_of_it_when_it_is_handed_out(store: Store, outcome: Outcome, size: int) -> None:
    target, service = Target(store, lambda d: outcome if d.once else DONE), Service(store)
    # Two places: a third one is handed out only when these come free.
    async with running(store, {TaskType.WORKER: target}, concurrency=2, poll_ms=50) as engine:
        once = [(await service.submit(NewTask(payload=bytes(size), **ONCE))).task_id for _ in range(3)]
        plain = (await service.submit(NewTask(type=TaskType.WORKER, name="f"))).task_id
        got = await target.wait_for(4)
        assert {d.id: place for d, place in got} == {**dict.fromkeys(once, ""), plain: "lease"}
        for task_id in once:
            with pytest.raises(TaskFinished):
                await service.get(task_id)
        await until_async(lambda: not engine.in_flight)
    assert len(target.got) == 4
    counts = await service.counts()
    assert (counts.pending, counts.in_flight, counts.dead) == (0, 0, 0)


class Late(Target):
    """Learns late whether there is room: it hands the first ones back, and has the others acked itself."""

    ack_first: Any = None

    def __init__(self, store: Store, back: int) -> None:
        super().__init__(store, lambda _: DONE)
        self.back = back

    async def deliver(self, batch: Any, report: Any) -> None:
        for d in batch:
            self.back -= 1
            if self.back >= 0:
                report([d], HandBack())
            elif await self.ack_first(d):
                await super().deliver([d], report)


@pytest.mark.parametrize("size", [1, 5_000])
async def test_one_that_finds_no_room_is_handed_back_and_not_lost(store: Store, size: int) -> None:
    """Before, it was acked first, so what was handed back was a failed task."""
    target, service = Late(store, 3), Service(store)
    async with running(store, {TaskType.WORKER: target}, concurrency=2, poll_ms=50) as engine:
        once = [(await service.submit(NewTask(payload=bytes(size), **ONCE))).task_id for _ in range(3)]
        got = await target.wait_for(3)
        assert {d.id: place for d, place in got} == dict.fromkeys(once, "")
        await until_async(lambda: not engine.in_flight and not engine._dispatcher._acked_late)
    assert max(d.token for d, _ in got) > 1 and len(got) == 3


async def test_one_that_others_have_by_then_is_not_handed_out(store: Store) -> None:
    target, service = Late(store, 0), Service(store)
    raw = ids.parse((await service.submit(NewTask(**ONCE))).task_id)
    reply = await store.claim(0, b"a lease of others"[:16], ClaimLimits(slots=5, types="w"))
    assert await store.release(0, b"a lease of others"[:16], [raw], delay_ms=3_600_000) == []
    async with running(store, {TaskType.WORKER: target}, concurrency=2, poll_ms=50) as engine:
        engine._dispatcher.accept(0, b"a lease of others"[:16], reply.leased)
        await until_async(lambda: not engine.in_flight)
    assert target.got == [] and (await store.get(raw)).place == "home"


async def test_one_whose_lease_is_over_is_not_handed_out(store: Store) -> None:
    """Somebody else may have it: the ack decides."""
    service = Service(store)
    (made,) = [(await service.submit(NewTask(**ONCE))).task_id]
    raw = ids.parse(made)
    reply = await store.claim(0, b"a lease of others"[:16], ClaimLimits(slots=5, types="w"))
    assert await store.release(0, b"a lease of others"[:16], [raw], delay_ms=3_600_000) == []
    target = Target(store, lambda _: DONE)
    async with running(store, {TaskType.WORKER: target}, concurrency=2, poll_ms=50) as engine:
        engine._dispatcher.accept(0, b"a lease of others"[:16], reply.leased)
        await until_async(lambda: not engine.in_flight)
    assert target.got == [] and (await store.get(raw)).place == "home"


async def test_its_lock_or_key_is_that_of_a_task_that_has_ended(store: Store) -> None:
    service, target = Service(store), Target(store, lambda _: DONE)
    async with running(store, {TaskType.WORKER: target}, concurrency=2, poll_ms=50):
        lock: Any = {**ONCE, "idempotency_key": "lock", "unique_while": UniqueWhile.PENDING}
        first = await service.submit(NewTask(**lock))
        await target.wait_for(1)
        second = await service.submit(NewTask(**lock))
        assert second.created and second.task_id != first.task_id
        await target.wait_for(2)
        key: Any = {**ONCE, "idempotency_key": "key"}
        third = await service.submit(NewTask(**key))
        await target.wait_for(3)
        assert (await service.submit(NewTask(**key))).task_id == third.task_id


async def test_a_task_that_may_be_handed_out_again_has_no_extension(store: Store) -> None:
    made = (await Service(store).submit(NewTask(type=TaskType.WORKER, name="f", delay_ms=60_000))).task_id
    found = await store.get(ids.parse(made))
    assert found.value[0] == 0x10 and not read(ids.parse(made), found.value).once
