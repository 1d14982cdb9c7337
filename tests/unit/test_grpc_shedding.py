"""A gRPC process whose tasks wait too long refuses further calls with new tasks, and answers everything else."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from delaybox import AsyncClient, NewTask
from delaybox.api.grpc import scheduler
from delaybox.api.grpc.guard import Guard
from delaybox.api.grpc.scheduler import Scheduler
from delaybox.api.grpc.server import front_of, listen, make_server
from delaybox.api.grpc.settings import GrpcSettings
from delaybox.api.tokens import Tokens
from delaybox.core.errors import Overloaded
from delaybox.service import Service
from delaybox.service.shedding import Shedding
from delaybox.wire.gen import scheduler_pb2 as pb
from delaybox.wire.gen.scheduler_pb2_grpc import SchedulerStub
from tests.overload import overloaded
from tests.rpc import Refused, refused
from tests.waiting import until_async

NOT_READ = b"\xff this is no message"


@contextlib.asynccontextmanager
async def process(shedding: Shedding) -> AsyncIterator[str]:
    """The address of a process without a store."""
    settings, service = GrpcSettings(), Service(shedding=shedding)
    with front_of(settings) as front, socket.create_server(("127.0.0.1", 0)) as listening:
        guard = Guard(Tokens(()), limit=front.limit, message_s=front.message_s, know=front.know)
        server = make_server(settings, [Scheduler(service, settings.rules())], guard)
        await listen(server, front, listening)
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        # A client that has closed its channel may just have connected again: what is accepted is known a turn later.
        front.refuse()
        await server.stop(None)
        await until_async(lambda: not (front._known or front._unknown))
        front.stop()


@pytest.fixture
async def calls() -> AsyncIterator[tuple[grpc.aio.Channel, list[str]]]:
    """A channel to such a process, and a line for each call that was refused."""
    lines = list[str]()
    async with (
        process(overloaded(lambda: lines.append("refused"))) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        yield channel, lines


@pytest.mark.parametrize("method", ["Schedule", "ScheduleBatch", "ScheduleStream"])
async def test_calls_with_new_tasks_are_refused_unread(
    calls: tuple[grpc.aio.Channel, list[str]], method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "_ROOM_S", 0.001)
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
    stub: Any = SchedulerStub(channel)  # type: ignore[no-untyped-call]
    for call in (stub.Get(pb.GetRequest(id="x")), stub.Queues(pb.QueuesRequest())):
        refusal = await refused(call)
        assert refusal.code != "overloaded"
    assert lines == []


async def test_a_stream_of_batches_begins_when_a_call_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused at once, a client of asyncio could not tell that nothing was stored."""
    monkeypatch.setattr(scheduler, "_ROOM_S", 600.0)
    lines = list[str]()
    shedding = Shedding(0.1, on_refused=lambda: lines.append("refused"), now=lambda: 0.0)
    shedding.waited(0.0)
    shedding.bound = shedding.under_way = 1_000
    async with process(shedding) as address, AsyncClient(address, retries=0) as client:
        coming = asyncio.ensure_future(anext(client.schedule_each([NewTask.publish(b"x")])))
        await until_async(lambda: shedding._waiters)
        shedding.answered()
        assert "the store is being opened" in str(await coming)
    assert lines == [] and not shedding._waiters


async def test_a_python_client_knows_that_nothing_was_stored() -> None:
    async with process(overloaded()) as address, AsyncClient(address, retries=0) as client:
        with pytest.raises(Overloaded, match="wait longer than 100 ms"):
            await client.publish(b"x")
