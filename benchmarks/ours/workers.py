"""A whole node and worker processes connected to it, as a user runs them."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import workload
from benchmarks.harness import tally
from benchmarks.harness.process import ROOT, Child, python
from benchmarks.harness.server import BenchServer
from benchmarks.ours.node import Node, serve
from benchmarks.ours.storing import opened, run, schedule
from delaybox import Client
from delaybox.store import nodes

PAYLOAD = json.dumps("x" * (workload.PAYLOAD_BYTES - 2)).encode()
CREDIT = 4_000
"""Tasks a worker takes at once."""


@dataclass(frozen=True, slots=True)
class Kind:
    """How a worker process is started. ``tool``: `delaybox worker`; else the stream is spoken by hand. ``direct``: it
    works straight on the server, without a node, and its child keeps time."""

    name: str
    tool: bool
    direct: bool = False


BARE = Kind("bare stream worker", tool=False)
SDK = Kind("SDK", tool=True)
DIRECT = Kind("SDK straight on Redis, its child keeps time", tool=True, direct=True)


@dataclass(slots=True)
class Crew:
    """Workers, with a node unless they work straight on the server; ``folder`` holds what they count."""

    server: BenchServer
    node: Node | None
    folder: Path
    children: list[Child] = field(default_factory=list)

    @property
    def address(self) -> str:
        """For clients."""
        return f"unix://{self.server.unix}" if self.node is None else self.node.grpc

    @property
    def done(self) -> int:
        return tally.total(self.folder)

    def check(self) -> None:
        """Raises with its words when a worker is gone."""
        for child in self.children:
            if child.ended():
                raise RuntimeError(f"a worker ended: {child.words() or 'no word'}")


@contextmanager
def crew(
    server: BenchServer, kind: Kind, *, processes: int = 1, cpu_processes: int = 1, each: bool = False
) -> Iterator[Crew]:
    """Yields when every worker is connected. ``each``: the bare one notes how late every task is."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dbx-tally-")))
        node = None if kind.direct else stack.enter_context(serve(server))
        found = Crew(server, node, folder)
        environment = {
            **os.environ,
            tally.FOLDER: str(folder),
            "PYTHONPATH": str(ROOT),
            "DELAYBOX_GRPC_SERVERS": found.address,
        }
        options = {"address": found.address, "functions": ["noop", "late"], "credit": CREDIT, "each": each}
        for number in range(processes):
            if kind.tool:
                more = ("--cpu-processes", str(cpu_processes))
                if kind.direct and number:
                    more += ("--no-clock",)
                command = python("delaybox", "worker", "benchmarks.ours.sdk_worker:worker", *more)
            else:
                command = python("benchmarks.ours.bare_worker", json.dumps(options))
            found.children.append(stack.enter_context(Child(command, environment=environment)))
        run(_until_connected(found, processes))
        yield found


async def _until_connected(crew: Crew, processes: int, *, seconds: float = 60.0) -> None:
    """By what the node says of its workers."""
    deadline = time.monotonic() + seconds
    async with opened(crew.server) as store:
        while time.monotonic() < deadline:
            crew.check()
            connected = sum(member.activity.worker_count for member in await nodes.live(store))
            if connected >= processes:
                return
            await asyncio.sleep(0.05)
    raise RuntimeError(f"{connected} of {processes} workers connected within {seconds:.0f} s")


@dataclass(frozen=True, slots=True)
class Herd:
    """``seconds``: from the due instant until the last task was acked; ``ran_s``: until the last function had run."""

    seconds: float
    ran_s: float


async def worker_herd(crew: Crew, count: int, *, patience_s: float = 120.0) -> Herd:
    """``count`` tasks due at one instant, every worker connected and idle before."""
    due_ms = workload.now_ms() + 1_500 + count // 20
    before = crew.done
    await schedule(crew.server, count, lambda _: due_ms, payload=PAYLOAD, function="noop")
    if workload.now_ms() >= due_ms:
        raise RuntimeError(f"scheduling {count} tasks took until after they were due")
    await asyncio.sleep((due_ms - workload.now_ms()) / 1000)
    deadline = time.monotonic() + patience_s
    async with opened(crew.server) as store:
        while (done := crew.done - before) < count:
            crew.check()
            if time.monotonic() > deadline:
                raise RuntimeError(f"{done} of {count} ran in {patience_s:.0f} s")
            await asyncio.sleep(0.002)
        ran_s = time.time() - due_ms / 1000
        while any(c.pending or c.in_flight for c in await store.counts()):
            await asyncio.sleep(0.001)
        seconds = time.time() - due_ms / 1000
    if crew.done - before > count:
        raise RuntimeError(f"{crew.done - before} runs of {count} tasks")
    return Herd(seconds, ran_s)


async def worker_lateness(crew: Crew, *, count: int, rate: int, lead_ms: int) -> list[float]:
    """How late each of ``count`` tasks was in the worker's function, in ms."""
    start_ms = workload.now_ms() + lead_ms
    await schedule(crew.server, count, workload.every(rate, start_ms), payload=PAYLOAD, function="late")
    deadline = time.monotonic() + lead_ms / 1000 + count / rate + 20
    while len(found := tally.marks(crew.folder)) < count:
        crew.check()
        if time.monotonic() > deadline:
            raise RuntimeError(f"only {len(found)} of {count} tasks reached the function")
        await asyncio.sleep(0.1)
    return found


def worker_map(crew: Crew, count: int, *, processes: int, function: str = "compute", chunksize: int = 1) -> float:
    """Seconds for a map of ``count`` calls of a function that computes; its processes are up before."""
    with Client(crew.address) as client:
        list(client.map(function, range(4 * processes)))
        started = time.monotonic()
        found = list(client.map(function, range(count), chunksize=chunksize))
        seconds = time.monotonic() - started
    if len(set(found)) < count:
        raise RuntimeError(f"{len(set(found))} different answers to {count} calls")
    return seconds


def worker_calls(crew: Crew, count: int) -> list[float]:
    """How long each of ``count`` calls took from scheduling to its result in the caller's hands, one by one, in ms."""
    with Client(crew.address) as client:
        for n in range(20):
            client.schedule("answer", n, keep_result="1m").result(30)
        found: list[float] = []
        for n in range(count):
            began = time.perf_counter()
            if client.schedule("answer", n, keep_result="1m").result(30) != n:
                raise RuntimeError("another result")
            found.append((time.perf_counter() - began) * 1000)
    return found
