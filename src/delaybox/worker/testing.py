"""Runs a worker's tasks inside a test: no server, and a clock that the test moves.

    tasks = Inline(worker)
    sent = tasks.schedule(send, Call(17), delay="1h")
    tasks.advance("1h")
    assert sent.state == "succeeded"

Arguments and results pass through the same codecs as on the wire, failures are retried by the same rules, at virtual
moments. Functions of every kind run right here, one after the other, in the order of their due times.
"""

from __future__ import annotations

import asyncio
import heapq
import inspect
import itertools
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

from delaybox.client.models import TaskState
from delaybox.client.new_tasks import NewTask, new_call
from delaybox.client.values import Duration
from delaybox.core.durations import span_ms
from delaybox.core.errors import InvalidTask
from delaybox.core.retry import DEFAULT_RETRY, RetryPolicy
from delaybox.core.task import DEFAULT_QUEUE, DEFAULT_SNOOZE_MS
from delaybox.wire.gen import scheduler_pb2
from delaybox.worker import failures
from delaybox.worker.context import CancelSignal, Context, Facts, running
from delaybox.worker.functions import TaskFunction
from delaybox.worker.worker import Worker

START_MS = 1_800_000_000_000
T = TypeVar("T")


@dataclass(eq=False)
class InlineTask:
    """A scheduled task: its state, and its result.

    ``attempts``: attempts begun; ``snoozes``: those that put the task off, which are not charged. ``failures``: the
    reason of each that failed; ``errors``: what was raised.
    """

    id: str
    name: str
    due_ms: int
    state: TaskState = TaskState.SCHEDULED
    attempts: int = 0
    snoozes: int = 0
    result: Any = None
    failures: list[str] = field(default_factory=list)
    errors: list[BaseException] = field(default_factory=list)
    progress: list[tuple[float, str]] = field(default_factory=list)
    ran_at_ms: list[int] = field(default_factory=list)
    """When each attempt began, by the virtual clock."""
    snoozed_at_ms: int | None = None
    """When it was put off first."""

    @property
    def due(self) -> datetime:
        """When it is due next, or was."""
        return datetime.fromtimestamp(self.due_ms / 1000, UTC)

    @property
    def reason(self) -> str:
        """Why it last failed; "" when it did not."""
        return self.failures[-1] if self.failures else ""


class Inline:
    """Stands in for a node. ``draw`` is the random share of back-offs; 1.0 unless given: each wait is its longest."""

    def __init__(self, worker: Worker, *, now_ms: int = START_MS, draw: Callable[[], float] = lambda: 1.0) -> None:
        self.tasks: list[InlineTask] = []
        self.now_ms = now_ms
        self._worker = worker
        self._draw = draw
        self._order = itertools.count()
        self._waiting: list[tuple[int, int, InlineTask, scheduler_pb2.NewTask]] = []
        self._keys: dict[str, InlineTask] = {}

    @property
    def now(self) -> datetime:
        """The virtual clock, UTC."""
        return datetime.fromtimestamp(self.now_ms / 1000, UTC)

    def schedule(
        self, task: NewTask | str | Callable[..., Any], arguments: object = None, /, **options: Any
    ) -> InlineTask:
        """Like a client's ``schedule``. InvalidTask also for a function that the worker does not have, or does not
        serve from the task's queue."""
        message = task.message if isinstance(task, NewTask) else new_call(task, arguments, options)
        if message.name not in self._worker.functions:
            known = ", ".join(sorted(self._worker.functions)) or "none"
            raise InvalidTask("name", f"worker {self._worker.name!r} has no task {message.name!r}; it has {known}")
        queue = message.queue or self._worker.functions[message.name].queue or DEFAULT_QUEUE
        served = next((names[message.name] for names in self._worker.served().values() if message.name in names), ())
        if queue not in served:
            raise InvalidTask(
                "queue",
                f"worker {self._worker.name!r} serves {message.name!r} from {', '.join(served) or 'no queue'}, not "
                f"from {queue!r}: a node would keep the task until some worker does",
            )
        if message.idempotency_key in self._keys:
            return self._keys[message.idempotency_key]
        due_ms = self.now_ms + message.delay_ms
        if message.WhichOneof("when") == "due_ms":
            due_ms = max(self.now_ms, message.due_ms)
        made = InlineTask(f"inline-{len(self.tasks) + 1}", message.name, due_ms)
        self.tasks.append(made)
        if message.idempotency_key:
            self._keys[message.idempotency_key] = made
        self._put(made, message)
        return made

    def cancel(self, task: InlineTask) -> None:
        """Cancels a task that waits. Does nothing for one that has ended."""
        if task.state is TaskState.SCHEDULED:
            task.state = TaskState.CANCELLED

    def advance(self, by: Duration = 0) -> list[InlineTask]:
        """Moves the clock (by seconds, a timedelta, or text such as "1h") and runs what falls due on the way, retries
        included; what ran, in order.

        Inside a running event loop await `advance_async`.
        """
        return _run(self.advance_async(by))

    async def advance_async(self, by: Duration = 0) -> list[InlineTask]:
        """As `advance`."""
        return await self._until(self.now_ms + span_ms("by", by, least=0))

    async def _until(self, end: int) -> list[InlineTask]:
        ran: list[InlineTask] = []
        while self._waiting and self._waiting[0][0] <= end:
            due_ms, _, task, message = heapq.heappop(self._waiting)
            if task.state is TaskState.CANCELLED:
                continue
            self.now_ms = max(self.now_ms, due_ms)
            await self._attempt(task, message)
            ran.append(task)
        self.now_ms = end
        return ran

    def run_all(self, *, most: int = 10_000) -> list[InlineTask]:
        """Moves the clock until nothing waits. RuntimeError after ``most``: do tasks schedule tasks for ever?"""
        ran: list[InlineTask] = []
        while self._waiting:
            if len(ran) >= most:
                raise RuntimeError(f"{most} attempts and tasks still wait: does one schedule itself again for ever?")
            ran += _run(self._until(max(self.now_ms, self._waiting[0][0])))
        return ran

    def _put(self, task: InlineTask, message: scheduler_pb2.NewTask) -> None:
        heapq.heappush(self._waiting, (task.due_ms, next(self._order), task, message))

    async def _attempt(self, task: InlineTask, message: scheduler_pb2.NewTask) -> None:
        function = self._worker.functions[task.name]
        task.state = TaskState.RUNNING
        task.attempts += 1
        task.ran_at_ms.append(self.now_ms)
        try:
            task.result = await copy_context().run(asyncio.ensure_future, self._call(function, task, message))
        except asyncio.CancelledError as error:
            current = asyncio.current_task()
            if current is not None and current.cancelling():
                raise
            self._failed(task, message, function, error)
        except BaseException as error:  # noqa: BLE001 - as in a worker, whatever a function raises is its attempt's end
            self._failed(task, message, function, error)
        else:
            task.state = TaskState.SUCCEEDED

    async def _call(self, function: TaskFunction[..., Any], task: InlineTask, message: scheduler_pb2.NewTask) -> Any:
        timeout_ms = message.timeout_ms or function.timeout_ms
        headers = dict(message.headers)
        facts = Facts(
            id=task.id,
            name=task.name,
            queue=message.queue or function.queue or DEFAULT_QUEUE,
            due_ms=task.due_ms,
            attempt=task.attempts - 1 - task.snoozes,
            token=task.attempts,
            headers=headers,
            labels=dict(message.labels),
            timeout_ms=timeout_ms,
        )
        run = _Running(Context(facts, CancelSignal(), lambda fraction, text: task.progress.append((fraction, text))))
        running.set(run)
        value = function.started(function.codecs.arguments(message.payload, headers), run)
        if inspect.iscoroutine(value):
            try:
                async with asyncio.timeout(timeout_ms / 1000 or None):
                    value = await value
            except TimeoutError as error:
                raise _OutOfTime(failures.timed_out(timeout_ms).reason) from error
        encoded = function.codecs.result(value, function.result_type)
        return function.codecs.returned(encoded.data, encoded.content_type)

    def _failed(
        self,
        task: InlineTask,
        message: scheduler_pb2.NewTask,
        function: TaskFunction[..., Any],
        error: BaseException,
    ) -> None:
        report = failures.failed(str(error)) if isinstance(error, _OutOfTime) else failures.failure(error)
        task.errors.append(error)
        task.failures.append(report.reason)
        rules = _policy(message) or function.retry or DEFAULT_RETRY
        charged = task.attempts - task.snoozes
        wait_ms = rules.delay_ms(charged, self._draw())
        if report.HasField("retry_after_ms"):
            wait_ms = report.retry_after_ms
        if report.snooze:
            task.snoozes += 1
            task.snoozed_at_ms = self.now_ms if task.snoozed_at_ms is None else task.snoozed_at_ms
            over = self.now_ms + wait_ms > task.snoozed_at_ms + (message.max_snooze_ms or DEFAULT_SNOOZE_MS)
        else:
            over = report.final or not rules.again(charged)
        if over:
            task.state = TaskState.FAILED
            return
        task.due_ms = self.now_ms + wait_ms
        task.state = TaskState.SCHEDULED
        self._put(task, message)


class _OutOfTime(Exception):
    """The failure in the form that a worker reports."""


@dataclass(frozen=True, slots=True)
class _Running:
    context: Context


def run_inline(worker: Worker, **options: Any) -> Inline:
    """An `Inline` for this worker."""
    return Inline(worker, **options)


def _policy(message: scheduler_pb2.NewTask) -> RetryPolicy | None:
    if not message.HasField("retry"):
        return None
    rules = message.retry
    return RetryPolicy(
        max_attempts=rules.max_attempts,
        initial_ms=rules.initial_ms,
        factor=rules.factor,
        max_ms=rules.max_ms,
        jitter=rules.jitter,
    )


def _run(coroutine: Coroutine[Any, Any, T]) -> T:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    coroutine.close()
    raise RuntimeError("an event loop runs here: await advance_async() instead of advance()")
