"""What the answers hold, and that clients with the limits they come with can take them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import grpc
import pytest
from redis.asyncio import Redis

from delaybox.core.membership import Activity, Member
from delaybox.store import nodes
from delaybox.store.servers import Servers
from delaybox.store.store import Store
from delaybox.wire.gen import scheduler_pb2 as pb
from delaybox.wire.gen import worker_pb2 as wk
from tests.rpc import Rpc, refused, rpc_process
from tests.servers import RealServer
from tests.waiting import until_async

Code = grpc.StatusCode
ID = "018f0000-0000-8000-8000-000000000000"
MIB = 1 << 20


@pytest.fixture
async def rpc(server: RealServer, prefix: str, client: Redis) -> AsyncIterator[Rpc]:
    store = await Store.open(Servers(client), prefix=prefix)
    member = Member(id="n1", started_ms=1, pid=7, host="h", version="1", activity=Activity(types="p"))
    async with rpc_process(server=server.settings, prefix=prefix, node_id="n1") as found:
        # What serves a node's workers is told with the node, whose own engine does not run here.
        await nodes.beat(store, replace(member, seen_ms=await store.ping()))
        yield found


async def test_a_list_of_large_tasks_comes_in_messages_that_clients_take(rpc: Rpc):
    made = set()
    for n in range(9):
        task = pb.NewTask(payload=bytes([n]) * MIB, delay_ms=60_000 + n)
        made.add((await rpc.scheduler.Schedule(pb.ScheduleRequest(task=task))).id)
    for n in range(20):
        made.add((await rpc.scheduler.Schedule(pb.ScheduleRequest(task=pb.NewTask(delay_ms=90_000 + n)))).id)
    pages = [page async for page in rpc.scheduler.List(pb.ListRequest())]
    listed = [task.id for page in pages for task in page.tasks]
    assert len(listed) == len(made) == 29 and set(listed) == made
    assert max(page.ByteSize() for page in pages) <= 3 * MIB
    rest = [page async for page in rpc.scheduler.List(pb.ListRequest(cursor=pages[0].cursor))]
    assert [task.id for page in rest for task in page.tasks] == listed[len(pages[0].tasks) :]
    (few,) = [page async for page in rpc.scheduler.List(pb.ListRequest(limit=2))]
    assert [task.id for task in few.tasks] == listed[:2]


async def test_ten_thousand_refusals_fit_into_an_answer(rpc: Rpc):
    key = "k" * 250
    for text in (b"first", b"other"):
        tasks = [pb.NewTask(payload=text, delay_ms=60_000, idempotency_key=f"{key}{n}") for n in range(10_000)]
        answer = await rpc.scheduler.ScheduleBatch(pb.ScheduleBatchRequest(tasks=tasks))
    assert [r.error.code for r in answer.results] == ["idempotency_conflict"] * 10_000
    assert all(r.id for r in answer.results)
    assert answer.results[0].error.message.startswith("the idempotency key 'kkk")
    assert answer.results[-1].error.message == "as said of others in this answer"
    assert answer.ByteSize() < 4 * MIB


async def test_a_wrong_field_is_named_by_its_path(rpc: Rpc):
    s = rpc.scheduler
    for call, field in (
        (s.Schedule(pb.ScheduleRequest(task=pb.NewTask(queue="A"))), "task.queue"),
        (s.Schedule(pb.ScheduleRequest(task=pb.NewTask(labels={"ä": ""}))), "task.labels"),
        (s.Schedule(pb.ScheduleRequest()), "task"),
        (s.Reschedule(pb.RescheduleRequest(id=ID, due_ms=5)), "due_ms"),
        (s.List(pb.ListRequest(filter=pb.TaskFilter(queue="A"))), "filter.queue"),
        (s.ListDead(pb.ListRequest(filter=pb.TaskFilter(labels={"ä": ""}))), "filter.labels"),
        (s.CancelMany(pb.CancelManyRequest(selection=pb.Selection(filter=pb.TaskFilter(due_to_ms=5)))),
         "selection.filter.due_to_ms"),
        (s.Forecast(pb.ForecastRequest(step_ms=7)), "step_ms"),
    ):  # fmt: skip
        refusal = await refused(call)
        assert (refusal.status, refusal.field) == (Code.INVALID_ARGUMENT, field), refusal.text


async def test_discarding_what_is_no_dead_letter_says_so(rpc: Rpc):
    task = await rpc.scheduler.Schedule(pb.ScheduleRequest(task=pb.NewTask(delay_ms=60_000)))
    for task_id in (ID, task.id):
        refusal = await refused(rpc.scheduler.DiscardDead(pb.DiscardDeadRequest(id=task_id)))
        assert (refusal.status, refusal.code) == (Code.NOT_FOUND, "not_found")
        assert refusal.text.startswith(f"task {task_id} is no dead letter")


async def test_nodes_tell_their_workers_in_fields(rpc: Rpc):
    work = rpc.worker.Work()
    hello = wk.Hello(identity="w1", labels={"zone": "a"}, concurrency=7, functions=[wk.Function(name="f")])
    await work.write(wk.FromWorker(hello=hello))
    assert (await work.read()).HasField("welcome")

    async def listed() -> pb.NodesResponse | None:
        found: pb.NodesResponse = await rpc.scheduler.Nodes(pb.NodesRequest())
        return found if found.infos and found.infos[0].workers else None

    answer: pb.NodesResponse = await until_async(listed)
    (node,) = answer.infos
    (worker,) = node.workers
    assert (worker.identity, dict(worker.labels), worker.concurrency, worker.functions) == ("w1", {"zone": "a"}, 7, 1)
    assert worker.connected and node.worker_count == 1 and node.pid > 0 and node.host and node.version
    assert set(node.types) == {pb.TASK_TYPE_PUB_SUB, pb.TASK_TYPE_WORKER}
    assert node.seen_ms > 10**12 and node.started_ms == 1
    assert not answer.truncated
    work.cancel()
