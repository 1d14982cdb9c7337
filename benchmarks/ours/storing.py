"""Scheduling through `Service`, and what a store holds afterwards."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import uvloop

from benchmarks import workload
from benchmarks.harness.server import BenchServer
from delaybox.core.limits import CLUSTER_PARTITIONS
from delaybox.core.task import NewTask, Submitted, TaskType
from delaybox.core.webhook import Webhook
from delaybox.service import Service
from delaybox.store import keys, loader, record
from delaybox.store.address import ServerSettings
from delaybox.store.servers import Servers
from delaybox.store.store import Store

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    """On the loop that the node runs on."""
    return uvloop.run(work)


@asynccontextmanager
async def opened(server: BenchServer) -> AsyncIterator[Store]:
    """The store in a bench server, over its unix socket where it is one server."""
    # Our own time-out is long: a fill of ten million keeps the server busy for whole seconds.
    servers = Servers.connect(ServerSettings.from_url(server.address), timeout_s=60.0)
    store = await Store.open(servers)
    try:
        yield store
    finally:
        await store.close()


async def make(server: BenchServer) -> None:
    """Makes the store, with as many partitions as on a cluster."""
    servers = Servers.connect(ServerSettings.from_url(server.address))
    store = await Store.open(servers, partitions=CLUSTER_PARTITIONS)
    await store.close()


async def _count(store: Store) -> int:
    """Exact: the store's own counts are estimates where buckets are many."""
    total = 0
    for tag in store.tags:
        numbers = await store.servers.ask("ZRANGE", keys.buckets(tag), 0, -1)
        for at in range(0, len(numbers), 5_000):
            some = [("HLEN", keys.bucket(tag, int(number))) for number in numbers[at : at + 5_000]]
            total += sum(await store.servers.ask_many(some))
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
            await store.servers.ask(
                "EVAL", _FILL, 1, keys.tag(store.prefix, partition), min(step, count - at), first_ms, span_ms,
                store.bucket_ms, tail, rec, before + at,
            )  # fmt: skip
        found = await _count(store) - before
    if found != count:
        raise RuntimeError(f"filled {count} but the store counts {found}")


async def schedule(
    server: BenchServer,
    count: int,
    due: Callable[[int], int],
    *,
    payload: bytes,
    function: str = "",
    url: Callable[[int], str] | None = None,
    labels: Callable[[int], Mapping[str, str]] = lambda _: {},
) -> float:
    """Seconds to schedule ``count`` tasks, ``due`` giving each one's moment; making the tasks is counted.

    ``function``: tasks for workers that serve it; ``url``: webhooks that call it; else PUB_SUB. ``url``, ``labels``:
    those of each task, by its number.
    """
    kind = TaskType.HTTP if url else TaskType.WORKER if function else TaskType.PUB_SUB
    async with opened(server) as store:
        service = Service(store)
        source = iter(range(0, count, workload.CHUNK))

        async def caller() -> None:
            for at in source:
                upto = min(at + workload.CHUNK, count)
                tasks = [
                    NewTask(
                        type=kind,
                        name=function,
                        payload=payload,
                        due_ms=due(i),
                        labels=labels(i),
                        webhook=Webhook(url(i)) if url else None,
                    )
                    for i in range(at, upto)
                ]
                for answer in await service.submit_many(tasks):
                    if not isinstance(answer, Submitted):
                        raise answer

        started = time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(workload.UNDER_WAY)))
        return time.perf_counter() - started


async def at_once(server: BenchServer, *, rate: int, seconds: int, payload: bytes = b"x" * 120) -> None:
    """Schedules that many tasks a second that are due at once, in at most 200 calls a second: what comes together to a
    node goes into one call as well."""
    a_call = -(-rate // 200)
    async with opened(server) as store:
        service = Service(store)
        loop = asyncio.get_running_loop()
        began = loop.time()
        numbers = iter(range(0, rate * seconds, a_call))

        async def caller() -> None:
            for n in numbers:
                if (ahead_s := began + n / rate - loop.time()) > 0:
                    await asyncio.sleep(ahead_s)
                for answer in await service.submit_many([NewTask(payload=payload)] * a_call):
                    if not isinstance(answer, Submitted):
                        raise answer

        await asyncio.gather(*(caller() for _ in range(32)))
        if loop.time() - began > 1.2 * seconds:
            raise RuntimeError(f"scheduling {rate * seconds} tasks took {loop.time() - began:.1f} s")


def script_names() -> dict[str, str]:
    """SHA of each of the store's scripts and its name."""
    return {loader.load(name, usual=usual).sha: name for name in loader.names() for usual in range(3)}
