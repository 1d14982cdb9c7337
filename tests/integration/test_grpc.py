"""The gRPC process over a real store: schedule, look, change; errors with their details; its life."""

from __future__ import annotations

import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from delaybox.processes.sockets import CannotListen
from delaybox.wire.gen import scheduler_pb2 as pb
from tests.nodes import node
from tests.rpc import Rpc, refused, rpc_process
from tests.servers import RealServer
from tests.waiting import PATIENCE_S

FAR_MS = 3_600_000


@pytest.fixture
async def rpc(server: RealServer, prefix: str) -> AsyncIterator[Rpc]:
    async with rpc_process(server=server.settings, prefix=prefix) as found:
        yield found


async def schedule(rpc: Rpc, **fields: Any) -> str:
    task = pb.NewTask(**({"delay_ms": FAR_MS} | fields))
    return str((await rpc.scheduler.Schedule(pb.ScheduleRequest(task=task))).id)


async def test_what_is_scheduled_is_found_as_it_was_given(rpc: Rpc):
    task_id = await schedule(
        rpc,
        payload=b"\x00\xff",
        type=pb.TASK_TYPE_WORKER,
        queue="mail",
        priority=pb.PRIORITY_HIGH,
        name="send",
        headers={"h": b"\x01"},
        labels={"team": "a"},
        timeout_ms=5_000,
        expire_after_ms=60_000,
        keep_result_ms=1_000,
    )
    found = await rpc.scheduler.Get(pb.GetRequest(id=task_id))
    assert found == pb.TaskInfo(
        id=task_id,
        state=pb.TASK_STATE_SCHEDULED,
        due_ms=found.due_ms,
        type=pb.TASK_TYPE_WORKER,
        queue="mail",
        priority=pb.PRIORITY_HIGH,
        name="send",
        payload=b"\x00\xff",
        headers={"h": b"\x01"},
        labels={"team": "a"},
        timeout_ms=5_000,
        expire_after_ms=60_000,
        keep_result_ms=1_000,
    )


async def test_a_batch_answers_each_task_in_order(rpc: Rpc):
    good = pb.NewTask(payload=b"x", delay_ms=FAR_MS, idempotency_key="k")
    other = pb.NewTask(payload=b"y", delay_ms=FAR_MS, idempotency_key="k")
    bad = pb.NewTask(payload=b"x", delay_ms=FAR_MS, queue="A")
    answer = await rpc.scheduler.ScheduleBatch(pb.ScheduleBatchRequest(tasks=[good, bad, good, other]))
    first, refusal, again, conflict = answer.results
    assert first.created and not first.HasField("error")
    assert (refusal.id, refusal.error.code, refusal.error.field) == ("", "invalid_task", "queue")
    assert (again.id, again.created) == (first.id, False)
    assert (conflict.id, conflict.error.code) == (first.id, "idempotency_conflict")


async def test_cancel_move_and_run_now(rpc: Rpc):
    task_id = await schedule(rpc, payload=b"x")
    moved = await rpc.scheduler.Reschedule(
        pb.RescheduleRequest(id=task_id, due_ms=4_000_000_000_000, payload=b"y", labels=pb.Labels(values={"a": "b"}))
    )
    assert (moved.due_ms, moved.payload, dict(moved.labels)) == (4_000_000_000_000, b"y", {"a": "b"})
    due = (await rpc.scheduler.RunNow(pb.RunNowRequest(id=task_id))).due_ms
    assert due < 4_000_000_000_000
    assert not (await rpc.scheduler.Cancel(pb.CancelRequest(id=task_id))).signalled
    gone = await refused(rpc.scheduler.Get(pb.GetRequest(id=task_id)))
    assert (gone.status, gone.code) == (grpc.StatusCode.NOT_FOUND, "not_found")


async def test_health_is_that_of_the_store(rpc: Rpc):
    health: Any = HealthStub(rpc.channel)
    for name in ("", "delaybox.v1.Scheduler"):
        answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    unknown = await refused(health.Check(health_pb2.HealthCheckRequest(service="nobody")))
    assert unknown.status is grpc.StatusCode.NOT_FOUND


async def test_a_port_that_is_taken_is_refused_in_words(server: RealServer, prefix: str):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(CannotListen, match=r"taken.*--grpc-port"):
            async with rpc_process(server=server.settings, prefix=prefix, port=other.getsockname()[1]):
                pass


async def test_a_node_serves_grpc_beside_rest(server: RealServer, prefix: str, tmp_path: Path):
    flags = ("--redis", server.url, "--set", f"storage.prefix={prefix}", "--http-port", "0")
    with node(*flags, folder=tmp_path) as running:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{running.grpc_port}") as channel:
            health: Any = HealthStub(channel)
            answer = await health.Check(health_pb2.HealthCheckRequest())
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(PATIENCE_S) == 0
