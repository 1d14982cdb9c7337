"""What workers of a fleet serve: ``delaybox worker benchmarks.ours.fleet_worker:worker``.

The environment says how: DELAYBOX_BENCH_PLACES, how many run at once; DELAYBOX_BENCH_NAP_MS, how long a nap takes.
"""

from __future__ import annotations

import asyncio
import os
import time

from benchmarks.harness import tally
from delaybox import Worker
from delaybox.worker import current

PLACES = "DELAYBOX_BENCH_PLACES"
NAP_MS = "DELAYBOX_BENCH_NAP_MS"
SPIN_US = 200

worker = Worker("fleet", concurrency=int(os.environ.get(PLACES, "200")))
tick = tally.ticker()
_nap_s = float(os.environ.get(NAP_MS, "50")) / 1_000
_mark = None


@worker.task
async def nap(text: str) -> None:
    """Sleeps, as one that waits for somebody else does."""
    await asyncio.sleep(_nap_s)
    tick()


@worker.task
async def late_nap(text: str) -> None:
    """Notes how late it is, then sleeps."""
    global _mark
    if _mark is None:
        _mark = tally.marker()
    _mark(time.time_ns() / 1e6 - current().due_ms)
    await asyncio.sleep(_nap_s)
    tick()


@worker.task
async def spin(text: str) -> None:
    """Takes 200 µs of CPU."""
    end = time.thread_time_ns() + SPIN_US * 1_000
    while time.thread_time_ns() < end:
        pass
    tick()
