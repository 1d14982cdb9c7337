"""taskiq's side: `taskiq worker benchmarks.peers.python.taskiq_app:broker`; runs in the peers' environment."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time

from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

from benchmarks.harness import tally

# Streams, not lists: they are acked, as ours are; what a list's worker holds is lost with it.
# Without a limit on connections every ack of a burst opens one of its own.
SOCKET = f"unix://{os.environ['DELAYBOX_BENCH_SOCKET']}"
broker = RedisStreamBroker(SOCKET, xread_count=1_000, max_connection_pool_size=16)
if tally.results():
    broker = broker.with_result_backend(RedisAsyncResultBackend(SOCKET))
tick = tally.ticker()


@broker.task(task_name="noop")
async def noop(text: str) -> None:
    """Counts, and nothing else."""
    tick()


@broker.task(task_name="answer")
async def answer(n: int) -> int:
    """Its argument."""
    return n


async def call(count: int) -> list[float]:
    """How long each call took until its result was here, in ms, one by one; it looks for the result every ms, where
    0.2 s is the default."""
    found = []
    await broker.startup()
    for n in range(count):
        began = time.perf_counter()
        task = await answer.kiq(n)
        assert (await task.wait_result(check_interval=0.001, timeout=30)).return_value == n
        found.append((time.perf_counter() - began) * 1000)
    await broker.shutdown()
    return found


async def fill(count: int) -> None:
    """So many tasks for now."""
    text = "x" * 108
    await broker.startup()
    for at in range(0, count, 200):
        await asyncio.gather(*(noop.kiq(text) for _ in range(min(200, count - at))))
    await broker.shutdown()


if __name__ == "__main__":
    if sys.argv[1] == "call":
        print(json.dumps({"ms": asyncio.run(call(int(sys.argv[2])))}))
    else:
        asyncio.run(fill(int(sys.argv[1])))
