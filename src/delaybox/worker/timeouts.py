"""What happens when the time of a function (its ``timeout``) is over, in each of the three ways to run functions.

An async function is cancelled, and the process of a cpu function is killed. A plain function runs in a thread, which
cannot be stopped: its attempt fails at once, and its place stays taken until the code ends. So it is with an async
function that still runs `STOP_S` after it was cancelled.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final

from delaybox.wire.gen import worker_pb2 as pb
from delaybox.worker import failures, logs
from delaybox.worker.attempt import Common, TaskRun

log = logging.getLogger("delaybox.worker")

STOP_S: Final = 5.0
"""A run that was asked to stop and has not stopped within this time counts as going on."""


class TimeLimits(ABC):
    """The time limits of a crew's runs."""

    common: Common

    @abstractmethod
    def end_early(self, run: TaskRun, verdict: pb.Failed) -> None:
        """Asks the run to stop."""

    @abstractmethod
    def linger(self, run: TaskRun) -> None:
        """The run's end is reported, and its code goes on."""

    def limit(self, run: TaskRun, over: Callable[[TaskRun], None], *, timeout_ms: int) -> None:
        """Calls ``over``, one of those below, when the time from now is over; 0: never."""
        if timeout_ms:
            run.timer = asyncio.get_running_loop().call_later(timeout_ms / 1000, over, run)

    def stop_coroutine(self, run: TaskRun) -> None:
        """Of an async function."""
        run.timer = asyncio.get_running_loop().call_later(STOP_S, self.overran, run)
        self.end_early(run, failures.timed_out(run.timeout_ms))

    def kill_process(self, run: TaskRun) -> None:
        """Of a cpu function."""
        run.timer = None
        self.end_early(run, failures.timed_out(run.timeout_ms))

    def overran(self, run: TaskRun) -> None:
        """Of a plain function, and of an async one that goes on: the attempt fails now; the place is free when the
        code ends."""
        verdict = failures.timed_out(run.timeout_ms)
        if run.fail(verdict):
            self.linger(run)
            self.common.stats.overran += 1
            logs.about(
                log,
                logging.WARNING,
                run.assignment,
                "task %s (%s) %s and goes on running: it keeps its place until it ends",
                run.assignment.id,
                run.function.name,
                verdict.reason,
            )
            run.signal.set(verdict.reason)
