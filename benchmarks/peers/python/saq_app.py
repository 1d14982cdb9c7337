"""SAQ's side: `saq benchmarks.peers.python.saq_app.settings`; runs in the peers' environment."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

import uvloop
from redis.asyncio import Redis
from saq.queue.redis import RedisQueue

from benchmarks.harness import tally

tick = tally.ticker()
queue = RedisQueue(Redis(unix_socket_path=os.environ["DELAYBOX_BENCH_SOCKET"]), max_concurrent_ops=100)


async def noop(_: Any, *, text: str) -> None:
    """Counts, and nothing else."""
    tick()


asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
settings = {"queue": queue, "functions": [noop], "concurrency": 100}


async def fill(count: int) -> None:
    """So many tasks for now, whose results are not kept."""
    text = "x" * 108
    for at in range(0, count, 100):
        await asyncio.gather(*(queue.enqueue("noop", text=text, ttl=-1) for _ in range(min(100, count - at))))
    await queue.disconnect()


if __name__ == "__main__":
    asyncio.run(fill(int(sys.argv[1])))
