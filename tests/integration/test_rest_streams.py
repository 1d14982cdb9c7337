"""Answers in parts: they come at once, end with the caller or with the server, and hold up nobody."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest

from delaybox.api.rest.app import _stream as send_parts
from delaybox.api.rest.http1.server import HttpServer
from delaybox.api.rest.routing import Answer
from tests.waiting import PATIENCE_S

ASK = b"GET /parts HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Parts:
    """An answer that goes on until somebody ends it. ``more``: lets the next part out."""

    def __init__(self) -> None:
        self.more = asyncio.Event()
        self.ended = asyncio.Event()
        self.clients: list[Any] = []

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        self.clients.append(scope["client"])
        await send_parts(Answer(200, b"", content_type=b"text/event-stream"), self.parts(), send)

    async def parts(self) -> AsyncGenerator[bytes, None]:
        try:
            number = 0
            while True:
                yield b"part %d\n" % number
                number += 1
                await self.more.wait()
                self.more.clear()
        finally:
            self.ended.set()


@pytest.fixture
async def parts() -> Parts:
    return Parts()


@pytest.fixture
async def server(parts: Parts) -> AsyncIterator[tuple[HttpServer, int]]:
    listening = socket.create_server(("127.0.0.1", 0))
    made = HttpServer(parts.app, lambda _: (400, (), b""), probes=frozenset(), most=10, head_s=5, idle_s=5)
    await made.start(listening, 10)
    yield made, listening.getsockname()[1]
    await made.stop(5)


async def opened(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(ASK)
    head = await reader.readuntil(b"\r\n\r\n")
    assert b"content-type: text/event-stream" in head and b"connection: close" in head
    assert b"content-length" not in head
    assert await reader.readline() == b"part 0\n"
    return reader, writer


async def test_parts_come_when_they_are_made_and_end_with_the_caller(server: Any, parts: Parts) -> None:
    reader, writer = await opened(server[1])
    parts.more.set()
    assert await reader.readline() == b"part 1\n"
    assert parts.clients == [writer.get_extra_info("sockname")[:2]]
    writer.close()
    # At once, and not with a next part that may never be made.
    await asyncio.wait_for(parts.ended.wait(), PATIENCE_S)


async def test_a_server_that_stops_ends_them(server: Any, parts: Parts) -> None:
    reader, writer = await opened(server[1])
    async with asyncio.timeout(PATIENCE_S):
        await server[0].stop(60)
        assert await reader.read() == b""
        await parts.ended.wait()
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
