"""Three nodes in turn, behind nginx as deploy/ sets it up and behind a balancer that only passes connections on: the
original's shell tasks, each of which must run exactly once."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.faults.harness.rig import Rig, soon
from tests.faults.harness.scale import FULL
from tests.proxy_nginx import needs_nginx, nginx
from tests.waiting import until_async

pytestmark = [
    pytest.mark.faults,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not FULL, reason="starting whole nodes takes longer than a short run may"),
]

NODES = 3
COUNT = 1_000
SHELL = {"DELAYBOX_WORKERS_SHELL_ENABLED": "true"}
Balancer: TypeAlias = Callable[[Sequence[int], Path], AbstractAsyncContextManager[int]]


def coded(command: str) -> str:
    """A payload as the original takes it."""
    return base64.b64encode(command.encode()).decode()


@contextlib.asynccontextmanager
async def passed_on_in_turn(ports: Sequence[int], _: Path) -> AsyncIterator[int]:
    """The port of a proxy that passes each connection on to the next of ``ports``."""
    turns = itertools.cycle(ports)

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(1 << 16):
                sink.write(data)
                await sink.drain()
        sink.close()

    async def passed_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", next(turns))
        await asyncio.gather(pump(reader, back), pump(there, writer))

    server = await asyncio.start_server(passed_on, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@contextlib.asynccontextmanager
async def behind_nginx(ports: Sequence[int], folder: Path) -> AsyncIterator[int]:
    """The port of nginx in front of ``ports``, which it takes in turn, request by request."""
    # Nobody calls its port of gRPC.
    with nginx(folder / "nginx", ports, ports) as (port, _):
        yield port


async def post(port: int, body: object) -> int:
    """One request on a connection of its own, as the original's script sends it; its status."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    data = json.dumps(body).encode()
    head = (
        f"POST /task HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n"
    )
    writer.write(head.encode() + b"Connection: close\r\n\r\n" + data)
    answer = await reader.read()
    writer.close()
    return int(answer.split(b" ", 2)[1])


async def took(port: int) -> bool:
    """Whether a node took in tasks of the original's form."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    answer = await reader.read()
    writer.close()
    return re.search(rb'^delaybox_http_requests_total\{[^}]*"/task"', answer, re.MULTILINE) is not None


@pytest.mark.parametrize(
    "balancer", [pytest.param(behind_nginx, marks=needs_nginx, id="nginx"), pytest.param(passed_on_in_turn, id="tcp")]
)
async def test_each_shell_task_of_the_original_runs_exactly_once(balancer: Balancer, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    async with Rig(tmp_path, "turns", partitions=16) as rig:
        nodes = await asyncio.gather(*(rig.serve(env=SHELL) for _ in range(NODES)))
        due_ms = soon(20_000)
        async with balancer([node.port for node in nodes], tmp_path) as port:
            numbers = iter(range(COUNT))

            async def caller() -> None:
                for n in numbers:
                    parameter = {"executionTimestamp": str(due_ms + n % 50)}
                    body = {"taskType": "SHELL_CMD", "parameter": parameter, "pyload": coded(f"echo {n} >> {ran}")}
                    assert await post(port, body) in (200, 201)

            await asyncio.gather(*(caller() for _ in range(8)))
        assert all([await took(node.port) for node in nodes]), "the balancer left a node out"

        def done() -> list[int]:
            return [int(line) for line in ran.read_text().split()] if ran.exists() else []

        await until_async(lambda: len(set(done())) >= COUNT, within_s=300)
        await rig.settled()
        assert Counter(done()) == Counter(range(COUNT))
