"""Tasks on their way to workers, and the claims that they came with."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from msgspec import Struct

from delaybox.core.delivery import Delivery, Outcome, Report
from delaybox.wire.gen import task_pb2

Wishes = tuple[int, int, task_pb2.Task | None]
"""As the last three of `Offered`."""


class ClaimedTasks:
    """The tasks of one claim, until all of them are reported."""

    def __init__(self, report: Report, count: int) -> None:
        self._report = report
        self._left = count
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def report(self, deliveries: Sequence[Delivery], outcome: Outcome) -> None:
        """Reports outcomes to the engine."""
        self._report(deliveries, outcome)
        self._left -= len(deliveries)
        if self._left <= 0 and not self.over.done():
            self.over.set_result(None)


class Offered(Struct, eq=False, gc=False):
    """A task that waits for a worker, or that a worker has. ``keep_ms``: how long its result is kept; 0 = not at all.
    ``timeout_ms``: how long an attempt may take; 0: the task sets no limit. ``task``: its body, where it was decoded
    for that and the worker runs in this process, which then need not decode it again."""

    delivery: Delivery
    run: ClaimedTasks
    keep_ms: int
    timeout_ms: int = 0
    task: task_pb2.Task | None = None
