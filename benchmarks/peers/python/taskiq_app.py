"""taskiq's side: `taskiq worker benchmarks.peers.python.taskiq_app:broker`; runs in the peers' environment."""

from __future__ import annotations

import asyncio
import os
import sys

from taskiq_redis import RedisStreamBroker

from benchmarks.harness import tally

# Streams, not lists: they are acked, as ours are; what a list's worker holds is lost with it.
# Without a limit on connections every ack of a burst opens one of its own.
broker = RedisStreamBroker(
    f"unix://{os.environ['DELAYBOX_BENCH_SOCKET']}", xread_count=1_000, max_connection_pool_size=16
)
tick = tally.ticker()


@broker.task(task_name="noop")
async def noop(text: str) -> None:
    """Counts, and nothing else."""
    tick()


async def fill(count: int) -> None:
    """So many tasks for now."""
    text = "x" * 108
    await broker.startup()
    for at in range(0, count, 200):
        await asyncio.gather(*(noop.kiq(text) for _ in range(min(200, count - at))))
    await broker.shutdown()


if __name__ == "__main__":
    asyncio.run(fill(int(sys.argv[1])))
