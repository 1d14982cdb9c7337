"""Schedules very many tasks in chunks: filled from the caller's iterable, sent ahead, answered in order.

Two kinds of steps share a `ChunkLine`: the caller's steps fill chunks and take outcomes out, other steps send them.
So the source may pause for as long as it likes: tasks that it gave before are sent all the same.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from threading import Lock
from types import MappingProxyType
from typing import Any, Final, Protocol
from uuid import uuid4

from delaybox.client.batches import StoredBatch
from delaybox.client.errors import Failure, Refused, Unreachable, item_error
from delaybox.client.models import ScheduleAnswer
from delaybox.client.new_tasks import NewTask
from delaybox.client.retries import ClientSession, Repeating, Tries, outcome_unknown
from delaybox.client.steps import Drop, Emit, Invoke, OpenStream, Pause, Pull, Receive, Send, Start, Steps, Wait
from delaybox.client.traced import with_trace
from delaybox.core.errors import DelayBoxError, Overloaded, PayloadTooLarge, StoreFull, StoreUnavailable
from delaybox.wire.gen import scheduler_pb2 as pb

CHUNK: Final = 1_000
CHUNK_BYTES: Final = 2 * 1024 * 1024
"""A chunk of this many bytes is full: even with one more task of the largest size that shares requests, it is below
every node's limit. A larger task is sent alone, so that only it is refused where a node does not take its size."""
_BESIDE: Final = 64
"""Bytes of a request beside each task, including a key that the client adds."""
LINGER_S: Final = 0.05
"""A chunk that fills slowly is sent after this time."""
UNDER_WAY: Final = 4
"""Most chunks that are sent before the first is answered; as many full ones may wait meanwhile."""
_STREAM_S: Final = 60.0
_TOO_LARGE: Final = "resource_exhausted"
"""How gRPC itself words that a message is over a limit."""

_NO_TRACE: Final[Mapping[str, bytes]] = MappingProxyType({})

Outcome = ScheduleAnswer | DelayBoxError


class Flag(Protocol):
    """A flag, of threads or of asyncio."""

    def set(self) -> None: ...


def with_key(task: pb.NewTask, key: str) -> pb.NewTask:
    """A copy, because the caller may schedule the same object again as another task."""
    keyed = pb.NewTask()
    keyed.CopyFrom(task)
    keyed.idempotency_key = key
    return keyed


class Chunk:
    """Tasks for one request; takes them until there are enough, or too many bytes."""

    __slots__ = ("_keys", "_limit", "_room", "_trace", "alone", "since", "tasks")

    def __init__(self, limit: int, now: float, *, safe: bool, trace: Mapping[str, bytes] = _NO_TRACE) -> None:
        self.tasks: list[pb.NewTask] = []
        self.alone = False
        """Whether it holds one large task."""
        self.since = now
        # Keys that are added only so that the request can be repeated begin with this.
        self._keys = f"{uuid4().hex}-" if safe else ""
        self._limit = limit
        self._room = CHUNK_BYTES
        self._trace = trace

    def take(self, task: pb.NewTask, size: int = 0) -> bool:
        """Adds a task, of ``size`` bytes where that is known; True when the chunk is full."""
        tasks = self.tasks
        if self._trace:
            task, size = with_trace(task, self._trace), 0
        if self._keys and not task.idempotency_key:
            task = with_key(task, f"{self._keys}{len(tasks)}")
        tasks.append(task)
        size = size or task.ByteSize()
        if size > CHUNK_BYTES:
            self.alone = True
        room = self._room = self._room - size - _BESIDE
        return room <= 0 or len(tasks) >= self._limit

    @property
    def kind(self) -> Repeating:
        """Whether sending it again would create its tasks again."""
        return Repeating.REPEATABLE if all(task.idempotency_key for task in self.tasks) else Repeating.ONCE

    def all_stored(self, answers: StoredBatch) -> Sequence[ScheduleAnswer]:
        """The answers, where each task is stored."""
        if not self._keys:
            return answers
        return [
            ScheduleAnswer(one.id, one.due_ms, one.created or task.idempotency_key.startswith(self._keys))
            for task, one in zip(self.tasks, answers, strict=True)
        ]

    def stored(self, task: pb.NewTask, result: pb.ScheduleResult) -> ScheduleAnswer:
        # Nothing but this chunk can have stored a task under a key that the client made.
        created = result.created or (self._keys != "" and task.idempotency_key.startswith(self._keys))
        return ScheduleAnswer(result.id, result.due_ms, created)


def store(
    session: ClientSession, chunk: Chunk, kind: Repeating, known: Sequence[pb.ScheduleResult] | None = None
) -> Steps[list[Outcome]]:
    """Stores one chunk by unary calls. ``known``: the answers that a stream gave already; tasks whose error may pass
    are sent again. Raises errors of the call as a whole, except OutcomeUnknown, which becomes each task's outcome."""
    outcomes: list[Outcome] = [_UNANSWERED] * len(chunk.tasks)
    left: Sequence[int] = range(len(chunk.tasks))
    tries = Tries(session, kind)
    which = 0
    while True:
        if known is None:
            which = tries.pick()
            request = pb.ScheduleBatchRequest(tasks=[chunk.tasks[i] for i in left])
            answer = yield from tries.measured(Invoke(which, "ScheduleBatch", request, tries.attempt_s()))
        else:
            answer, known = pb.ScheduleBatchResponse(results=known), None
        if isinstance(answer, Failure):
            failure = answer
            try:
                pause = tries.pause_after(failure, which)
            except DelayBoxError as error:
                if error.code != "outcome_unknown":
                    raise
                for i in left:
                    outcomes[i] = error
                return outcomes
        else:
            session.endpoints.worked(which)
            left, worst = _settle(chunk, kind, left, answer.results, outcomes)
            if worst is None:
                return outcomes
            try:
                pause = tries.pause_after(worst, which)
            except DelayBoxError:
                return outcomes
        if pause > 0:
            yield Pause(pause)


def _settle(
    chunk: Chunk, kind: Repeating, places: Sequence[int], results: Sequence[pb.ScheduleResult], outcomes: list[Outcome]
) -> tuple[list[int], Failure | None]:
    """Puts answers into ``outcomes``. Returns the places that are worth another attempt, and why."""
    again: list[int] = []
    worst: Failure | None = None
    for i, result in zip(places, results, strict=True):
        if not result.HasField("error"):
            outcomes[i] = chunk.stored(chunk.tasks[i], result)
            continue
        error = item_error(result)
        refused = isinstance(error, Overloaded | StoreFull)
        if isinstance(error, StoreUnavailable) and not refused:
            outcomes[i] = outcome_unknown(error)
        else:
            outcomes[i] = error
        if refused or (kind is not Repeating.ONCE and isinstance(error, StoreUnavailable)):
            again.append(i)
            if worst is None or not refused:
                worst = Failure(error, "UNAVAILABLE", refused=refused, retry_after_s=result.error.retry_after_ms / 1000)
    return again, worst


_UNANSWERED: Final = DelayBoxError("the node's answer did not cover this task")


class ChunkLine:
    """Chunks under way, and their outcomes. One side fills it (as the sink of `Pull`), another sends.

    For threads. ``filled`` wakes the side that sends, ``answered`` the side that fills.
    """

    __slots__ = (
        "_clock", "_closed", "_limit", "_lock", "_open", "_outcomes", "_ready", "_safe", "_trace", "_unanswered",
        "answered", "broken", "filled",
    )  # fmt: skip

    def __init__(
        self,
        limit: int,
        clock: Callable[[], float],
        *,
        safe: bool,
        filled: Flag,
        answered: Flag,
        trace: Mapping[str, bytes] = _NO_TRACE,
    ) -> None:
        self.filled = filled
        self.answered = answered
        self.broken: Exception | None = None
        self._limit = limit
        self._clock = clock
        self._safe = safe
        self._trace = trace
        self._lock = Lock()
        self._open: Chunk | None = None
        self._ready: deque[Chunk] = deque()
        self._unanswered = 0
        self._outcomes: deque[Sequence[Outcome]] = deque()
        self._closed = False

    # -- the side that fills ------------------------------------------------------------------------------------

    def add(self, item: NewTask, /) -> bool:
        """Adds a task; True when enough wait, or there is something to take out."""
        if not isinstance(item, NewTask):
            raise TypeError(f"{item!r} is not a task; make them with NewTask.call, NewTask.publish or NewTask.shell")
        message = item.message
        size = message.ByteSize()
        with self._lock:
            chunk = self._open
            if chunk is not None and size > CHUNK_BYTES:
                self._ready.append(chunk)
                chunk = None
            if chunk is None:
                chunk = self._open = Chunk(self._limit, self._clock(), safe=self._safe, trace=self._trace)
                self._unanswered += 1
                self.filled.set()
            if chunk.take(message, size):
                self._ready.append(chunk)
                self._open = None
                self.filled.set()
        if self._outcomes or len(self._ready) >= UNDER_WAY:
            return True
        return self.broken is not None

    @property
    def wants(self) -> bool:
        """Whether more may be added."""
        return len(self._ready) < UNDER_WAY and not self._closed

    @property
    def done(self) -> bool:
        """Whether it is closed and every outcome was taken out."""
        return self._closed and self._unanswered == 0 and not self._outcomes

    def close(self) -> None:
        """Closes it: nothing will be added any more."""
        self._closed = True
        self.filled.set()

    def take(self) -> Sequence[Outcome]:
        """The outcomes of the next chunk; empty when it is not answered yet."""
        return self._outcomes.popleft() if self._outcomes else ()

    # -- the side that sends ------------------------------------------------------------------------------------

    def next(self) -> Chunk | None:
        """The next chunk to send: full, old enough, or the last one."""
        with self._lock:
            if self._ready:
                return self._ready.popleft()
            chunk = self._open
            if chunk is None or not (self._closed or self._clock() - chunk.since >= LINGER_S):
                return None
            self._open = None
            return chunk

    @property
    def exhausted(self) -> bool:
        """Whether no further chunk will be sent."""
        return self._closed and self._open is None and not self._ready

    def linger_s(self) -> float | None:
        """How long until the chunk that is being filled is old enough."""
        chunk = self._open
        return None if chunk is None else max(0.001, chunk.since + LINGER_S - self._clock())

    def settle(self, outcomes: Sequence[Outcome]) -> None:
        """Notes the outcome of the first chunk that is not answered yet."""
        self._outcomes.append(outcomes)
        with self._lock:
            self._unanswered -= 1
        self.answered.set()

    def fail(self, error: Exception) -> None:
        """Notes an error of the call as a whole: nothing more is sent."""
        self.broken = error
        self.answered.set()


def schedule_each(session: ClientSession, source: Any, line: ChunkLine) -> Steps[None]:
    """Emits an outcome for each task of ``source``, in order, while a few chunks more are under way.

    Errors of the call as a whole (no node, no right to do it) are raised: the tasks from there on were not sent. What
    the source raises is raised after everything that it gave has been answered.
    """
    raised: Exception | None = None
    yield Start(_sent(session, line))
    while True:
        if outcomes := line.take():
            yield Emit(outcomes)
        elif line.broken is not None:
            raise line.broken
        elif line.wants:
            try:
                ended = yield Pull(source, line)
            except Exception as error:  # noqa: BLE001 - raised again at the end
                raised, ended = error, True
            if ended:
                line.close()
        elif line.done:
            break
        else:
            yield Wait(line.answered)
    if raised is not None:
        raise raised


def _sent(session: ClientSession, line: ChunkLine) -> Steps[None]:
    """Sends the chunks of the line until it is closed and all are answered."""
    waiting: deque[Chunk] = deque()
    stream: Any = None
    which, fresh_until = 0, 0.0
    tries = Tries(session, Repeating.ONCE)
    try:
        while True:
            stale = stream is not None and session.clock() > fresh_until
            if stale and not waiting:
                yield Drop(stream)
                stream = None
            elif len(waiting) < UNDER_WAY and not stale and (chunk := line.next()) is not None:
                waiting.append(chunk)
                if chunk.alone:
                    continue  # not over the stream, which would break for the others as well
                if stream is None:
                    which = tries.pick()
                    stream = yield OpenStream(which, "ScheduleStream", None, session.timeout_s)
                    # Half of the time for sending, half for the answers.
                    fresh_until = session.clock() + (session.timeout_s or _STREAM_S) / 2
                yield Send(stream, session.batch(chunk.tasks))
            elif waiting and waiting[0].alone:
                line.settle((yield from _alone(session, waiting.popleft())))
            elif waiting:
                answer = yield Receive(stream)
                if isinstance(answer, StoredBatch):
                    session.endpoints.worked(which)
                    line.settle(waiting.popleft().all_stored(answer))
                    continue
                if isinstance(answer, pb.ScheduleBatchResponse):
                    session.endpoints.worked(which)
                    done = waiting.popleft()
                    line.settle((yield from store(session, done, done.kind, answer.results)))
                    continue
                yield Drop(stream)
                stream = None
                if not isinstance(answer, Failure):
                    answer = Failure(Unreachable(f"{session.endpoints.names[which]} ended the stream"), "UNAVAILABLE")
                yield from _after_a_break(session, answer, which, waiting, line)
            elif line.exhausted:
                return
            else:
                yield Wait(line.filled, line.linger_s())
    except Exception as error:  # noqa: BLE001 - raised where the caller iterates
        line.fail(error)


def _after_a_break(
    session: ClientSession, failure: Failure, which: int, waiting: deque[Chunk], line: ChunkLine
) -> Steps[None]:
    """Settles what a broken stream left unanswered."""
    certain = not failure.sent or failure.refused
    if failure.final or (certain and not isinstance(failure.error, Unreachable | Overloaded | StoreFull)):
        raise failure.error
    session.endpoints.failed(which, session.clock(), least_s=failure.retry_after_s or 0)
    while waiting:
        chunk = waiting.popleft()
        kind = chunk.kind
        if chunk.alone:
            line.settle((yield from _alone(session, chunk)))
        elif certain or kind is Repeating.REPEATABLE:
            line.settle((yield from store(session, chunk, kind)))
        else:
            line.settle([outcome_unknown(failure.error)] * len(chunk.tasks))


def _alone(session: ClientSession, chunk: Chunk) -> Steps[list[Outcome]]:
    """Stores a chunk of one large task. If a node does not take a message of its size, that is the error of this task
    alone."""
    try:
        return (yield from store(session, chunk, chunk.kind))
    except (Refused, PayloadTooLarge) as error:
        if isinstance(error, Refused) and error.code != _TOO_LARGE:
            raise
        size = chunk.tasks[0].ByteSize()
        words = (
            f"the task has {size} bytes, more than the node takes ({error}); store the data elsewhere and refer to it"
        )
        return [PayloadTooLarge("task", words, limit=0)]
