"""What a function can learn about the task that it runs for, and how it reports progress."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from delaybox.core.durations import Span, span_s
from delaybox.core.texts import head
from delaybox.wire.trace import handed_out, trace_in
from delaybox.worker.failures import Stopped


class CancelSignal:
    """Set once when the function should stop: cancelled by somebody, out of time, or given to others.

    ``is_set``, ``set`` and `wait_blocking` may be called from any thread, ``await wait()`` from any loop.
    """

    def __init__(self) -> None:
        self._flag = threading.Event()
        self._lock = threading.Lock()
        self._waiters: list[Callable[[], object]] = []
        self.reason = ""

    def is_set(self) -> bool:
        """Whether to stop."""
        return self._flag.is_set()

    def set(self, reason: str) -> None:
        """Asks to stop, for a reason. The first reason stays."""
        with self._lock:
            if self._flag.is_set():
                return
            self.reason = reason
            self._flag.set()
            waiters, self._waiters = self._waiters, []
        for wake in waiters:
            # A waiter whose loop has ended raises; that must not keep the others from being woken.
            with contextlib.suppress(RuntimeError):
                wake()

    async def wait(self) -> None:
        """Returns when it is set."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(_wake, waiter)

        with self._lock:
            if self._flag.is_set():
                return
            self._waiters.append(wake)
        await waiter

    def wait_blocking(self, timeout: Span | None = None) -> bool:
        """Returns True when it is set, False after ``timeout``: seconds, a timedelta, or text such as "30s"; None: no
        limit. For threads; in a coroutine await `wait`."""
        return self._flag.wait(span_s("timeout", timeout))


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """The facts of the task, as its assignment carries them."""

    id: str
    name: str
    queue: str
    due_ms: int
    attempt: int
    token: int
    headers: Mapping[str, bytes]
    labels: Mapping[str, str]
    timeout_ms: int = 0
    firing: str = ""
    """The ``traceparent`` of the firing, where the node traces."""


class ProgressSink(Protocol):
    """Receives a function's progress."""

    def __call__(self, fraction: float, message: str) -> None: ...


class Context:
    """The task that a function runs for. Each attempt has its own."""

    def __init__(
        self, facts: Facts, cancelled: CancelSignal, sink: ProgressSink, *, since: float | None = None
    ) -> None:
        self._facts = facts
        self._sink = sink
        self._since = time.monotonic() if since is None else since
        self.cancelled = cancelled
        """Set when the function should stop."""

    @property
    def id(self) -> str:
        """The task's id."""
        return self._facts.id

    @property
    def name(self) -> str:
        """The function's name."""
        return self._facts.name

    @property
    def queue(self) -> str:
        """The task's queue."""
        return self._facts.queue

    @property
    def due_ms(self) -> int:
        """When it was due, Unix ms."""
        return self._facts.due_ms

    @property
    def due(self) -> datetime:
        """When it was due, UTC."""
        return datetime.fromtimestamp(self._facts.due_ms / 1000, UTC)

    @property
    def attempt(self) -> int:
        """Failed attempts before this one: 0 for the first."""
        return self._facts.attempt

    @property
    def token(self) -> int:
        """Rises with every delivery of the task. Pass it to systems that must refuse a writer whose delivery is out of
        date."""
        return self._facts.token

    @property
    def headers(self) -> Mapping[str, bytes]:
        """What the caller sent along."""
        return self._facts.headers

    @property
    def trace(self) -> Mapping[str, str]:
        """``traceparent``, and ``tracestate`` and ``baggage`` if there are any, to pass on with calls that the function
        makes; empty where the task belongs to no trace."""
        found = trace_in(handed_out(self._facts.headers, self._facts.firing.encode()))
        return {name: value.decode() for name, value in found.items()}

    @property
    def facts(self) -> Facts:
        """The facts of the task."""
        return self._facts

    @property
    def labels(self) -> Mapping[str, str]:
        """The task's labels."""
        return self._facts.labels

    @property
    def timeout(self) -> float | None:
        """Longest time of this attempt in seconds; None when it has no time-out."""
        return self._facts.timeout_ms / 1000 if self._facts.timeout_ms else None

    def remaining(self) -> float | None:
        """Seconds until this attempt's time is over, never below 0; None when it has no time-out."""
        if not self._facts.timeout_ms:
            return None
        return max(0.0, self._since + self._facts.timeout_ms / 1000 - time.monotonic())

    @property
    def deadline(self) -> datetime | None:
        """When this attempt's time is over, by this machine's clock; None when it has no time-out."""
        left = self.remaining()
        return None if left is None else datetime.fromtimestamp(time.time() + left, UTC)

    def progress(self, fraction: float = -1.0, message: str = "") -> None:
        """Reports how far the task is, 0 to 1 (negative: not known), for Get and Watch. Any thread may call it.

        Cheap: of many calls in a moment only the last one is sent. ``message``: for people; past 2,000 bytes it is cut.
        Raises as `heartbeat` when the function should stop.
        """
        self.heartbeat()
        self._sink(float(fraction), head(str(message)))

    def heartbeat(self) -> None:
        """To be called in long loops of plain functions: raises Stopped when the function should stop.

        The task's lease does not depend on it: the worker keeps that alive by itself.
        """
        if self.cancelled.is_set():
            raise Stopped(self.cancelled.reason)


class Running(Protocol):
    """Knows for which task code runs."""

    @property
    def context(self) -> Context: ...


running: ContextVar[Running] = ContextVar("delaybox_running")


def current() -> Context:
    """The task for which the calling code runs. LookupError outside of one."""
    try:
        return running.get().context
    except LookupError:
        raise LookupError("no task runs here: current() is for code that a worker calls for a task") from None
