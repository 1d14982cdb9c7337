"""A gRPC process whose tasks wait too long refuses further calls with new tasks, and answers everything else."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from delaybox.api.grpc.guard import Guard
from delaybox.api.grpc.scheduler import Scheduler
from delaybox.api.grpc.server import front_of, listen, make_server
from delaybox.api.grpc.settings import GrpcSettings
from delaybox.api.tokens import Tokens
from delaybox.service import Service
from delaybox.wire.gen import scheduler_pb2 as pb
from delaybox.wire.gen.scheduler_pb2_grpc import SchedulerStub
from tests.overload import overloaded
from tests.rpc import Refused, refused

NOT_READ = b"\xff this is no message"


@pytest.fixture
async def calls() -> AsyncIterator[tuple[grpc.aio.Channel, list[str]]]:
    """A channel to a process without a store, and a line for each call that was refused."""
    settings, lines = GrpcSettings(), list[str]()
    service = Service(shedding=overloaded(lambda: lines.append("refused")))
    with front_of(settings) as front, socket.create_server(("127.0.0.1", 0)) as listening:
        guard = Guard(Tokens(()), limit=front.limit, message_s=front.message_s, know=front.know)
        server = make_server(settings, [Scheduler(service, settings.rules())], guard)
        await listen(server, front, listening)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{listening.getsockname()[1]}") as channel:
            yield channel, lines
        await server.stop(None)
        front.stop()


@pytest.mark.parametrize("method", ["Schedule", "ScheduleBatch", "ScheduleStream"])
async def test_calls_with_new_tasks_are_refused_unread(calls: tuple[grpc.aio.Channel, list[str]], method: str) -> None:
    channel, lines = calls
    if method == "ScheduleStream":
        # grpc's own client loses a status that comes before it has sent a message.
        call: Any = channel.stream_stream(f"/delaybox.v1.Scheduler/{method}")()
        refusal: Refused = await refused(call)
    else:
        ask: Any = channel.unary_unary(f"/delaybox.v1.Scheduler/{method}")
        refusal = await refused(ask(NOT_READ))
    assert (refusal.status, refusal.code) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "overloaded"), refusal.text
    assert refusal.retry_after_ms == 1_000 and "wait longer than 100 ms" in refusal.text
    assert lines == ["refused"]


async def test_other_calls_go_on(calls: tuple[grpc.aio.Channel, list[str]]) -> None:
    channel, lines = calls
    scheduler: Any = SchedulerStub(channel)  # type: ignore[no-untyped-call]
    for call in (scheduler.Get(pb.GetRequest(id="x")), scheduler.Queues(pb.QueuesRequest())):
        refusal = await refused(call)
        assert refusal.code != "overloaded"
    assert lines == []
