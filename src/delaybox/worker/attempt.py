"""One attempt at one task, from its arrival to its report."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from dataclasses import dataclass
from typing import Any, Final

from delaybox.core.texts import tail_bytes
from delaybox.wire.call import Call, Calls, Encoded
from delaybox.wire.gen import worker_pb2 as pb
from delaybox.worker import failures, logs
from delaybox.worker.assigned import AssignedTask
from delaybox.worker.context import CancelSignal, Context, Facts
from delaybox.worker.figures import Figures, Outcome
from delaybox.worker.functions import TaskFunction
from delaybox.worker.parted import Reports

log = logging.getLogger("delaybox.worker")

HAND_BACK: Final = pb.Failed(reason="the worker stops")
"""In place of a verdict: the task is handed back for others, and nothing is charged."""


@dataclass(slots=True)
class Stats:
    """What a worker did since it started."""

    done: int = 0
    failed: int = 0
    handed_back: int = 0
    stale: int = 0
    """Reports that came too late: the tasks had been given to others."""
    lost: int = 0
    """Attempts whose session was over before the node confirmed their report, and that no other node took over: mostly
    their tasks were given to others."""
    overran: int = 0
    """Attempts whose time was over while their code went on, which still takes a place."""
    streams: int = 0
    """Streams that were opened: more than sessions when some were resumed."""
    cpu_deaths: int = 0
    """Processes of cpu functions that died or were killed."""

    def summary(self) -> str:
        """What was done, in words; of what went unusually only what happened."""
        rare = (
            ("handed back", self.handed_back),
            ("answered too late", self.stale),
            ("lost with their session", self.lost),
            ("ran on past their time", self.overran),
            ("processes of cpu functions died", self.cpu_deaths),
        )
        parts = [f"{self.done} done", f"{self.failed} failed"]
        return ", ".join([*parts, *(f"{number} {what}" for what, number in rare if number)])


class Common:
    """What all attempts of a worker share."""

    __slots__ = ("figures", "loop", "stats", "thread")

    def __init__(self) -> None:
        self.stats = Stats()
        self.figures: Figures | None = None
        """Ends by function, where somebody looks at them."""
        self.thread = 0
        self.loop: asyncio.AbstractEventLoop | None = None

    def bind(self) -> None:
        """The running loop is the worker's."""
        self.loop = asyncio.get_running_loop()
        self.thread = threading.get_ident()


class TaskRun:
    """One attempt. Exactly one report is sent for it: when its code ends, or before (out of time, lost).

    ``task`` is the crew's own means to stop it. ``over`` is the report to send when the code ends, once that has been
    decided before the end.
    """

    __slots__ = ("_context", "_signal", "ahead", "assignment", "began", "common", "function", "over", "sequence",
                 "session", "settled", "task", "timer")  # fmt: skip

    def __init__(
        self,
        session: Reports,
        assignment: AssignedTask,
        function: TaskFunction[..., Any],
        common: Common,
    ) -> None:
        self.session = session
        self.sequence: int = assignment.sequence
        self.assignment = assignment
        self.function = function
        self.common = common
        self.settled: bool = False
        self.ahead = False
        """It came before a place was free for it."""
        self.over: pb.Failed | None = None
        self.began = 0.0
        self.task: Any = None
        self.timer: Any = None
        self._context: Context | None = None
        self._signal: CancelSignal | None = None

    @property
    def timeout_ms(self) -> int:
        """Longest time of the attempt; 0 = none."""
        return self.assignment.task.timeout_ms or self.function.timeout_ms

    def arguments(self) -> Call | Calls:
        """The task's arguments. NotDecodable."""
        task = self.assignment.task
        payload, headers = task.payload, task.header
        if headers:
            return self.function.codecs.arguments(payload, headers)
        return self.function.codecs.one(payload) if payload else Call()

    @property
    def context(self) -> Context:
        """Made on first use, because most functions never ask for it."""
        if self._context is None:
            self._context = Context(self.facts(), self.signal, self.progress, since=self.began or None)
        return self._context

    @property
    def signal(self) -> CancelSignal:
        """Whether the run was asked to stop."""
        if self._signal is None:
            self._signal = CancelSignal()
        return self._signal

    def facts(self) -> Facts:
        """The facts of the assignment, as plain values."""
        a = self.assignment
        return Facts(
            id=a.id,
            name=a.name,
            queue=a.queue,
            due_ms=a.due_ms,
            attempt=a.attempt,
            token=a.token,
            headers=dict(a.task.header),
            labels=dict(a.task.labels),
            timeout_ms=self.timeout_ms,
            firing=a.traceparent,
        )

    def progress(self, fraction: float, message: str) -> None:
        """Passes progress to the session, from any thread."""
        if threading.get_ident() == self.common.thread:
            self._progress(fraction, message)
        elif (loop := self.common.loop) is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._progress, fraction, message)

    def _progress(self, fraction: float, message: str) -> None:
        if not self.settled:
            self.session.progress(self.sequence, fraction, message)

    # Reports. Each method returns whether it reported now: False when a report was sent before.

    def succeed(self, value: object) -> bool:
        """Its code returned ``value``."""
        return not self.settled and self.conclude(self.evaluated(value))

    def evaluated(self, value: object) -> Encoded | pb.Failed | None:
        """The report for what the code returned; None where nobody wants the result. Any thread may call it.

        Users' code runs here, in codecs and in the value itself: it may raise anything, and take long.
        """
        if not self.assignment.want_result:
            return None
        try:
            return self.function.codecs.result(value, self.function.result_type)
        except BaseException as error:  # noqa: BLE001 - the attempt must end, whatever the value does
            return failures.failure(error)

    def succeed_encoded(self, output: bytes, content_type: str) -> bool:
        """Its code returned, and this is its result."""
        if self.settled:
            return False
        if not self.assignment.want_result:
            return self._done()
        most = self.session.max_output
        if most and len(output) > most:
            words = f"the result has {len(output)} bytes, at most {most} are kept (results.maxBytes); return less"
            return self.fail(failures.failed(words, final=True))
        self.settled = True
        self.common.stats.done += 1
        self._count("succeeded")
        self.session.succeeded(self.sequence, output, content_type, self._duration_ms())
        return True

    def _done(self) -> bool:
        self.settled = True
        self.common.stats.done += 1
        self._count("succeeded")
        self.session.done(self.sequence)
        return True

    def fail(self, failure: pb.Failed) -> bool:
        """The attempt failed."""
        if self.settled:
            return False
        self.settled = True
        if not failure.snooze:
            self.common.stats.failed += 1
        self._count("cancelled" if failure.cancelled else "put_off" if failure.snooze else "failed")
        failure.duration_ms = self._duration_ms()
        self._log(failure)
        most = self.session.max_output
        if most and len(failure.output) > most:
            failure.output = tail_bytes(failure.output, most)
        self.session.failed(self.sequence, failure)
        return True

    def _log(self, failure: pb.Failed) -> None:
        """Logs the failure where the attempt ran, whatever becomes of the task."""
        a = self.assignment
        if failure.cancelled:
            logs.about(log, logging.INFO, a, "task %s (%s) was cancelled in attempt %d", a.id, a.name, a.attempt + 1)
            return
        if failure.snooze:
            logs.about(log, logging.INFO, a, "task %s (%s) is put off: %s", a.id, a.name, failure.reason)
            return
        logs.about(
            log,
            logging.ERROR if failure.final else logging.WARNING,
            a,
            "task %s (%s) failed in attempt %d: %s",
            a.id,
            a.name,
            a.attempt + 1,
            failure.reason + ("; there will be no other" if failure.final else ""),
            traceback=failure.output.decode("utf-8", "replace"),
        )

    def conclude(self, ending: Encoded | pb.Failed | None) -> bool:
        """The code ended with this report; None: it returned, and nobody wants the result.

        A report that was decided before replaces a failure, but not a success.
        """
        if not isinstance(ending, pb.Failed):
            return self.succeed_encoded(*ending) if ending is not None else self.succeed_encoded(b"", "")
        return self.give_up() if self.over is not None else self.fail(ending)

    def give_up(self) -> bool:
        """Sends the report that was decided before the code ended, or began."""
        if self.over is None:
            return False
        return self.hand_back() if self.over is HAND_BACK else self.fail(self.over)

    def hand_back(self) -> bool:
        """Hands the task back for others; nothing is charged."""
        if self.settled:
            return False
        self.settled = True
        self.common.stats.handed_back += 1
        self._count("handed_back", ran=False)
        self.session.hand_back((self.sequence,))
        return True

    def lose(self) -> bool:
        """Others have the task: no report is sent any more."""
        if self.settled:
            return False
        self.settled = True
        self.common.stats.lost += 1
        self._count("lost", ran=False)
        return True

    def _count(self, outcome: Outcome, *, ran: bool = True) -> None:
        if (figures := self.common.figures) is not None:
            seconds = time.monotonic() - self.began if ran and self.began else None
            figures.ended(self.function.name, outcome, seconds, self.assignment.traceparent)

    def _duration_ms(self) -> int:
        return round((time.monotonic() - self.began) * 1000) if self.began else 0
