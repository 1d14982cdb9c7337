"""What the workers of a benchmark run."""

from __future__ import annotations

from delaybox import Worker

worker = Worker("bench")


@worker.task
async def noop(number: int) -> int:
    """Returns what it got."""
    return number
