"""Ends that are announced with their results, and tasks of this process: neither is looked at."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from delaybox.core import ids
from delaybox.core.task import NewTask, TaskResult, TaskState, TaskType
from delaybox.service import Service, watch
from delaybox.service.watch import Watch, Watcher
from delaybox.store.servers import Servers
from delaybox.store.states import states
from delaybox.store.store import ClaimLimits, Store
from delaybox.wire import result as wire_result
from delaybox.wire.standing import Standing
from tests.waiting import PATIENCE_S, until_async

TASK = NewTask(type=TaskType.WORKER, name="f", payload=b"x")
LEASE = bytes(range(16))
NEVER_S = 3_600


class Looks:
    """Counts the looks at tasks."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.at: list[bytes] = []
        patch.setattr(watch, "states", self._states)
        # None without a reason: what is counted has one.
        patch.setattr(watch, "PAUSES_S", (NEVER_S,) * len(watch.PAUSES_S))

    async def _states(self, store: Store, wanted: list[bytes], **how: Any) -> list[Standing | None]:
        self.at += wanted
        return await states(store, wanted, **how)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Looks:
    return Looks(monkeypatch)


@pytest.fixture
async def store(client: Redis, prefix: str) -> Store:
    return await Store.open(Servers(client), prefix=prefix, partitions=1)


@pytest.fixture
async def service(store: Store, looks: Looks) -> AsyncIterator[Service]:
    found = Service(store)
    yield found
    await found.close()


async def stored(service: Service) -> str:
    return (await service.submit(TASK)).task_id


async def claimed(store: Store) -> list[bytes]:
    return (await store.claim(0, LEASE, ClaimLimits(slots=500, types="w"))).leased[::2]


async def complete(store: Store, task_ids: list[bytes], output: bytes = b"out", *, keep_ms: int = 60_000) -> None:
    result = wire_result.encode(TaskResult(ok=True, finished_ms=1, output=output))
    assert not await store.complete(0, LEASE, [(task_id, keep_ms, result) for task_id in task_ids])


async def end_of(waiting: Watch) -> tuple[TaskState | None, bytes]:
    ((_, standing),) = await asyncio.wait_for(anext(waiting), PATIENCE_S)
    return standing.state, wire_result.decode(standing.result).output if standing.result else b""


async def listening(service: Service, looks: Looks) -> Watch:
    """A watch of a task that does not end, once its watcher listens and has looked at it."""
    waiting = await service.watch([(await service.submit(NewTask(delay_ms=NEVER_S * 1_000))).task_id], ends_only=True)
    watcher: Watcher = service._opened.watcher
    await until_async(lambda: watcher.mark and looks.at)
    looks.at.clear()
    return waiting


async def test_the_end_of_a_task_brings_its_result(service: Service, store: Store, looks: Looks):
    other = await listening(service, looks)
    waiting = await service.watch([await stored(service)], ends_only=True)
    for output in (b"", b"out", *(bytes(n) for n in range(100, 116))):
        await complete(store, await claimed(store), output)
        assert await end_of(waiting) == (TaskState.SUCCEEDED, output)
        waiting = await service.watch([await stored(service)], ends_only=True)
    assert looks.at == []
    waiting.close()
    other.close()


async def test_what_ended_before_anybody_waited_is_known(service: Service, store: Store, looks: Looks):
    other = await listening(service, looks)
    task_id = await stored(service)
    await complete(store, await claimed(store))
    await until_async(lambda: service._opened.watcher._own._ended)
    waiting = await service.watch([task_id], ends_only=True)
    assert await end_of(waiting) == (TaskState.SUCCEEDED, b"out")
    assert looks.at == []
    # It is known once: whoever asks again may ask much later.
    assert await end_of(await service.watch([task_id], ends_only=True)) == (TaskState.SUCCEEDED, b"out")
    assert looks.at == [ids.parse(task_id)]
    other.close()


async def test_ends_of_several_and_large_results_are_looked_up(service: Service, store: Store, looks: Looks):
    other = await listening(service, looks)
    wanted = [await stored(service) for _ in range(2)]
    waiting = await service.watch(wanted, ends_only=True)
    await complete(store, await claimed(store))
    found = dict(await asyncio.wait_for(anext(waiting), PATIENCE_S))
    assert {task_id: one.state for task_id, one in found.items()} == {
        ids.parse(task_id): TaskState.SUCCEEDED for task_id in wanted
    }
    assert sorted(looks.at) == sorted(found)
    looks.at.clear()
    around = 512 - len(wire_result.encode(TaskResult(ok=True, finished_ms=1, output=bytes(500)))) + 500
    for output, look in ((bytes(around), False), (bytes(around + 1), True), (bytes(100_000), True)):
        task_id = await stored(service)
        waiting = await service.watch([task_id], ends_only=True)
        await complete(store, await claimed(store), output)
        assert await end_of(waiting) == (TaskState.SUCCEEDED, output)
        assert looks.at == [ids.parse(task_id)] * look
        looks.at.clear()
    other.close()


async def test_of_a_message_of_another_version_the_id_is_read(service: Service, store: Store, looks: Looks):
    other = await listening(service, looks)
    waiting = await service.watch([task_id := await stored(service)], ends_only=True)
    for message in (b"", b"short", ids.parse(task_id) + b"what a later version says"):
        await store.servers.notify(store.ended[0], message)
    await until_async(lambda: looks.at)
    assert looks.at == [ids.parse(task_id)]
    await complete(store, await claimed(store))
    assert await end_of(waiting) == (TaskState.SUCCEEDED, b"out")
    other.close()


async def test_a_result_that_is_hardly_kept_is_not_announced(service: Service, store: Store, looks: Looks):
    """Whoever asks for it a moment later must not find it where it is gone."""
    other = await listening(service, looks)
    task_id = await stored(service)
    waiting = await service.watch([task_id], ends_only=True)
    await complete(store, await claimed(store), keep_ms=999)
    assert (await end_of(waiting))[0] is TaskState.SUCCEEDED
    assert looks.at == [ids.parse(task_id)]
    other.close()


async def test_a_task_that_may_have_ended_unnoticed_is_looked_at(service: Service, store: Store, looks: Looks):
    """The end of several says no results; whoever stored one of them meanwhile must look."""
    other = await listening(service, looks)
    watcher = service._opened.watcher
    mark = watcher.mark
    wanted = [await stored(service) for _ in range(2)]
    await complete(store, await claimed(store))
    await until_async(lambda: watcher.mark > mark)
    for task_id in wanted:
        # As if the answer of the call that stored it had come only now.
        watcher.stored(task_id, mark)
        assert (await end_of(await service.watch([task_id], ends_only=True)))[0] is TaskState.SUCCEEDED
    assert looks.at == [ids.parse(task_id) for task_id in wanted]
    other.close()


async def test_a_caller_who_wants_every_state_gets_the_present_one(service: Service, store: Store, looks: Looks):
    other = await listening(service, looks)
    waiting = await service.watch([await stored(service)], ends_only=False)
    assert await end_of(waiting) == (TaskState.READY, b"")
    waiting.close()
    other.close()


async def test_the_subscription_is_kept_when_the_last_caller_has_gone(
    service: Service, store: Store, monkeypatch: pytest.MonkeyPatch
):
    """A caller that comes back a moment later finds it. What was to be looked at next is over, but the rest is not."""
    monkeypatch.setattr(watch, "PAUSES_S", (0.001,) * len(watch.PAUSES_S))
    pauses: list[float] = []
    pause_s = Watcher._pause_s

    def noted(watcher: Watcher) -> float:
        pauses.append(pause_s(watcher))
        return pauses[-1]

    monkeypatch.setattr(Watcher, "_pause_s", noted)
    waiting = await service.watch([await stored(service)], ends_only=True)
    await complete(store, await claimed(store))
    assert (await end_of(waiting))[0] is TaskState.SUCCEEDED
    watcher = service._opened.watcher
    # It rests no sooner than it has nothing to look at for seconds.
    await until_async(lambda: not watcher._tasks or pauses[-1] > 5)
    assert watcher._tasks
