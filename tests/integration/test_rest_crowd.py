"""Callers who hold every connection, and heads that never end: who is still answered, and what it costs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import socket
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from delaybox.api.rest.http1.server import RESERVE
from tests.children import Served
from tests.memory import resident_kib
from tests.rest import rest_process
from tests.servers import RealServer
from tests.shared import a_prefix, kept
from tests.waiting import until_async

MOST = 20
SLOW_BODY = b"POST /task HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{"
HALF_A_HEAD = b"GET /v1/tasks HTTP/1.1\r\nHost: localhost\r\nX: "


@pytest.fixture(scope="module")
def shared(server: RealServer) -> Iterator[Served]:
    with kept(rest_process(server=server.settings, prefix=a_prefix(), max_connections=MOST)) as process:
        yield process


@pytest.fixture
async def api(shared: Served) -> Served:
    """One that has `MOST` places, all of them free."""
    await seen(lambda: ask(shared.port, "/v1/tasks")[0] == 200)
    return shared


@contextlib.contextmanager
def held(port: int, count: int, begin: bytes = b"") -> Iterator[list[socket.socket]]:
    """So many connections that are opened, begun and kept."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 4 * count + 500:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4 * count + 500), hard))
    opened = []
    try:
        for _ in range(count):
            one = socket.create_connection(("127.0.0.1", port), timeout=5)
            opened.append(one)
            if begin:
                one.sendall(begin)
        yield opened
    finally:
        for one in opened:
            one.close()


def ask(port: int, path: str, method: bytes = b"GET") -> tuple[int, dict[str, str], bytes]:
    """A request on a connection of its own; status 0 where the node hung up."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as one:
        one.sendall(method + b" " + path.encode() + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        out = b""
        with contextlib.suppress(ConnectionError):
            while received := one.recv(65536):
                out += received
    if not out:
        return 0, {}, b""
    head, _, body = out.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    return int(status.split()[1]), dict(line.lower().split(": ", 1) for line in lines), body


async def seen(what: Callable[[], bool]) -> None:
    """Returns when it holds; the node has read by then what was sent before."""
    await until_async(lambda: asyncio.to_thread(what))


async def test_whoever_sends_nothing_holds_up_nobody(api: Served):
    for begin in (b"", HALF_A_HEAD):
        with held(api.port, 5 * MOST, begin):
            for path in ("/livez", "/readyz", "/metrics", "/v1/tasks"):
                status, _, body = await asyncio.to_thread(ask, api.port, path)
                assert status == 200, (begin, path, body)


async def test_probes_are_answered_when_callers_hold_every_connection(api: Served):
    with held(api.port, MOST, SLOW_BODY) as callers:
        # From now on the rest of the callers are refused, at once and in words.
        await seen(lambda: ask(api.port, "/v1/tasks")[0] == 503)
        status, headers, body = await asyncio.to_thread(ask, api.port, "/v1/tasks")
        assert (status, headers["retry-after"], headers["connection"]) == (503, "1", "close")
        assert json.loads(body)["code"] == "too_many_connections"
        assert headers["x-content-type-options"] == "nosniff"
        for path in ("/livez", "/readyz", "/metrics"):
            assert (await asyncio.to_thread(ask, api.port, path))[0] == 200, path
        # The reserve cannot be used up either: whoever came first and asked nothing goes.
        with held(api.port, RESERVE + 20):
            for path in ("/livez", "/readyz", "/metrics"):
                assert (await asyncio.to_thread(ask, api.port, path))[0] == 200, path
        # Requests that were under way are not harmed.
        callers[0].sendall(b" " * 48 + b"}")
        assert callers[0].recv(4096).startswith(b"HTTP/1.1 200")
    await seen(lambda: ask(api.port, "/v1/tasks")[0] == 200)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_heads_that_never_end_cost_little(server: RealServer, prefix: str):
    async with rest_process(server=server.settings, prefix=prefix) as api:
        await heads_that_never_end(api)


async def heads_that_never_end(api: Served) -> None:
    before = resident_kib(api.pid)
    begin = HALF_A_HEAD + b"a" * 200_000
    count = 200

    def answered(one: socket.socket) -> bytes:
        with contextlib.suppress(OSError):
            return one.recv(4096)
        return b""

    with contextlib.ExitStack() as stack:
        opened = stack.enter_context(held(api.port, count, HALF_A_HEAD))
        for one in opened:
            with contextlib.suppress(OSError):  # past what is taken it hangs up
                one.sendall(b"a" * 200_000)
        answers = await asyncio.gather(*(asyncio.to_thread(answered, one) for one in opened))
        grown = resident_kib(api.pid) - before
    assert {answer[9:12] for answer in answers} <= {b"431", b""}
    assert len(begin) * count / 1024 > 35_000
    assert grown < 12_000, f"{grown} KiB for {count} heads of 200 kB"


async def test_a_head_has_its_time_and_an_idle_connection_its_own(server: RealServer, prefix: str):
    limits: dict[str, Any] = {"header_timeout_s": 0.3, "idle_timeout_s": 1.5}
    async with rest_process(server=server.settings, prefix=prefix, **limits) as api:
        await each_has_its_time(api)


async def each_has_its_time(api: Served) -> None:
    with held(api.port, 1, HALF_A_HEAD) as (slow,), held(api.port, 1, b"") as (silent,), held(api.port, 1) as (idle,):
        # Its time begins with the answer, which may be read late.
        begun = time.monotonic()
        idle.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert idle.recv(4096).startswith(b"HTTP/1.1 200")
        answer = await asyncio.to_thread(slow.recv, 4096)
        assert answer.startswith(b"HTTP/1.1 408"), answer
        assert b"head_too_slow" in answer
        assert await asyncio.to_thread(silent.recv, 4096) == b""
        assert await asyncio.to_thread(idle.recv, 4096) == b""
        assert time.monotonic() - begun > 1.0, "an idle connection was not given its time"


async def test_an_answer_that_nobody_reads_is_given_up_with_its_connection(api: Served):
    with held(api.port, MOST) as callers:
        for one in callers:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            one.sendall(b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await seen(lambda: ask(api.port, "/livez")[0] == 200)
