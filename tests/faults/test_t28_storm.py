"""T28: hundreds of clients lose their server at one moment; a server and a node that may open few connections."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.faults.harness.checker import Limits
from tests.faults.harness.rest_load import produce_over_rest
from tests.faults.harness.rig import Rig, soon
from tests.faults.harness.scale import scaled
from tests.proc import children_of
from tests.waiting import until_async

pytestmark = [pytest.mark.faults, pytest.mark.timeout(scaled(300, 1_800))]

CLIENTS, PROCESSES = scaled((20, 2), (500, 4))
TURNS = scaled(1, 3)
SAMPLE_S = 0.01
MOST_CONNECTS = 12
"""Connections that a client may open for one restart: some are refused while the server loads, some are spare."""


class _Crowd:
    """Processes of `storm_clients`."""

    def __init__(self, rig: Rig, url: str) -> None:
        self._rig, self._url = rig, url
        self._processes: list[asyncio.subprocess.Process] = []

    async def begin(self) -> None:
        for number in range(PROCESSES):
            self._processes.append(
                await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "tests.faults.harness.storm_clients", str(self._rig.oracle), self._url),
                    *(f"c{number}-", str(CLIENTS // PROCESSES)),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                )
            )
        await self._lines("ready")

    def ask(self) -> None:
        """Each client schedules one task."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(b"\n")

    async def stored(self, turn: int) -> None:
        await self._lines(f"{turn} stored")

    async def _lines(self, text: str) -> None:
        for process in self._processes:
            assert process.stdout is not None
            assert (await process.stdout.readline()).decode().strip() == text

    async def end(self) -> None:
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.communicate()


@contextlib.asynccontextmanager
async def crowd(rig: Rig, url: str) -> AsyncIterator[_Crowd]:
    one = _Crowd(rig, url)
    try:
        await one.begin()
        yield one
    finally:
        await one.end()


class _Connects:
    """How many connections the server has accepted since it was started, looked at a hundred times a second."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self.seen: list[tuple[float, int]] = []
        self._task = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        with self._rig.server.client() as client:
            while True:
                accepted = int(client.info("stats")["total_connections_received"])
                self.seen.append((time.monotonic(), accepted))
                await asyncio.sleep(SAMPLE_S)

    async def figures(self) -> tuple[int, int]:
        """In all, and the most in a tenth of a second."""
        self._task.cancel()
        await asyncio.wait({self._task})
        most = 0
        for at, accepted in self.seen:
            before = [count for moment, count in self.seen if at - 0.1 <= moment <= at]
            most = max(most, accepted - before[0])
        return self.seen[-1][1], most


async def test_a_crowd_of_clients_comes_back_to_a_server_that_was_killed(tmp_path: Path) -> None:
    async with Rig(tmp_path, "T28") as rig:
        rig.mode = f"clients{CLIENTS}"
        await rig.service()
        worker = await rig.worker()
        async with crowd(rig, rig.server.url) as clients:
            clients.ask()
            await clients.stored(0)
            connects, most, slowest_s = 0, 0, 0.0
            for turn in range(1, TURNS + 1):
                await asyncio.to_thread(rig.server.written)
                async with rig.nemesis.during("server"):
                    rig.server.kill()
                    # All of them meet the server that is away.
                    clients.ask()
                    await asyncio.sleep(scaled(0.2, 1.0))
                    await asyncio.to_thread(rig.server.start)
                watched, back = _Connects(rig), time.monotonic()
                await clients.stored(turn)
                slowest_s = max(slowest_s, time.monotonic() - back)
                opened, at_once = await watched.figures()
                connects, most = max(connects, opened), max(most, at_once)
            count = CLIENTS * (TURNS + 1)
            await rig.drained(count, timeout_s=scaled(60, 300))
            assert worker.running
            figures = {
                "connects_per_client": round(connects / CLIENTS, 1),
                "most_connects_in_100_ms": most,
                "all_stored_s": round(slowest_s, 2),
            }
            await rig.passes(Limits(), extra=figures)
            assert connects <= MOST_CONNECTS * CLIENTS, figures


async def test_a_server_that_takes_few_connections_harms_nobody_who_is_in(tmp_path: Path) -> None:
    """Who is in goes on; who is not is refused, tries again, and gets in once there is room."""
    async with Rig(tmp_path, "T28") as rig:
        rig.mode = "maxclients"
        service = await rig.service()
        worker = await rig.worker()
        await rig.produce(service, 50, due_ms=lambda n: soon(200))
        await rig.reached(50)
        with rig.server.client() as client:
            used = int(client.info("clients")["connected_clients"])
            async with rig.nemesis.during("net"):
                client.config_set("maxclients", used + CLIENTS // 2)
                async with crowd(rig, rig.server.url) as clients:
                    clients.ask()
                    stats = client.info("stats")

                    def refused() -> bool:
                        nonlocal stats
                        stats = client.info("stats")
                        return int(stats["rejected_connections"]) > CLIENTS

                    await until_async(refused)
                    # Meanwhile those who are in schedule and fire.
                    await rig.produce(service, 50, due_ms=lambda n: soon(200), start=50)
                    await rig.reached(100)
                    client.config_set("maxclients", 10_000)
                    await clients.stored(0)
        await rig.drained(100 + CLIENTS, timeout_s=scaled(60, 300))
        assert worker.running
        await rig.passes(Limits(), extra={"refused_connections": int(stats["rejected_connections"])})


@pytest.mark.skipif(sys.platform != "linux", reason="sets the limit of a process that runs")
async def test_a_node_that_may_open_few_files_survives_a_crowd(tmp_path: Path) -> None:
    """`ulimit -n 128`: what is due fires while callers hold all that it may open, and when they go it answers again."""
    async with Rig(tmp_path, "T28") as rig:
        rig.mode = "files128"
        await rig.listen()
        node = await rig.serve()
        for pid in (node.process.pid, *children_of(node.process.pid)):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (128, 128))
        count = 100
        await produce_over_rest(rig, [node.port], count, due_ms=lambda n: soon(1_500))
        with contextlib.ExitStack() as stack:
            async with rig.nemesis.during("net"):
                for _ in range(300):
                    one = stack.enter_context(socket.socket())
                    one.setblocking(False)
                    # The kernel takes it for the node, which may have no room for it.
                    one.connect_ex(("127.0.0.1", node.port))
                await rig.reached(count)
        await produce_over_rest(rig, [node.port], count, start=count, due_ms=lambda n: soon(200))
        await rig.drained(2 * count)
        assert node.process.running
        verdict = await rig.passes(Limits())
        assert verdict.figures["lost"] == 0
