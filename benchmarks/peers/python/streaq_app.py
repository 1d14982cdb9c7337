"""streaQ's side: `streaq run benchmarks.peers.python.streaq_app:worker`; runs in the peers' environment."""

from __future__ import annotations

import asyncio
import os
import sys

from streaq import Worker

from benchmarks.harness import tally

tick = tally.ticker()
worker = Worker(
    redis_url=f"unix://{os.environ['DELAYBOX_BENCH_SOCKET']}",
    concurrency=500,
    anyio_kwargs={"use_uvloop": True},
)


@worker.task(ttl=0, silent=True)
async def noop(text: str) -> None:
    """Counts, and nothing else."""
    tick()


async def fill(count: int) -> None:
    """So many tasks for now, whose results are not kept."""
    text = "x" * 108
    async with worker:
        for at in range(0, count, 500):
            await worker.enqueue_many([noop.enqueue(text) for _ in range(min(500, count - at))])


if __name__ == "__main__":
    asyncio.run(fill(int(sys.argv[1])))
