"""gRPC calls made to fill memory and streams, before the token is looked at and after. Real sockets and processes."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from delaybox.api.grpc.front import FIRST_FRAMES, UNKNOWN_FRAMES
from delaybox.core.scopes import Access, Token
from delaybox.wire.gen import scheduler_pb2 as pb
from tests.rawgrpc import ACK, PREFACE, SETTINGS, Raw, frame, message
from tests.rpc import Rpc, refused, rpc_process
from tests.servers import RealServer
from tests.spent import Spent

MIB = 1 << 20
SECRET = "a-token-of-this-test-alone"
BEARER = f"Bearer {SECRET}"
SCHEDULE = "/delaybox.v1.Scheduler/Schedule"
BATCH = "/delaybox.v1.Scheduler/ScheduleBatch"
STREAM = "/delaybox.v1.Scheduler/ScheduleStream"
CHECK = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"
REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
PATIENCE_S = 2.0
HANGS_S = 90.0


@pytest.fixture
async def rpc(server: RealServer, prefix: str) -> AsyncIterator[Rpc]:
    tokens = (Token.of(SECRET, tuple(Access)),)
    async with rpc_process(server=server.settings, prefix=prefix, tokens=tokens, message_timeout_s=PATIENCE_S) as found:
        yield found


def memory_mib(rpc: Rpc, what: str = "VmRSS") -> int:
    text = Path(f"/proc/{rpc.process.pid}/status").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith(what)) >> 10


async def others_are_served(rpc: Rpc) -> None:
    """Health answers, and who has a token may call, each over a connection of its own."""
    for method, metadata in ((CHECK, ()), (BATCH, (("authorization", BEARER),))):
        options = (("grpc.use_local_subchannel_pool", 1),)
        async with grpc.aio.insecure_channel(rpc.address, options) as channel:
            request = b"" if method == CHECK else pb.ScheduleBatchRequest(tasks=[pb.NewTask(delay_ms=60_000)])
            raw = request if isinstance(request, bytes) else request.SerializeToString()
            call: Any = channel.unary_unary(method)
            answer = await call(raw, metadata=metadata, timeout=HANGS_S)
            assert answer, method


async def sends(connection: Raw, stream: int, raw: bytes) -> None:
    with contextlib.suppress(OSError):
        await connection.send(stream, raw)


async def test_unfinished_messages_without_a_token(rpc: Rpc):
    """30 of them held 480 MiB: now each connection holds little, and each call ends."""
    before = memory_mib(rpc)
    part = message(b"x" * 15 * MIB, claimed=16 * MIB)
    async with contextlib.AsyncExitStack() as stack:
        raws = [await stack.enter_async_context(Raw(rpc.process.port)) for _ in range(30)]
        paths = (CHECK, WATCH, REFLECTION, SCHEDULE, BATCH, STREAM)
        sending = [
            asyncio.create_task(sends(raw, raw.call(paths[n % len(paths)], authorization="Bearer wrong"), part))
            for n, raw in enumerate(raws)
        ]
        await asyncio.sleep(PATIENCE_S / 2)
        await others_are_served(rpc)
        assert memory_mib(rpc) - before < 40
        async with asyncio.timeout(60):
            await asyncio.gather(*sending)
        assert memory_mib(rpc, "VmHWM") - before < 60
        assert all(raw.closed or raw.ended.is_set() for raw in raws)
    await others_are_served(rpc)


@pytest.mark.parametrize("path", [SCHEDULE, CHECK])
async def test_small_bodies_that_inflate_without_a_token(rpc: Rpc, path: str):
    """80 calls of 16 KB made 1.3 GiB, of which 3.3 GiB were left after thousands."""
    bomb = message(gzip.compress(bytes(16 * MIB), 9), compressed=True)
    assert len(bomb) < 20_000
    await others_are_served(rpc)
    before = memory_mib(rpc)
    for _ in range(4):
        async with Raw(rpc.process.port) as raw:
            for _ in range(80):
                stream = raw.call(path, grpc_encoding="gzip")
                with contextlib.suppress(OSError):
                    await raw.send(stream, bomb, end=True)
                await raw.answered(stream)
    assert memory_mib(rpc, "VmHWM") - before < 60
    await others_are_served(rpc)


async def test_bodies_that_inflate_with_a_token_are_dropped_when_they_are_refused(rpc: Rpc):
    task = pb.ScheduleRequest(task=pb.NewTask(payload=bytes(15 * MIB))).SerializeToString()
    bomb = message(gzip.compress(task, 1), compressed=True)
    async with Raw(rpc.process.port) as raw:

        async def one() -> bytes:
            stream = raw.call(SCHEDULE, grpc_encoding="gzip", authorization=BEARER)
            await raw.send(stream, bomb, end=True)
            return await raw.answered(stream)

        assert b"grpc-message" in await one()
        before = memory_mib(rpc)
        for _ in range(3):
            answers = await asyncio.gather(*(one() for _ in range(20)))
            assert all(answers)
        assert memory_mib(rpc) - before < 100, "each inflates to 15 MiB"
    await others_are_served(rpc)


async def test_a_compressed_request_is_as_good_as_a_plain_one(rpc: Rpc):
    batch = pb.ScheduleBatchRequest(tasks=[pb.NewTask(payload=b"x" * 100, delay_ms=60_000)] * 1_000)
    metadata = (("authorization", BEARER),)
    for compression in (grpc.Compression.NoCompression, grpc.Compression.Gzip):
        answer = await rpc.scheduler.ScheduleBatch(batch, metadata=metadata, compression=compression)
        assert len([r for r in answer.results if r.created]) == 1_000
    large = pb.ScheduleBatchRequest(tasks=[pb.NewTask(payload=bytes(MIB))] * 17)
    for compression in (grpc.Compression.NoCompression, grpc.Compression.Gzip):
        error = await refused(rpc.scheduler.ScheduleBatch(large, metadata=metadata, compression=compression))
        assert (error.status, error.code) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "too_large")
        assert error.metadata["limit"] == str(16 * MIB + 128 * 1024)
    error = await refused(rpc.scheduler.ScheduleBatch(batch, metadata=metadata, compression=grpc.Compression.Deflate))
    assert error.status is grpc.StatusCode.UNIMPLEMENTED
    # The same connection goes on as before.
    assert len((await rpc.scheduler.ScheduleBatch(batch, metadata=metadata)).results) == 1_000


async def test_a_message_of_which_only_a_part_comes_ends(rpc: Rpc):
    """That of a unary call with a status, after which the connection goes on; that of a stream with the connection."""
    part = message(b"x" * 100_000, claimed=MIB)
    started = time.monotonic()
    async with Raw(rpc.process.port) as raw, Raw(rpc.process.port) as other:
        stream = raw.call(BATCH, authorization=BEARER)
        await raw.send(stream, part)
        streaming = other.call(STREAM, authorization=BEARER)
        await other.send(streaming, message(pb.ScheduleBatchRequest(tasks=[pb.NewTask()]).SerializeToString()))
        await other.send(streaming, part)
        async with asyncio.timeout(HANGS_S):
            assert b"was not complete within 2 s" in await raw.answered(stream)
            idle = raw.call(BATCH, authorization=BEARER)
            assert b"was not complete within 2 s" in await raw.answered(idle)
            await other.ended.wait()
        assert time.monotonic() - started >= PATIENCE_S
        assert not raw.ended.is_set()
        good = raw.call(BATCH, authorization=BEARER)
        await raw.send(good, message(pb.ScheduleBatchRequest(tasks=[pb.NewTask()]).SerializeToString()), end=True)
        assert await raw.answered(good)


async def test_streams_of_headers_alone_lock_nobody_out(rpc: Rpc):
    """14,000 on one connection did: a connection has 100, and calls without a token have places of their own."""
    async with contextlib.AsyncExitStack() as stack:
        flood = await stack.enter_async_context(Raw(rpc.process.port))
        for _ in range(3_000):
            flood.call(WATCH)
        for _ in range(25):
            raw = await stack.enter_async_context(Raw(rpc.process.port))
            for n in range(100):
                raw.call((CHECK, WATCH, REFLECTION, STREAM)[n % 4])
        started = Spent(lambda: [rpc.process.pid])
        await others_are_served(rpc)
        assert started.s() < 15
        async with asyncio.timeout(HANGS_S):
            await flood.ended.wait()


async def test_frames_of_a_caller_without_a_token_are_few(rpc: Rpc):
    """Each costs the front and the core time: two connections full of them left health unanswered for seconds."""
    reader, writer = await asyncio.open_connection("127.0.0.1", rpc.process.port)
    acknowledged = frame(SETTINGS, ACK, 0)
    writer.write(PREFACE + frame(SETTINGS, 0, 0) * 50_000)
    found, started = b"", time.monotonic()
    async with asyncio.timeout(HANGS_S):
        with contextlib.suppress(OSError):
            while received := await reader.read(65_536):
                found += received
    took = time.monotonic() - started
    writer.close()
    assert 50 < found.count(acknowledged) < FIRST_FRAMES + UNKNOWN_FRAMES * (took + 2) < 50_000
    await others_are_served(rpc)


async def test_connections_that_say_nothing_make_room_for_new_ones(rpc: Rpc):
    async with contextlib.AsyncExitStack() as stack:
        known = await stack.enter_async_context(Raw(rpc.process.port))
        body = message(pb.ScheduleBatchRequest(tasks=[pb.NewTask(delay_ms=60_000)]).SerializeToString())
        first = known.call(BATCH, authorization=BEARER)
        await known.send(first, body, end=True)
        assert await known.answered(first)
        silent = [await stack.enter_async_context(Raw(rpc.process.port)) for _ in range(520)]
        await others_are_served(rpc)
        async with asyncio.timeout(HANGS_S):
            await silent[0].ended.wait()
        assert not silent[-1].ended.is_set()
        again = known.call(BATCH, authorization=BEARER)
        await known.send(again, body, end=True)
        assert await known.answered(again), "who had called with a token stays"


async def test_what_is_no_grpc_is_cut(rpc: Rpc):
    for opening in (b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nXX"):
        reader, writer = await asyncio.open_connection("127.0.0.1", rpc.process.port)
        writer.write(opening)
        async with asyncio.timeout(HANGS_S):
            with contextlib.suppress(OSError):
                while await reader.read(65_536):
                    pass
        writer.close()
    await others_are_served(rpc)
