"""What `delaybox worker benchmarks.ours.sdk_worker:worker` serves."""

from __future__ import annotations

import time

from benchmarks.harness import tally
from benchmarks.workload import burn, burn_little
from delaybox import Worker
from delaybox.worker import current

CONCURRENCY = 4_000

worker = Worker("bench", concurrency=CONCURRENCY)
tick = tally.ticker()
_mark = None


@worker.task
async def noop(text: str) -> None:
    """Counts, and nothing else."""
    tick()


@worker.task
async def late(text: str) -> None:
    """Notes how late it is."""
    global _mark
    if _mark is None:
        _mark = tally.marker()
    _mark(time.time_ns() / 1e6 - current().due_ms)


@worker.task
async def answer(number: int) -> int:
    """Returns what it got."""
    return number


@worker.task(cpu=True)
def compute(seed: int) -> int:
    """`workload.burn` as a task."""
    return burn(seed)


@worker.task(cpu=True)
def compute_little(seed: int) -> int:
    """`workload.burn_little` as a task."""
    return burn_little(seed)
