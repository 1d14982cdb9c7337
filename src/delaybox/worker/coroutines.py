"""Runs async functions on the worker's own loop.

Most short coroutines end without ever waiting, and an asyncio task for each would cost as much as everything else
together. So one asyncio task, the stepper, runs what has arrived, one coroutine after the other. If a coroutine waits,
the stepper becomes that coroutine's own task, and a new stepper goes on with the queue. So a coroutine always runs
inside a real asyncio task, and one that waits has it for itself. Each has a copy of the context variables.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Coroutine, Generator
from contextvars import Context as Variables
from contextvars import copy_context
from typing import Any, Final

from delaybox.worker import failures, logs
from delaybox.worker.attempt import TaskRun
from delaybox.worker.context import running
from delaybox.worker.crew import Crew
from delaybox.worker.functions import FunctionKind
from delaybox.worker.timeouts import STOP_S

log = logging.getLogger("delaybox.worker")

TURN_S: Final = 0.005
"""How long coroutines that do not wait may keep the loop before other work gets its turn."""
BLOCKED_S: Final = 1.0
"""A coroutine that keeps the loop this long without waiting is logged, because heartbeats stop meanwhile."""


class _Rest:
    """The rest of a coroutine that waits for ``first``, in its own context variables."""

    __slots__ = ("coroutine", "first", "variables")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], variables: Variables, first: object) -> None:
        self.coroutine = coroutine
        self.variables = variables
        self.first = first

    def __await__(self) -> Generator[Any, Any, Any]:
        run, send, throw = self.variables.run, self.coroutine.send, self.coroutine.throw
        yielded = self.first
        try:
            while True:
                try:
                    sent = yield yielded
                except GeneratorExit:
                    run(self.coroutine.close)
                    raise
                except BaseException as error:  # noqa: BLE001 - it goes on into the coroutine
                    yielded = run(throw, error)
                else:
                    yielded = run(send, sent)
        except StopIteration as end:
            return end.value


class Coroutines(Crew):
    """The crew of async functions."""

    kind = FunctionKind.ASYNC

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._queue: deque[TaskRun] = deque()
        self._walking = False
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def queued(self) -> int:
        return len(self._queue)

    async def stop(self) -> None:
        self._queue.clear()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=STOP_S)

    def _begin(self, runs: list[TaskRun]) -> None:
        self._queue.extend(runs)
        if not self._walking:
            self._walk()

    def _walk(self) -> None:
        self._walking = True
        task = asyncio.get_running_loop().create_task(self._step_through())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _step_through(self) -> None:
        queue, stats, figures = self._queue, self.common.stats, self.common.figures
        waits = False
        try:
            since = turn = time.monotonic()
            while queue:
                run = queue.popleft()
                if run.settled or run.over is not None:
                    self._skip(run)
                    continue
                run.began = since
                running.set(run)
                variables = copy_context()
                try:
                    coroutine = run.function.started(run.arguments(), run)
                    first = variables.run(coroutine.send, None)
                except StopIteration as end:
                    if run.assignment.want_result:
                        run.succeed(end.value)
                    else:
                        # The same as `succeed`, without two calls: nothing can have ended the run meanwhile.
                        run.settled = True
                        stats.done += 1
                        run.session.done(run.sequence)
                        if figures is not None:
                            trace = run.assignment.traceparent
                            figures.ended(run.function.name, "succeeded", time.monotonic() - since, trace)
                except BaseException as error:  # noqa: BLE001 - whatever a function raises fails its attempt alone
                    run.fail(failures.failure(error))
                else:
                    waits = True
                    self._pass_on()
                    await self._rest(run, _Rest(coroutine, variables, first))
                    return
                now = time.monotonic()
                if now - since > BLOCKED_S:
                    self._blocked(run, now - since)
                since = now
                if now - turn > TURN_S:
                    self._asked_for_places()
                    await asyncio.sleep(0)
                    since = turn = time.monotonic()
        finally:
            if not waits:
                self._asked_for_places()
                self._pass_on()

    def _pass_on(self) -> None:
        """Starts a new stepper for the queue."""
        if self._queue:
            self._walk()
        else:
            self._walking = False

    async def _rest(self, run: TaskRun, rest: _Rest) -> None:
        run.task = asyncio.current_task()
        if run.over is not None or run.settled:
            # The coroutine asked for its own stop, in its first step.
            self._interrupt(run)
        self.limit(run, self.stop_coroutine, timeout_ms=run.timeout_ms)
        since = time.monotonic()
        if since - run.began > BLOCKED_S:
            self._blocked(run, since - run.began)
        try:
            run.succeed(await rest)
        except BaseException as error:  # noqa: BLE001 - as above
            run.conclude(failures.failure(error))
        finally:
            self._left(run)

    def _interrupt(self, run: TaskRun) -> None:
        if run.task is not None:
            run.task.cancel()

    def _skip(self, run: TaskRun) -> None:
        """The run was ended before it began."""
        run.give_up()
        self._left(run)

    def _blocked(self, run: TaskRun, seconds: float) -> None:
        logs.about(
            log,
            logging.WARNING,
            run.assignment,
            "task %s (%s) kept the event loop for %.1f s: nothing else ran, heartbeats stopped; await what waits, or "
            "make it a plain function (thread) or cpu=True",
            run.assignment.id,
            run.function.name,
            seconds,
        )
