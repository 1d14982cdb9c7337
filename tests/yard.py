"""A store, gRPC processes on it, and workers: in the test's own process, or as processes to be killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from delaybox.store.fsck import fsck
from delaybox.store.servers import Servers
from delaybox.store.store import Store
from delaybox.wire.gen import scheduler_pb2 as pb
from delaybox.worker import Runner
from tests import worker_app
from tests.engines import running, until
from tests.faults.harness.proxy import Proxy
from tests.rpc import Rpc, rpc_process
from tests.servers import RealServer
from tests.waiting import PATIENCE_S, until_async
from tests.worker_app import Oracle

QUICK = {"heartbeat_ms": 300, "lease_ms": 3_000}
"""Of nodes and workers: who is silent for three beats is given up. On a busy machine a worker that is well may be."""
PATIENT = {"heartbeat_ms": 5_000, "lease_ms": 15_000}
"""For tests in which nothing may run twice, whatever the machine does: a node takes seconds to start on a busy one."""


class Yard:
    """A store with a clock, gRPC processes on it, and workers in the test's own process."""

    def __init__(
        self,
        server: RealServer,
        prefix: str,
        store: Store,
        oracle: Oracle,
        stack: contextlib.AsyncExitStack,
        *,
        way: str = "grpc",
        beats: Mapping[str, int] | None = None,
    ) -> None:
        self.way = way
        self._beats = beats or QUICK
        self._server = server
        self._prefix = prefix
        self._stack = stack
        self.store = store
        self.oracle = oracle
        self.rpc: Rpc

    async def node(self, **changes: Any) -> Rpc:
        settings = {**self._beats, **changes}
        return await self._stack.enter_async_context(
            rpc_process(server=self._server.settings, prefix=self._prefix, **settings)
        )

    async def proxy(self, rpc: Rpc) -> Proxy:
        made = Proxy(("127.0.0.1", rpc.process.port), seed=1)
        await made.listen_tcp()
        self._stack.push_async_callback(made.close)
        return made

    async def behind_proxy(self, **settings: Any) -> tuple[Proxy, str]:
        """A proxy in front of a node of its own, or of the server for workers straight on Redis; the address there."""
        if self.way == "grpc":
            proxy = await self.proxy(await self.node(**settings))
            return proxy, f"127.0.0.1:{proxy.port}"
        proxy = Proxy(self._server.unix_path, seed=1)
        await proxy.listen_tcp()
        self._stack.push_async_callback(proxy.close)
        return proxy, f"redis://127.0.0.1:{proxy.port}?prefix={self._prefix}"

    @property
    def url(self) -> str:
        """Of the server itself, for workers without a node."""
        return f"{self._server.url}?prefix={self._prefix}"

    @property
    def address(self) -> str:
        """For workers, unless a test names another."""
        return self.rpc.address if self.way == "grpc" else self.url

    async def worker(self, *servers: str, **settings: Any) -> Runner:
        """One that is connected."""
        lease = {"lease": f"{self._beats['lease_ms']}ms"}
        worker_app.worker.change(servers=list(servers) or [self.address], **{**DEFAULTS, **lease, **settings})
        runner = await self._stack.enter_async_context(worker_app.worker.running())
        await asyncio.wait_for(runner.connected(), PATIENCE_S)
        return runner

    async def call(self, name: str, *arguments: Any, count: int = 1, **fields: Any) -> list[str]:
        task = pb.NewTask(type=pb.TASK_TYPE_WORKER, name=name, payload=json.dumps(arguments).encode(), **fields)
        answer = await self.rpc.scheduler.ScheduleBatch(pb.ScheduleBatchRequest(tasks=[task] * count))
        assert all(r.id for r in answer.results), answer.results[0]
        return [r.id for r in answer.results]

    @property
    def gate(self) -> Path:
        """Touched by a test, it lets those end that `hold` made."""
        return self.oracle.file.with_name("gate")

    async def hold(self, count: int = 1, *, name: str = "holds", **fields: Any) -> list[str]:
        """Tasks that run until the gate is there. ``held``: in threads."""
        return await self.call(name, str(self.gate), count=count, **fields)

    async def info(self, task_id: str) -> pb.TaskInfo:
        found: pb.TaskInfo = await self.rpc.scheduler.Get(pb.GetRequest(id=task_id))
        return found

    async def ends(self, task_id: str) -> pb.TaskInfo:
        """The task, when it has succeeded or failed."""

        async def ended() -> bool:
            return (await self.info(task_id)).state in (pb.TASK_STATE_SUCCEEDED, pb.TASK_STATE_FAILED)

        await until(ended)
        return await self.info(task_id)

    async def dead(self) -> dict[str, str]:
        """Dead letters: id -> reason."""
        found: dict[str, str] = {}
        async for page in self.rpc.scheduler.ListDead(pb.ListRequest(limit=1_000)):
            found |= {task.id: task.reason for task in page.tasks}
        return found

    async def begun_any(self) -> None:
        await until(lambda: bool(self.oracle.begun()))

    async def begun(self, *ids: str) -> None:
        await until(lambda: set(ids) <= set(self.oracle.begun()))

    async def sound(self) -> None:
        """Nothing is left, and the store is sound."""

        left: list[Any] = []

        async def settled() -> bool:
            left[:] = [c for c in await self.store.counts() if c.in_flight or c.pending]
            return not left

        await until_async(settled, lambda: f"something is left: {left}")
        assert (await fsck(self.store)).problems == []


DEFAULTS = {"concurrency": 10, "threads": 4, "cpu_processes": 1, "grace": "5s", "clock": False}
both_ways = pytest.mark.parametrize("way", ["grpc", "redis"])
"""Workers of a node, and workers straight on Redis."""


@pytest.fixture
async def yard(
    server: RealServer,
    client: Redis,
    prefix: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
    beats: Mapping[str, int] | None,
) -> AsyncIterator[Yard]:
    oracle = Oracle(tmp_path / "oracle")
    monkeypatch.setenv("ORACLE", str(oracle.file))
    monkeypatch.setattr(worker_app, "_file", -1)
    store = await Store.open(Servers(client), prefix=prefix)
    async with running(store, {}), contextlib.AsyncExitStack() as stack:
        made = Yard(server, prefix, store, oracle, stack, way=way, beats=beats)
        made.rpc = await made.node()
        yield made


class Process:
    """`python -m delaybox.worker tests.worker_app`. ``log`` is all that it says."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self.process = process
        self.log = log

    @property
    def pid(self) -> int:
        return self.process.pid

    def output(self) -> str:
        return self.log.read_text()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    async def end(self, within_s: float = 20.0) -> int:
        """Its exit code."""
        return await asyncio.wait_for(self.process.wait(), within_s)


@contextlib.asynccontextmanager
async def worker(
    yard: Yard, folder: Path, *arguments: str, sessions: int = 3, server: str = ""
) -> AsyncIterator[Process]:
    """One that is connected, with all three kinds of functions (times ``--processes``); killed at the end."""
    address = server or yard.address
    where = ("--server", address) if "://" not in address else ("--redis", address, "--no-clock", "--lease", "3s")
    log = folder / f"worker-{len(list(folder.glob('worker-*')))}.log"
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "delaybox.worker", "tests.worker_app", *where,
            "--concurrency", "10", "--threads", "4", *arguments,
            stdout=out, stderr=out, start_new_session=True,
        )  # fmt: skip
    made = Process(process, log)
    try:
        await until(lambda: made.output().count("session with") >= sessions)
        yield made
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
