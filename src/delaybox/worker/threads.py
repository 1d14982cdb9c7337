"""Runs plain functions in threads. A thread cannot be stopped from outside: its code is asked to."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections import deque
from contextvars import copy_context
from typing import Any

from delaybox.wire.call import Encoded
from delaybox.wire.gen import worker_pb2 as pb
from delaybox.worker import failures
from delaybox.worker.attempt import TaskRun
from delaybox.worker.context import running
from delaybox.worker.crew import Crew
from delaybox.worker.failures import Stopped
from delaybox.worker.functions import FunctionKind


class Threads(Crew):
    """The crew of plain functions.

    The threads are daemons: code that never ends must not keep the process from ending. They are started as they are
    needed, and there are never more than places.
    """

    kind = FunctionKind.THREAD

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._jobs: queue.SimpleQueue[TaskRun | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._busy = 0
        self._ended: deque[tuple[TaskRun, Encoded | pb.Failed | None]] = deque()
        self._woken = False
        self._loop: asyncio.AbstractEventLoop | None = None

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()

    async def stop(self) -> None:
        for _ in self._threads:
            self._jobs.put(None)
        self._threads.clear()
        self._loop = None

    def _begin(self, runs: list[TaskRun]) -> None:
        for run in runs:
            self._busy += 1
            if self._busy > len(self._threads):
                name = f"delaybox-{len(self._threads)}"
                thread = threading.Thread(target=self._work, args=(self._loop,), name=name, daemon=True)
                self._threads.append(thread)
                thread.start()
            run.began = time.monotonic()
            _ = run.signal  # made now, because later both threads could make it at once
            self.limit(run, self.overran, timeout_ms=run.timeout_ms)
            self._jobs.put(run)

    def _interrupt(self, run: TaskRun) -> None:
        """Only sets the run's signal: a thread cannot be stopped from outside."""

    # In the threads

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        while (run := self._jobs.get()) is not None:
            self._ended.append((run, copy_context().run(self._call, run)))
            # The order counts: the reader clears the flag before it empties `_ended`.
            if not self._woken:
                self._woken = True
                try:
                    loop.call_soon_threadsafe(self._collect)
                except RuntimeError:  # the loop is closed: the process is ending
                    return

    def _call(self, run: TaskRun) -> Encoded | pb.Failed | None:
        """The end to report. Evaluated in this thread, because users' code in it may hang, and must not hang the
        loop."""
        if run.settled or run.over is not None:
            return failures.failure(Stopped(run.signal.reason))
        running.set(run)
        try:
            return run.evaluated(run.function.started(run.arguments(), run))
        except BaseException as error:  # noqa: BLE001 - whatever a function raises fails its attempt alone
            return failures.failure(error)

    # In the loop

    def _collect(self) -> None:
        self._woken = False
        while self._ended:
            run, ending = self._ended.popleft()
            self._busy -= 1
            run.conclude(ending)
            self._left(run)
