"""Waiting for tasks over gRPC: what each state change and end looks like, what is not told, and how it is looked up."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator

import grpc
import pytest
from redis.asyncio import Redis

from delaybox.core import ids
from delaybox.core.task import TaskResult, TaskState
from delaybox.service.watch import Watcher
from delaybox.store import keys
from delaybox.store.servers import Servers
from delaybox.store.states import states
from delaybox.store.store import ClaimLimits, Store, Verdict
from delaybox.wire import result as wire_result
from delaybox.wire.gen import scheduler_pb2 as pb
from tests.children import Served
from tests.rpc import Rpc, channel_to, grpc_process, refused, rpc_process
from tests.servers import RealServer
from tests.shared import a_prefix, empty, kept
from tests.waiting import PATIENCE_S

WORKER = pb.NewTask(type=pb.TASK_TYPE_WORKER, name="f", payload=b"x")


@pytest.fixture(scope="module")
def prefix() -> str:
    """One for the module's tests, which share a process."""
    return a_prefix()


@pytest.fixture(scope="module")
def process(server: RealServer, prefix: str) -> Iterator[Served]:
    with kept(grpc_process(partitions=2, server=server.settings, prefix=prefix)) as shared:
        yield shared


@pytest.fixture
async def rpc(process: Served, client: Redis, prefix: str) -> AsyncIterator[Rpc]:
    async with channel_to(process) as found:
        yield found
    await empty(client, prefix)


@pytest.fixture
async def store(rpc: Rpc, client: Redis, prefix: str) -> Store:
    return await Store.open(Servers(client), prefix=prefix)


async def schedule(rpc: Rpc, *tasks: pb.NewTask) -> list[str]:
    answer = await rpc.scheduler.ScheduleBatch(pb.ScheduleBatchRequest(tasks=tasks))
    return [result.id for result in answer.results]


async def claim(store: Store) -> dict[bytes, tuple[int, bytes]]:
    """Id -> (partition, lease) of everything that is due now."""
    held: dict[bytes, tuple[int, bytes]] = {}
    for partition in range(store.partitions):
        lease = os.urandom(16)
        claimed = await store.claim(partition, lease, ClaimLimits(slots=500, types="w"))
        held |= dict.fromkeys(claimed.leased[::2], (partition, lease))
    return held


def result(ok: bool = True, reason: str = "") -> bytes:
    return wire_result.encode(TaskResult(ok=ok, finished_ms=1, output=b"out", reason=reason))


async def collected(call: grpc.aio.UnaryStreamCall) -> list[pb.TaskEvent]:
    return [event async for response in call for event in response.events]


class Following:
    """One watch, read as it comes."""

    def __init__(self, rpc: Rpc, task_ids: list[str], *, ends_only: bool = False) -> None:
        self.call = rpc.scheduler.Watch(pb.WatchRequest(ids=task_ids, ends_only=ends_only))
        self._events: list[pb.TaskEvent] = []

    async def next(self) -> pb.TaskEvent:
        while not self._events:
            response = await asyncio.wait_for(self.call.read(), PATIENCE_S)
            assert response is not grpc.aio.EOF
            self._events += response.events
        return self._events.pop(0)

    async def end(self) -> None:
        assert not self._events
        assert await asyncio.wait_for(self.call.read(), PATIENCE_S) is grpc.aio.EOF


async def test_each_state_on_the_way_to_a_kept_result(rpc: Rpc, store: Store):
    (task_id,) = await schedule(rpc, WORKER)
    follow = Following(rpc, [task_id])
    assert (await follow.next()).state == pb.TASK_STATE_READY
    ((raw, (partition, lease)),) = (await claim(store)).items()
    assert (await follow.next()).state == pb.TASK_STATE_RUNNING
    await store.fail(partition, lease, [Verdict(raw, 0, "once more")])
    again = await follow.next()
    assert (again.state, again.attempt) == (pb.TASK_STATE_READY, 1)
    ((raw, (partition, lease)),) = (await claim(store)).items()
    running = await follow.next()
    assert (running.state, running.attempt) == (pb.TASK_STATE_RUNNING, 1)
    await store.complete(partition, lease, [(raw, 60_000, result())])
    ended = await follow.next()
    assert (ended.state, ended.id, ended.result.output) == (pb.TASK_STATE_SUCCEEDED, task_id, b"out")
    await follow.end()


async def test_every_kind_of_end(rpc: Rpc, store: Store):
    names = ["kept", "failed", "cancelled", "dead", "acked"]
    task_ids = await schedule(rpc, *[WORKER] * len(names))
    follow = Following(rpc, task_ids, ends_only=True)
    held = await claim(store)
    kept, failed, cancelled, dead, acked = (ids.parse(task_id) for task_id in task_ids)
    for raw, value in ((kept, result()), (failed, result(False, "broke")), (cancelled, result(False, "cancelled"))):
        await store.complete(*held[raw], [(raw, 60_000, value)])
    await store.fail(*held[dead], [Verdict(dead, None, "tried enough", result(False), 60_000)])
    await store.ack(*held[acked], [acked])
    events = {}
    for _ in names:
        event = await follow.next()
        events[event.id] = event
    await follow.end()
    found = {name: events[task_id] for name, task_id in zip(names, task_ids, strict=True)}
    assert {name: event.state for name, event in found.items()} == {
        "kept": pb.TASK_STATE_SUCCEEDED,
        "failed": pb.TASK_STATE_FAILED,
        "cancelled": pb.TASK_STATE_CANCELLED,
        "dead": pb.TASK_STATE_FAILED,
        "acked": pb.TASK_STATE_FINISHED_OR_UNKNOWN,
    }
    assert (found["failed"].reason, found["dead"].reason) == ("broke", "tried enough")
    assert found["dead"].result.output == b"out"


async def test_who_comes_late_is_told_the_end_at_once_and_who_comes_twice_gets_both(rpc: Rpc, store: Store):
    (task_id,) = await schedule(rpc, WORKER)
    first, second = Following(rpc, [task_id]), Following(rpc, [task_id, task_id], ends_only=True)
    assert (await first.next()).state == pb.TASK_STATE_READY
    ((raw, (partition, lease)),) = (await claim(store)).items()
    await store.complete(partition, lease, [(raw, 60_000, result())])
    while (await first.next()).state != pb.TASK_STATE_SUCCEEDED:
        pass
    assert (await second.next()).state == pb.TASK_STATE_SUCCEEDED
    await second.end()
    (late,) = await collected(rpc.scheduler.Watch(pb.WatchRequest(ids=[task_id])))
    assert (late.state, late.result.output) == (pb.TASK_STATE_SUCCEEDED, b"out")


async def test_thousands_in_one_watch(rpc: Rpc, store: Store):
    task_ids: list[str] = []
    for _ in range(3):
        task_ids += await schedule(rpc, *[WORKER] * 1_000)
    call = rpc.scheduler.Watch(pb.WatchRequest(ids=task_ids, ends_only=True))
    reading = asyncio.create_task(collected(call))
    while held := await claim(store):
        by_lease: dict[tuple[int, bytes], list[bytes]] = {}
        for raw, where in held.items():
            by_lease.setdefault(where, []).append(raw)
        for where, group in by_lease.items():
            await store.complete(*where, [(raw, 60_000, result()) for raw in group])
    events = await asyncio.wait_for(reading, PATIENCE_S)
    assert sorted(event.id for event in events) == sorted(task_ids)
    assert {event.state for event in events} == {pb.TASK_STATE_SUCCEEDED}


async def test_hundreds_that_leave_nothing_end_too(rpc: Rpc, store: Store):
    """Nobody announces them, and only looks that search the leases tell them from running ones."""
    task_ids = await schedule(rpc, *[WORKER] * 300)
    call = rpc.scheduler.Watch(pb.WatchRequest(ids=task_ids, ends_only=True))
    reading = asyncio.create_task(collected(call))
    while held := await claim(store):
        for raw, where in held.items():
            await store.ack(*where, [raw])
    events = await asyncio.wait_for(reading, PATIENCE_S)
    assert sorted(event.id for event in events) == sorted(task_ids)
    assert {event.state for event in events} == {pb.TASK_STATE_FINISHED_OR_UNKNOWN}


async def test_without_looking_everywhere_what_is_gone_is_not_known(store: Store):
    from delaybox.core.task import NewTask, TaskType
    from delaybox.service import Service

    tasks = [NewTask(type=TaskType.WORKER, name="f")] * 2
    ended, running = [ids.parse(answer.task_id) for answer in await Service(store).submit_many(tasks)]  # type: ignore[union-attr]
    held = await claim(store)
    lease = held[ended]
    assert await store.complete(*lease, [(ended, 60_000, result()), (ended, 60_000, result())]) == [ended]
    found = await states(store, [ended, running, os.urandom(16)], leased=False)
    assert [standing and standing.state for standing in found] == [TaskState.SUCCEEDED, TaskState.RUNNING, None]


async def test_wrong_ids_are_refused_by_name(rpc: Rpc):
    for wrong in ([], ["no id"], ["018f0000-0000-8000-8000-000000000000"] * 10_001):
        answer = await refused(rpc.scheduler.Watch(pb.WatchRequest(ids=wrong)))
        assert answer.status is grpc.StatusCode.INVALID_ARGUMENT
        assert answer.field in ("id", "ids")


async def test_a_stopping_process_ends_the_watch_so_that_the_caller_goes_elsewhere(server: RealServer, prefix: str):
    async with rpc_process(server=server.settings, prefix=prefix) as own:
        task_ids = await schedule(own, pb.NewTask(delay_ms=3_600_000))
        follow = Following(own, task_ids)
        assert (await follow.next()).state == pb.TASK_STATE_SCHEDULED
        stopping = asyncio.create_task(own.process.stop())
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await follow.call.read()
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
        await stopping
        assert own.process.exit_code == 0


async def test_results_that_nobody_fetches_are_not_all_held(store: Store, monkeypatch: pytest.MonkeyPatch):
    from delaybox.core.task import NewTask, TaskType
    from delaybox.service import Service, watch

    monkeypatch.setattr(watch, "_MOST_WAITING_BYTES", 10)
    service = Service(store)
    tasks = [NewTask(type=TaskType.WORKER, name="f")] * 20
    wanted = [ids.parse(answer.task_id) for answer in await service.submit_many(tasks)]  # type: ignore[union-attr]
    for raw, where in (await claim(store)).items():
        await store.complete(*where, [(raw, 60_000, result())])
    watcher = Watcher(store)
    waiting = watcher.watch(wanted, ends_only=True)
    sizes, reported = [], set()
    async for changes in waiting:
        sizes.append(len(changes))
        reported |= {task_id for task_id, standing in changes if standing.state is TaskState.SUCCEEDED}
    assert reported == set(wanted)
    assert max(sizes) < 20
    await watcher.close()


async def test_tasks_that_callers_wait_for_are_bounded_together(
    rpc: Rpc, store: Store, monkeypatch: pytest.MonkeyPatch
):
    from delaybox.core.errors import Overloaded
    from delaybox.service import watch

    monkeypatch.setattr(watch, "MOST_WATCHED", 5)
    watcher = Watcher(store)
    wanted = [ids.parse(task_id) for task_id in await schedule(rpc, *[WORKER] * 3)]
    ends, states_too = watcher.watch(wanted, ends_only=True), watcher.watch(wanted[:2], ends_only=False)
    with pytest.raises(Overloaded, match="callers wait for 5 tasks here, 5 at most"):
        watcher.watch(wanted[:1], ends_only=True)
    states_too.close()
    states_too.close()
    two = watcher.watch(wanted[1:], ends_only=True)
    for raw, where in (await claim(store)).items():
        await store.ack(*where, [raw])
    for waiting in (ends, two):
        async for _ in waiting:
            pass
        waiting.close()
    assert watcher._waits == 0, "whose tasks have ended waits no more"
    watcher.watch(wanted, ends_only=True)
    await watcher.close()
    assert watcher._waits == 0


async def test_what_a_node_of_an_earlier_version_leased_is_found(rpc: Rpc, store: Store):
    wanted = []
    for _ in range(6):
        wanted += [ids.parse(task_id) for task_id in await schedule(rpc, WORKER)]
        await claim(store)
    # It writes no index.
    await store.servers.ask("UNLINK", *map(keys.leased, store.tags))
    found = await states(store, wanted)
    assert [standing and standing.state for standing in found] == [TaskState.RUNNING] * 6
