"""What is later than its ``expire_after`` is a dead letter and never delivered, however its type is fired."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from redis.asyncio import Redis

from delaybox.core import ids
from delaybox.core.delivery import Delivery, HandBack, Report
from delaybox.core.task import NewTask, TaskState, TaskType
from delaybox.service import Service
from delaybox.store.fsck import fsck
from delaybox.store.servers import Servers
from delaybox.store.store import Store
from delaybox.targets.pubsub import PubSubTarget
from tests.engines import Recorder, running, until
from tests.waiting import PATIENCE_S

KEPT = NewTask(payload=b"kept", expire_after_ms=60_000)
GONE = NewTask(payload=b"gone", expire_after_ms=20)


async def late(store: Store, *tasks: NewTask, by_s: float = 0.06) -> list[str]:
    """Schedules tasks at once and lets them grow late, for nobody serves them yet."""
    answers = await Service(store).submit_many(tasks)
    await asyncio.sleep(by_s)
    return [a.task_id for a in answers if not isinstance(a, Exception)]


async def reasons(store: Store, task_ids: list[str]) -> list[str]:
    service = Service(store)
    return [(await service.get(i)).reason for i in task_ids]


@pytest.mark.parametrize("in_place", [True, False])
async def test_an_expired_pub_sub_task_is_not_published(client: Redis, prefix: str, in_place: bool) -> None:
    store = await Store.open(Servers(client), prefix=prefix)
    channel = f"{prefix}-out"
    plain, kept, gone, large = await late(
        store, NewTask(payload=b"plain"), KEPT, GONE, NewTask(payload=bytes(5_000), expire_after_ms=20)
    )
    listener: Any = client.pubsub()
    await listener.subscribe(channel)
    assert (await listener.get_message(timeout=PATIENCE_S))["type"] == "subscribe"
    target = PubSubTarget(store, channel=channel)
    async with running(store, {TaskType.PUB_SUB: target}, channel=channel if in_place else ""):
        await until(lambda: _dead(store, 2))
        events = [(await listener.get_message(timeout=PATIENCE_S))["data"] for _ in range(2)]
    assert await listener.get_message(timeout=0.05) is None
    await listener.aclose()
    assert sorted(i for i in (plain, kept, gone, large) if any(i.encode() in m for m in events)) == sorted(
        [plain, kept]
    )
    assert await reasons(store, [gone, large]) == ["expired", "expired"]
    assert (await fsck(store)).problems == []


async def _dead(store: Store, count: int) -> bool:
    return (await Service(store).counts()).dead == count


async def test_a_leased_type_expires_too_and_a_replayed_one_is_on_time_again(client: Redis, prefix: str) -> None:
    store = await Store.open(Servers(client), prefix=prefix)
    (gone,) = await late(store, NewTask(type=TaskType.WORKER, expire_after_ms=400), by_s=0.45)
    recorder = Recorder()
    async with running(store, {TaskType.WORKER: recorder}, channel=""):
        await until(lambda: _dead(store, 1))
        assert recorder.got == []
        shown = await Service(store).get(gone)
        assert (shown.state, shown.reason, shown.expire_after_ms) == (TaskState.FAILED, "expired", 400)

        async def replayed() -> bool:
            """A busy machine may let it grow late again."""
            if await _dead(store, 1):
                await Service(store).replay(gone)
            return len(recorder.got) == 1

        await until(replayed)
    assert recorder.got[0][1].task_id == ids.parse(gone)


class Away:
    """A target that hands back whatever comes, uncharged, as webhooks are while their host does not answer."""

    def __init__(self) -> None:
        self.came = 0

    async def deliver(self, batch: Sequence[Delivery], report: Report) -> None:
        self.came += len(batch)
        report(batch, HandBack(delay_ms=50))


async def test_what_is_put_off_again_and_again_expires_all_the_same(client: Redis, prefix: str) -> None:
    store, target = await Store.open(Servers(client), prefix=prefix), Away()
    async with running(store, {TaskType.HTTP: target}, channel=""):
        # On a machine that stands still for a moment one may expire before it was put off twice.
        for dead in range(1, 5):
            target.came = 0
            await Service(store).submit_many([NewTask(type=TaskType.HTTP, expire_after_ms=1_000)])
            await until(lambda: _dead(store, dead))  # noqa: B023 - waited for at once
            if target.came >= 2:
                break
    assert target.came >= 2
    assert (await fsck(store)).problems == []


async def test_on_time_is_not_expired(client: Redis, prefix: str) -> None:
    store = await Store.open(Servers(client), prefix=prefix)
    recorder = Recorder()
    async with running(store, {TaskType.WORKER: recorder}, channel=""):
        tasks = [NewTask(type=TaskType.WORKER, delay_ms=5 * n, expire_after_ms=60_000) for n in range(40)]
        await Service(store).submit_many(tasks)
        await until(lambda: len(recorder.got) == 40)
    assert (await Service(store).counts()).dead == 0
