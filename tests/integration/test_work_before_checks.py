"""Requests made to cost much before they are looked at: refused soon, and without much memory. Real processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from http.client import HTTPConnection
from typing import Any

import grpc
import pytest

from delaybox.api.rest.settings import ApiSettings
from delaybox.wire.body import varint
from delaybox.wire.gen import scheduler_pb2 as pb
from delaybox.wire.gen import worker_pb2 as wk
from tests.children import serving
from tests.proc import processor_s
from tests.rpc import Refused, Rpc, rpc_process
from tests.servers import RealServer

SOON_S = 6.0
"""Of processor time: the attacks took 15 s and more."""
MIB = 1 << 20


def highest_mib(pid: int) -> int:
    """The most memory that a process had since it began."""
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) >> 10


@pytest.fixture
async def rpc(server: RealServer, prefix: str) -> AsyncIterator[Rpc]:
    async with rpc_process(server=server.settings, prefix=prefix) as found:
        yield found


async def answer(call: Any) -> Refused:
    try:
        while await call.read() is not grpc.aio.EOF:
            pass
        raise grpc.aio.AioRpcError(
            await call.code(), grpc.aio.Metadata(), await call.trailing_metadata(), await call.details()
        )
    except grpc.aio.AioRpcError as error:
        return Refused(error)


async def test_messages_of_millions_of_items_over_grpc(rpc: Rpc):
    inner = b"\x42\x00" * 8_000_000
    attacks = {
        "ScheduleBatch": b"\x0a\x00" * 8_000_000,
        "ScheduleStream": b"\x78\x01" + b"\x0a\x00" * 8_000_000,
        "Schedule": b"\x0a" + varint(len(inner)) + inner,
        "Watch": b"\x0a\x00" * 8_000_000,
    }
    before = highest_mib(rpc.process.pid)
    started = processor_s(rpc.process.pid)
    for method, raw in attacks.items():
        call: Any = rpc.channel.stream_stream(f"/delaybox.v1.Scheduler/{method}")
        call = call(iter([raw]))
        refusal = await answer(call)
        assert (refusal.status, refusal.code) == (grpc.StatusCode.INVALID_ARGUMENT, "too_large"), method
    assert processor_s(rpc.process.pid) - started < SOON_S
    assert highest_mib(rpc.process.pid) - before < 200, "8 million empty tasks were 1.1 GiB"


async def test_a_hello_of_millions_of_pairs_and_a_message_of_millions_of_numbers(rpc: Rpc):
    names = [f"n{n}" for n in range(2_500)]
    started = processor_s(rpc.process.pid)
    call = rpc.worker.Work()
    functions = [wk.Function(name=name) for name in names]
    await call.write(wk.FromWorker(hello=wk.Hello(queues=names, functions=functions)))
    refusal = await answer(call)
    assert (refusal.status, refusal.code) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "overloaded")
    call = rpc.worker.Work()
    await call.write(wk.FromWorker(hello=wk.Hello(functions=functions[:1])))
    assert (await call.read()).HasField("welcome")
    await call.write(wk.FromWorker(number=1, done=[1] * 4_000_000))
    refusal = await answer(call)
    assert (refusal.status, refusal.code) == (grpc.StatusCode.INVALID_ARGUMENT, "too_large")
    assert processor_s(rpc.process.pid) - started < SOON_S


async def test_ten_thousand_conflicts_are_answered_soon(rpc: Rpc):
    batches = [
        pb.ScheduleBatchRequest(tasks=[pb.NewTask(payload=text, idempotency_key=f"k{n}") for n in range(10_000)])
        for text in (b"first", b"other")
    ]
    await rpc.scheduler.ScheduleBatch(batches[0])
    started = processor_s(rpc.process.pid)
    results = (await rpc.scheduler.ScheduleBatch(batches[1])).results
    assert [r.error.code for r in results] == ["idempotency_conflict"] * 10_000
    assert "'k9999' already belongs to task " in results[-1].error.message
    assert processor_s(rpc.process.pid) - started < 10, "it took 5 ms for each"


def post(port: int, path: str, body: bytes) -> tuple[int, bytes]:
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        found = connection.getresponse()
        return found.status, found.read()
    finally:
        connection.close()


async def test_millions_of_items_and_endless_delays_over_rest(server: RealServer, prefix: str):
    api = await serving(ApiSettings(server=server.settings, prefix=prefix, grace_s=1.0))
    try:
        empty = b'{"tasks":[' + b",".join([b"{}"] * 5_000_000) + b"]}"
        numbers = b'{"tasks":[],"x":[' + b",".join([b"1"] * 7_000_000) + b"]}"
        delay = b'{"tasks":[{"delay":"' + b"1h" * 7_500_000 + b'"}]}'
        before = highest_mib(api.pid)
        started = processor_s(api.pid)
        status, text = await asyncio.to_thread(post, api.port, "/v1/tasks/batch", empty)
        assert (status, b"more than 10000 tasks" in text) == (413, True)
        status, text = await asyncio.to_thread(post, api.port, "/v1/tasks/batch", numbers)
        assert (status, b"values" in text) == (400, True)
        status, text = await asyncio.to_thread(post, api.port, "/v1/tasks/batch", delay)
        assert (status, b'"status":413' in text) == (200, True)
        status, text = await asyncio.to_thread(post, api.port, "/v1/tasks", b'{"delay":"' + b"1h" * 700_000 + b'"}')
        assert (status, b"which is not a duration" in text) == (400, True)
        assert processor_s(api.pid) - started < SOON_S
        assert highest_mib(api.pid) - before < 200, "5 million empty tasks were 453 MiB"
    finally:
        await api.stop()
