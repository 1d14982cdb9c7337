"""A REST server that stops answers what callers have sent, and resets nobody."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from delaybox.api.rest.http1.head import BadHead
from delaybox.api.rest.http1.server import HttpServer, RefusedHead
from tests.waiting import PATIENCE_S

PING = b"GET /ping HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def answered(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def refuse(error: BadHead) -> RefusedHead:
    return error.status, (), b""


async def serving() -> tuple[HttpServer, int]:
    server = HttpServer(answered, refuse, probes=frozenset(), most=10, head_s=5, idle_s=5)
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setblocking(False)
    port: int = listening.getsockname()[1]
    await server.start(listening, 10)
    return server, port


async def test_a_request_on_an_idle_connection_is_answered_and_the_connection_closed() -> None:
    server, port = await serving()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(PING)
    assert b"connection: close" not in await reader.readuntil(b"\r\n\r\n")
    stopping = asyncio.create_task(server.stop(5))
    while not server.stopping:
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    writer.write(PING)
    answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 204") and b"connection: close" in answer
    writer.close()
    await stopping


async def test_a_proxy_closes_what_it_does_not_use() -> None:
    server, port = await serving()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    direct, other = await asyncio.open_connection("127.0.0.1", port)
    forwarded = PING.replace(b"\r\n\r\n", b"\r\nX-Forwarded-For: 10.0.0.1\r\n\r\n")
    for out, request, answers in ((writer, forwarded, reader), (other, PING, direct)):
        out.write(request)
        await answers.readuntil(b"\r\n\r\n")
    stopping = asyncio.create_task(server.stop(60))
    # The caller without a proxy is left first; a request of the proxy's is answered even then.
    assert await direct.read() == b""
    writer.write(forwarded)
    answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 204") and b"connection: close" in answer
    for out in (writer, other):
        out.close()
    await stopping


async def test_a_proxy_that_closes_nothing_does_not_hold_it_up() -> None:
    server, port = await serving()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(PING.replace(b"\r\n\r\n", b"\r\nVia: 1.1 edge\r\n\r\n"))
    await reader.readuntil(b"\r\n\r\n")
    async with asyncio.timeout(PATIENCE_S):
        await server.stop(60)
    assert await reader.read() == b""
    writer.close()


async def test_a_connection_that_waits_to_be_accepted_is_answered() -> None:
    server, port = await serving()
    # No turn of the loop lies between the connecting and the stop.
    callers = [socket.create_connection(("127.0.0.1", port)) for _ in range(3)]
    for caller in callers:
        caller.sendall(PING)
        caller.setblocking(False)
    stopping = asyncio.create_task(server.stop(5))
    loop = asyncio.get_running_loop()
    for caller in callers:
        assert (await loop.sock_recv(caller, 1_000)).startswith(b"HTTP/1.1 204")
        caller.close()
    await stopping


async def test_a_request_that_comes_when_all_others_had_gone_is_waited_for() -> None:
    """A process that stops says so some time before it accepts no more, so that each answer closes its connection."""
    begun, over = asyncio.Event(), asyncio.Event()

    async def held_up(scope: Any, receive: Any, send: Any) -> None:
        begun.set()
        await over.wait()
        await answered(scope, receive, send)

    server, port = await serving()
    server.stopping = True
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(PING)
    assert b"connection: close" in await reader.read()
    writer.close()
    server.app = held_up
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(PING)
    await begun.wait()
    stopping = asyncio.create_task(server.stop(60))
    for _ in range(100):
        await asyncio.sleep(0)
    assert not stopping.done()
    over.set()
    assert (await reader.read()).startswith(b"HTTP/1.1 204")
    writer.close()
    await stopping


async def test_a_connection_on_which_nothing_comes_does_not_hold_it_up() -> None:
    server, port = await serving()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(PING)
    await reader.readuntil(b"\r\n\r\n")
    async with asyncio.timeout(PATIENCE_S):
        await server.stop(60)
    assert await reader.read() == b""
    writer.close()
