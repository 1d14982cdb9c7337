"""What connections held is free as soon as they are gone: the collector, which comes rarely, is not needed for it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from delaybox.api.grpc import front
from delaybox.api.grpc.frames import PREFACE, Traffic
from delaybox.api.rest.http1.connection import HttpConnection
from delaybox.api.rest.http1.head import BadHead
from delaybox.api.rest.http1.reader import HttpReader
from delaybox.api.rest.http1.server import HttpServer, RefusedHead
from tests.rawgrpc import HEADERS, frame
from tests.waiting import until_async

PING = b"GET /ping HTTP/1.1\r\nHost: localhost\r\n\r\n"


before = set[int]()
"""What tests before left, which run in the same process."""


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    kept = [one for one in gc.get_objects() if isinstance(one, KINDS)]
    before.update(map(id, kept))
    yield
    before.clear()
    gc.enable()


KINDS = (HttpConnection, HttpReader, Traffic, front._Caller, front._Core)


async def gone(*kinds: type) -> None:
    """Returns when there are no objects of these kinds any more but those of tests before; an AssertionError names who
    holds what is left."""

    def left() -> list[Any]:
        return [one for one in gc.get_objects() if isinstance(one, kinds) and id(one) not in before]

    def holders() -> str:
        return "; ".join(f"{one!r} by {[type(by).__name__ for by in gc.get_referrers(one)]}" for one in left())

    await until_async(lambda: not left(), holders)


async def talk(port: int, sent: bytes, *, until: Callable[[], Any] | None = None) -> None:
    """Says it, and hangs up."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    if until is not None:
        await until_async(until)
    writer.close()
    # Otherwise the transport may still be open when the test ends. A server that hung up first is as good.
    with contextlib.suppress(OSError):
        await writer.wait_closed()


@pytest.mark.parametrize(
    "sent",
    [
        PING,
        PING * 5_000,
        PING[:20],
        b"GET http://else/ HTTP/1.1\r\nHost: localhost\r\n\r\n" + PING,
        b"\x16\x03\x01" + bytes(1_000),
        b"POST /task HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n" + bytes(300_000),
        PING.replace(b"\r\n\r\n", b"\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n") * 100,
    ],
    ids=lambda sent: repr(sent[:8]) + str(len(sent)),
)
async def test_of_http(sent: bytes):
    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    def refuse(error: BadHead) -> RefusedHead:
        return error.status, (), b""

    server = HttpServer(app, refuse, probes=frozenset(), most=10, head_s=5, idle_s=5)
    listening = socket.create_server(("127.0.0.1", 0))
    await server.start(listening, 10)
    try:
        for _ in range(3):
            await talk(listening.getsockname()[1], sent)
        await gone(HttpConnection, HttpReader)
    finally:
        await server.stop(1)


@pytest.mark.parametrize("sent", [PREFACE, PREFACE + frame(HEADERS, 0, 1) * 5_000, b"nothing"], ids=("a", "b", "c"))
async def test_of_grpc(sent: bytes, tmp_path: Path):
    async def received(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError):
                while await reader.read(65_536):
                    pass
        finally:
            writer.close()

    core = await asyncio.start_unix_server(received, tmp_path / "core")
    standing = front.Front(str(tmp_path / "core"), 1_000, 5, connections=16)
    listening = socket.create_server(("127.0.0.1", 0))
    await standing.start(listening)
    try:
        for _ in range(3):
            await talk(listening.getsockname()[1], sent)
        await gone(front._Caller, front._Core, Traffic)
    finally:
        standing.stop()
        core.close()
