"""DelayBox as the scenarios use it: the only file here that knows its parts.

Scheduling goes through `Service`, firing through `Engine`; a whole node is `delaybox serve`.
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, TypeVar

import uvloop

from benchmarks import workload
from benchmarks.harness.process import Child, python
from benchmarks.harness.server import BenchServer, free_port
from delaybox.core.task import NewTask, Submitted
from delaybox.service import Service
from delaybox.store import keys, record
from delaybox.store.connect import ServerSettings, make_client
from delaybox.store.store import Store

T = TypeVar("T")
CHANNEL = "TaskExecution"


def run(work: Coroutine[Any, Any, T]) -> T:
    """On the loop that the node runs on."""
    return uvloop.run(work)


@asynccontextmanager
async def opened(server: BenchServer) -> AsyncIterator[Store]:
    """The store in a bench server, over its unix socket."""
    # Our own time-out is long: a fill of ten million keeps the server busy for whole seconds.
    client = make_client(ServerSettings(unix_path=server.unix), timeout_s=60.0)
    store = await Store.open(client)
    try:
        yield store
    finally:
        await store.close()


async def _count(store: Store) -> int:
    """Exact: the store's own counts are estimates where buckets are many."""
    total = 0
    for tag in store.tags:
        numbers = await store.client.execute_command("ZRANGE", keys.buckets(tag), 0, -1)
        for at in range(0, len(numbers), 5_000):
            pipe = store.client.pipeline(transaction=False)
            for number in numbers[at : at + 5_000]:
                pipe.execute_command("HLEN", keys.bucket(tag, int(number)))
            total += sum(await pipe.execute())
    return total


async def pending(server: BenchServer) -> int:
    """Tasks that wait in buckets, counted one by one."""
    async with opened(server) as store:
        return await _count(store)


_FILL = """
local T, n, first, span = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local W, tail, rec, from = tonumber(ARGV[4]), ARGV[5], ARGV[6], tonumber(ARGV[7])
math.randomseed(from)
local buckets = {}
for i = from, from + n - 1 do
  local due = first + math.floor(math.random() * span)
  local hi = math.floor(due / 4294967296)
  local id = struct.pack('>I2I4', hi, due - hi * 4294967296) .. tail .. struct.pack('>BI3I4', 128, 0, i)
  local number = string.format('%.0f', math.floor(due / W))
  redis.call('HSET', T .. ':b:' .. number, id, rec)
  buckets[number] = true
end
for number in pairs(buckets) do redis.call('ZADD', T .. ':buckets', number, number) end
return n
"""


async def fill(server: BenchServer, count: int, *, first_ms: int, span_ms: int, payload: bytes) -> None:
    """Pending tasks made inside the server, byte for byte as scheduling stores them: ten million in a minute, not four.

    They lie past the horizon, so a bucket's field and the bucket's entry in the index are all there is of each.
    """
    rec = record.draft(NewTask(payload=payload, due_ms=first_ms)).record
    step = 10_000
    async with opened(server) as store:
        before = await _count(store)
        for turn, at in enumerate(range(0, count, step)):
            partition = turn % store.partitions
            tail = (0x8000 | partition).to_bytes(2, "big")
            await store.client.execute_command(
                "EVAL", _FILL, 1, keys.tag(store.prefix, partition), min(step, count - at), first_ms, span_ms,
                store.bucket_ms, tail, rec, before + at,
            )  # fmt: skip
        found = await _count(store) - before
    if found != count:
        raise RuntimeError(f"filled {count} but the store counts {found}")


async def schedule(server: BenchServer, count: int, due: Callable[[int], int], *, payload: bytes) -> float:
    """Seconds to schedule ``count`` tasks, ``due`` giving each one's moment; making the tasks is counted."""
    async with opened(server) as store:
        service = Service(store)
        source = iter(range(0, count, workload.CHUNK))

        async def caller() -> None:
            for at in source:
                upto = min(at + workload.CHUNK, count)
                tasks = [NewTask(payload=payload, due_ms=due(i)) for i in range(at, upto)]
                for answer in await service.submit_many(tasks):
                    if not isinstance(answer, Submitted):
                        raise answer

        started = time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(workload.UNDER_WAY)))
        return time.perf_counter() - started


@dataclass(frozen=True, slots=True)
class Node:
    """A running `delaybox serve`."""

    port: int
    path: str = "/task"


@contextmanager
def serve(server: BenchServer) -> Iterator[Node]:
    """A whole node on the bench server, from its command line; stopped by SIGTERM."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="dbx-node-") as folder:
        command = python("delaybox", "serve", "--redis", f"unix://{server.unix}", "--http-port", str(port))
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("DELAYBOX_", "APP_"))}
        # Its own folder: no config.yaml of whoever runs the benchmark is picked up.
        with Child(command, environment=environment, folder=Path(folder)) as child:
            _wait_until_ready(child, port)
            yield Node(port)


def _wait_until_ready(child: Child, port: int, *, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        connection = HTTPConnection("127.0.0.1", port, timeout=2)
        try:
            connection.request("GET", "/readyz")
            if connection.getresponse().status == 200:
                return
        except OSError:
            if child.ended():
                break
        finally:
            connection.close()
        time.sleep(0.05)
    raise RuntimeError(f"delaybox serve was not ready: {child.words() or 'no word'}")


def subscriber(server: BenchServer, *, count: int, seconds: float) -> Child:
    """A process on the execution channel; its first line says that it listens, its second what came."""
    options = {"socket": server.unix, "channel": CHANNEL, "count": count, "seconds": seconds}
    return Child(python("benchmarks.harness.subscriber", json.dumps(options)))


@dataclass(frozen=True, slots=True)
class Drained:
    """A herd's end. ``seconds`` run from the due instant until every task was acked (or heard, when fired in place)."""

    seconds: float
    handled: int
    first_late_ms: float
    early: int


async def drain_herd(server: BenchServer, count: int, *, fire_in_place: bool = False) -> Drained:
    raise NotImplementedError


async def lateness(server: BenchServer, *, count: int, rate: int, lead_ms: int) -> list[float]:
    raise NotImplementedError
