"""Changes of many by filter, lists, streams, dead letters, forecast, queues and nodes over gRPC."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import grpc
import pytest
from redis.asyncio import Redis

from delaybox.api.grpc.server import MAX_STREAMS
from delaybox.core import ids
from delaybox.store.servers import Servers
from delaybox.store.store import ClaimLimits, Store, Verdict
from delaybox.wire.gen import scheduler_pb2 as pb
from tests.children import Served
from tests.rpc import Rpc, channel_to, grpc_process, refused
from tests.servers import RealServer
from tests.shared import a_prefix, empty, kept
from tests.waiting import PATIENCE_S

HOUR_MS = 3_600_000
UNKNOWN = "01a2b3c4-d5e6-8001-9f00-112233445566"
INVALID = grpc.StatusCode.INVALID_ARGUMENT


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


async def schedule(rpc: Rpc, count: int, **fields: Any) -> list[str]:
    """Over both partitions."""
    out: list[str] = []
    for at in range(0, count, 100):
        tasks = [pb.NewTask(**({"delay_ms": HOUR_MS} | fields)) for _ in range(min(100, count - at))]
        answer = await rpc.scheduler.ScheduleBatch(pb.ScheduleBatchRequest(tasks=tasks))
        assert not any(result.HasField("error") for result in answer.results)
        out += [result.id for result in answer.results]
    return out


async def listed(rpc: Rpc, limit: int = 0, **wanted: Any) -> list[pb.TaskInfo]:
    call = rpc.scheduler.List(pb.ListRequest(filter=pb.TaskFilter(**wanted), limit=limit))
    return [task async for response in call for task in response.tasks]


def selection(limit: int = 0, dry_run: bool = False, everything: bool = False, **wanted: Any) -> pb.Selection:
    return pb.Selection(filter=pb.TaskFilter(**wanted), limit=limit, dry_run=dry_run, all=everything)


async def test_cancel_by_filter(rpc: Rpc):
    gone = await schedule(rpc, 700, labels={"job": "a"})
    kept = await schedule(rpc, 30, labels={"job": "b"})
    request = pb.CancelManyRequest(selection=selection(labels={"job": "a"}, dry_run=True))
    answer = await rpc.scheduler.CancelMany(request)
    assert (answer.matched, answer.changed, len(answer.sample_ids)) == (700, 0, 10)
    assert set(answer.sample_ids) <= set(gone)
    assert len(await listed(rpc)) == 730, "a dry run changes nothing"
    some = await rpc.scheduler.CancelMany(pb.CancelManyRequest(selection=selection(labels={"job": "a"}, limit=50)))
    assert (some.matched, some.changed) == (50, 50)
    rest = await rpc.scheduler.CancelMany(pb.CancelManyRequest(selection=selection(labels={"job": "a"})))
    assert (rest.matched, rest.changed, rest.skipped) == (650, 650, 0)
    assert sorted(task.id for task in await listed(rpc)) == sorted(kept)


@pytest.mark.parametrize("when", ["due_ms", "delay_ms"])
async def test_move_by_filter_in_one_pass(rpc: Rpc, store: Store, when: str):
    """What is moved is met again at its new time, and is not moved a second time."""
    moved = await schedule(rpc, 400, queue="a")
    await schedule(rpc, 20, queue="b")
    now = await store.ping()
    then: Any = {when: now + 50 * HOUR_MS if when == "due_ms" else 50 * HOUR_MS}
    request = pb.RescheduleManyRequest(selection=selection(queue="a"), **then)
    answer = await rpc.scheduler.RescheduleMany(request)
    assert (answer.matched, answer.changed, answer.skipped) == (400, 400, 0)
    found = await listed(rpc, due_from_ms=now + 49 * HOUR_MS)
    assert sorted(task.id for task in found) == sorted(moved)
    (due,) = {task.due_ms for task in found}
    assert now + 50 * HOUR_MS <= due < now + 51 * HOUR_MS
    again = await rpc.scheduler.RescheduleMany(pb.RescheduleManyRequest(selection=selection(queue="a"), due_ms=due))
    assert (again.matched, again.changed) == (0, 0), "they are due then already"


async def test_run_now_leaves_out_what_is_due_already(rpc: Rpc, store: Store):
    task = {"type": pb.TASK_TYPE_WORKER, "name": "f"}
    due = await schedule(rpc, 3, delay_ms=0, **task)
    await schedule(rpc, 40, **task)
    answer = await rpc.scheduler.RunNowMany(pb.RunNowManyRequest(selection=selection(everything=True)))
    assert (answer.matched, answer.changed) == (40, 40)
    assert set(due).isdisjoint(answer.sample_ids)
    assert len(await listed(rpc, state=pb.TASK_STATE_READY)) == 43


async def test_a_selection_must_say_what_it_means(rpc: Rpc):
    wrong = [
        (pb.Selection(), "selection.filter"),
        (selection(everything=True, queue="a"), "selection.all"),
        (selection(queue="A"), "selection.filter.queue"),
        (selection(state=pb.TASK_STATE_RUNNING), "selection.filter.state"),
        (selection(state=pb.TASK_STATE_FINISHED_OR_UNKNOWN), "selection.filter.state"),
        (selection(due_from_ms=5), "selection.filter.due_from_ms"),
    ]
    for asked, field in wrong:
        answer = await refused(rpc.scheduler.CancelMany(pb.CancelManyRequest(selection=asked)))
        assert (answer.status, answer.field) == (INVALID, field)
    answer = await refused(rpc.scheduler.RescheduleMany(pb.RescheduleManyRequest(selection=selection(queue="a"))))
    assert (answer.status, answer.field) == (INVALID, "when")


async def test_lists_come_in_pages_and_go_on_by_their_cursor(rpc: Rpc):
    made = await schedule(rpc, 1_200)
    assert len(await listed(rpc)) == 1_000, "unless a limit is given"
    assert sorted(task.id for task in await listed(rpc, 5_000)) == sorted(made)
    first = [r async for r in rpc.scheduler.List(pb.ListRequest(limit=700))]
    second = [r async for r in rpc.scheduler.List(pb.ListRequest(limit=700, cursor=first[-1].cursor))]
    found = [task.id for response in first + second for task in response.tasks]
    assert sorted(found) == sorted(made)
    assert not second[-1].cursor
    assert (await refused(rpc.scheduler.List(pb.ListRequest(cursor="nonsense")))).field == "cursor"


async def test_dead_letters(rpc: Rpc, store: Store):
    await schedule(rpc, 30, delay_ms=0, type=pb.TASK_TYPE_WORKER, name="f", queue="q")
    for partition in range(store.partitions):
        lease = os.urandom(16)
        claimed = await store.claim(partition, lease, ClaimLimits(slots=500, types="w"))
        await store.fail(partition, lease, [Verdict(raw, None, "broke") for raw in claimed.leased[::2]])
    dead = [task async for r in rpc.scheduler.ListDead(pb.ListRequest()) for task in r.tasks]
    assert len(dead) == 30
    assert {(task.state, task.reason) for task in dead} == {(pb.TASK_STATE_FAILED, "broke")}
    await rpc.scheduler.ReplayDead(pb.ReplayDeadRequest(id=dead[0].id))
    await rpc.scheduler.DiscardDead(pb.DiscardDeadRequest(id=dead[1].id))
    request = pb.ReplayDeadManyRequest(selection=selection(queue="q", dry_run=True))
    assert (await rpc.scheduler.ReplayDeadMany(request)).matched == 28
    request.selection.dry_run = False
    assert (await rpc.scheduler.ReplayDeadMany(request)).changed == 28
    assert [r.tasks for r in [r async for r in rpc.scheduler.ListDead(pb.ListRequest())] if r.tasks] == []
    discard = pb.DiscardDeadManyRequest(selection=selection(queue="q", dry_run=True))
    assert (await rpc.scheduler.DiscardDeadMany(discard)).matched == 0
    assert (await refused(rpc.scheduler.DiscardDeadMany(pb.DiscardDeadManyRequest()))).field == "selection.filter"
    gone = await refused(rpc.scheduler.ReplayDead(pb.ReplayDeadRequest(id=dead[1].id)))
    assert gone.status is grpc.StatusCode.NOT_FOUND


async def test_a_running_task_is_stopped_through_whoever_runs_it(rpc: Rpc, store: Store, client: Redis):
    (task_id,) = await schedule(rpc, 1, delay_ms=0, type=pb.TASK_TYPE_WORKER, name="f")
    raw = ids.parse(task_id)
    await store.claim(ids.partition(raw), os.urandom(16), ClaimLimits(slots=500, types="w"))
    answer = await refused(rpc.scheduler.Cancel(pb.CancelRequest(id=task_id)))
    assert (answer.status, answer.code) == (grpc.StatusCode.FAILED_PRECONDITION, "running")
    async with client.pubsub() as channel:
        await channel.subscribe(store.control_channel)
        assert (await channel.get_message(timeout=PATIENCE_S))["type"] == "subscribe"
        assert (await rpc.scheduler.Cancel(pb.CancelRequest(id=task_id, running=True))).signalled
        message = await channel.get_message(timeout=PATIENCE_S)
        assert message is not None and message["data"] == f"cancel {task_id}".encode()


async def test_a_stream_answers_every_batch_in_order(rpc: Rpc):
    async def batches() -> AsyncIterator[pb.ScheduleBatchRequest]:
        for size in (3, 1_000, 1, 700, 2):
            yield pb.ScheduleBatchRequest(tasks=[pb.NewTask(delay_ms=HOUR_MS, payload=b"x")] * size)

    sizes = [len(response.results) async for response in rpc.scheduler.ScheduleStream(batches())]
    assert sizes == [3, 1_000, 1, 700, 2]


async def test_a_stream_whose_batch_cannot_be_taken_ends_with_the_reason(rpc: Rpc):
    stream = rpc.scheduler.ScheduleStream()
    good = pb.ScheduleBatchRequest(tasks=[pb.NewTask(delay_ms=HOUR_MS)])
    await stream.write(good)
    assert len((await stream.read()).results) == 1
    await stream.write(pb.ScheduleBatchRequest())
    with pytest.raises(grpc.aio.AioRpcError) as ended:
        await stream.read()
    assert ended.value.code() is INVALID


async def test_a_stream_that_waits_is_answered_at_once(rpc: Rpc):
    """An answer does not wait for the next batch."""
    stream = rpc.scheduler.ScheduleStream()
    for _ in range(3):
        await stream.write(pb.ScheduleBatchRequest(tasks=[pb.NewTask(delay_ms=HOUR_MS)]))
        assert len((await asyncio.wait_for(stream.read(), PATIENCE_S)).results) == 1
    await stream.done_writing()
    assert await stream.read() is grpc.aio.EOF


async def test_what_the_store_holds(rpc: Rpc, store: Store):
    # From before they are due, or the minute in which they are may be over.
    now = await store.ping()
    await schedule(rpc, 5, queue="mail", type=pb.TASK_TYPE_WORKER, name="f", delay_ms=0)
    await schedule(rpc, 7)
    (queue,) = (await rpc.scheduler.Queues(pb.QueuesRequest(queue="mail"))).queues
    assert (queue.queue, queue.type, queue.pending, queue.ready) == ("mail", pb.TASK_TYPE_WORKER, 5, 5)
    steps = (await rpc.scheduler.Forecast(pb.ForecastRequest(from_ms=now))).steps
    assert sum(step.count for step in steps) == 12
    refusals: list[tuple[Callable[[], Any], str]] = [
        (lambda: rpc.scheduler.Forecast(pb.ForecastRequest(step_ms=7)), "step_ms"),
        (lambda: rpc.scheduler.Forecast(pb.ForecastRequest(from_ms=now, to_ms=now - 1)), "to_ms"),
        (lambda: rpc.scheduler.Queues(pb.QueuesRequest(queue="A")), "queue"),
    ]
    for call, field in refusals:
        answer = await refused(call())
        assert (answer.status, answer.field) == (INVALID, field)
    assert list((await rpc.scheduler.Nodes(pb.NodesRequest())).nodes) == []


async def test_of_very_many_calls_on_one_connection_none_is_dropped(rpc: Rpc):
    """Whoever has an answer makes the next call at once, while grpc's core has not forgotten the last one."""

    async def caller() -> set[grpc.StatusCode]:
        return {(await refused(rpc.scheduler.Get(pb.GetRequest(id=UNKNOWN)))).status for _ in range(15)}

    answers = await asyncio.gather(*(caller() for _ in range(6 * MAX_STREAMS)))
    assert set().union(*answers) == {grpc.StatusCode.NOT_FOUND}
