"""arq's side: `arq benchmarks.peers.python.arq_app.WorkerSettings`; runs in the peers' environment."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any, ClassVar

from arq import create_pool, func
from arq.connections import RedisSettings

from benchmarks.harness import tally

tick = tally.ticker()
SERVER = RedisSettings(unix_socket_path=os.environ["DELAYBOX_BENCH_SOCKET"])


async def noop(_: dict[Any, Any], text: str) -> None:
    """Counts, and nothing else."""
    tick()


class WorkerSettings:
    """What its command line reads. It polls; more often than this was not faster."""

    functions: ClassVar[list[Any]] = [func(noop, keep_result=0)]
    redis_settings = SERVER
    max_jobs = 1_000
    queue_read_limit = 1_000
    poll_delay = 0.01


async def fill(count: int) -> None:
    """So many tasks for now."""
    text = "x" * 108
    pool = await create_pool(SERVER)
    for at in range(0, count, 200):
        await asyncio.gather(*(pool.enqueue_job("noop", text) for _ in range(min(200, count - at))))
    await pool.aclose()


if __name__ == "__main__":
    asyncio.run(fill(int(sys.argv[1])))
