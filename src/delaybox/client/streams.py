"""Calls over many tasks: scheduling in chunks, listing, watching."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import uuid4

from delaybox.client.errors import (
    CallTimeout,
    Failure,
    NotFinished,
    ResultGone,
    TaskCancelled,
    TaskFailed,
    Unreachable,
    item_error,
)
from delaybox.client.models import STATES, Stored, Task, TaskState
from delaybox.client.steps import (
    Drop,
    Emit,
    Invoke,
    Kind,
    Open,
    Pause,
    Pull,
    Receive,
    Send,
    Session,
    Steps,
    Tries,
    feed,
    outcome_unknown,
)
from delaybox.client.tasks import NewTask, filter_of
from delaybox.core.errors import DelayBoxError, Overloaded, StoreFull, StoreUnavailable
from delaybox.wire.call import Codecs
from delaybox.wire.gen import scheduler_pb2 as pb

CHUNK: Final = 1_000
CHUNK_BYTES: Final = 2 * 1024 * 1024
"""With one task more, of at most 1 MiB, it stays below what any node takes."""
LINGER_S: Final = 0.05
"""A chunk that fills slowly leaves after so long."""
UNDER_WAY: Final = 4
"""Chunks that a node may have before the first is answered."""
_PAGE: Final = 1_000
_WATCH_S: Final = 60.0
"""One watch lasts so long: a cut that nobody reports is noticed then."""
_HELD_S: Final = 1.0
"""A stream that stood so long had worked."""
_SHORT_S: Final = 1.0
"""Less may be over before a node was reached at all."""
_LOOK_S: Final = 5.0
"""What a look may take where the caller wants to wait less."""

Outcome = Stored | DelayBoxError


def with_key(task: pb.NewTask, key: str) -> pb.NewTask:
    """A copy: the caller's own task may be scheduled again, as another one."""
    keyed = pb.NewTask()
    keyed.CopyFrom(task)
    keyed.idempotency_key = key
    return keyed


class Chunk:
    """Tasks for one request; takes them until there are enough, too many bytes, or it took too long."""

    __slots__ = ("_clock", "_keys", "_limit", "_room", "_since", "full", "tasks")

    def __init__(self, limit: int, clock: Callable[[], float], *, safe: bool) -> None:
        self.tasks: list[pb.NewTask] = []
        self.full = False
        # How the keys begin that are given only so that the request can be repeated.
        self._keys = f"{uuid4().hex}-" if safe else ""
        self._limit = limit
        self._room = CHUNK_BYTES
        self._clock = clock
        self._since = 0.0

    def add(self, item: NewTask, /) -> bool:
        if not isinstance(item, NewTask):
            raise TypeError(f"{item!r} is not a task; make them with NewTask.call, NewTask.publish or NewTask.shell")
        return self.take(item.message)

    def take(self, task: pb.NewTask) -> bool:
        """Adds a task; True when the chunk is to leave."""
        if self._keys and not task.idempotency_key:
            task = with_key(task, f"{self._keys}{len(self.tasks)}")
        if not self.tasks:
            self._since = self._clock()
        self.tasks.append(task)
        self._room -= len(task.payload) + 200
        if len(self.tasks) >= self._limit or self._room <= 0:
            self.full = True
        return self.full or self._clock() - self._since > LINGER_S

    @property
    def kind(self) -> Kind:
        """Whether sending it again would create its tasks again."""
        return Kind.REPEATABLE if all(task.idempotency_key for task in self.tasks) else Kind.ONCE

    def stored(self, task: pb.NewTask, result: pb.ScheduleResult) -> Stored:
        # Under a key of our own only this chunk can have been stored.
        created = result.created or (self._keys != "" and task.idempotency_key.startswith(self._keys))
        return Stored(result.id, result.due_ms, created)


def store(
    session: Session, chunk: Chunk, kind: Kind, known: Sequence[pb.ScheduleResult] | None = None
) -> Steps[list[Outcome]]:
    """Stores one chunk by unary calls. ``known``: the answers that a stream gave already; those that can be mended are
    asked for again. Raises what concerns the call as a whole, unless it is OutcomeUnknown, which is each task's."""
    outcomes: list[Outcome] = [_UNANSWERED] * len(chunk.tasks)
    left: Sequence[int] = range(len(chunk.tasks))
    tries = Tries(session, kind)
    which = 0
    while True:
        if known is None:
            which = tries.pick()
            request = pb.ScheduleBatchRequest(tasks=[chunk.tasks[i] for i in left])
            answer = yield Invoke(which, "ScheduleBatch", request, tries.attempt_s())
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
    chunk: Chunk, kind: Kind, places: Sequence[int], results: Sequence[pb.ScheduleResult], outcomes: list[Outcome]
) -> tuple[list[int], Failure | None]:
    """Puts answers into ``outcomes``; the places that are worth another attempt, and why they are."""
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
        if refused or (kind is not Kind.ONCE and isinstance(error, StoreUnavailable)):
            again.append(i)
            if worst is None or not refused:
                worst = Failure(error, "UNAVAILABLE", refused=refused, retry_after_s=result.error.retry_after_ms / 1000)
    return again, worst


_UNANSWERED: Final = DelayBoxError("the node's answer did not cover this task")


def schedule_each(session: Session, source: Any, *, chunk: int, safe: bool) -> Steps[None]:
    """Emits an outcome for each task of ``source``, in order, while a few chunks more are under way.

    What concerns the call as a whole is raised (no node, no right to do it): the tasks from there on were not sent.
    """
    ended = False
    waiting: deque[Chunk] = deque()
    stream: Any = None
    which, fresh_until = 0, 0.0
    tries = Tries(session, Kind.ONCE)
    while True:
        # A source that gives slowly is not asked again before what it gave is answered: nobody waits for its next item.
        if not ended and len(waiting) < UNDER_WAY and (not waiting or waiting[-1].full):
            if stream is not None and session.clock() > fresh_until:
                if not waiting:
                    yield Drop(stream)
                    stream = None
                    continue
            else:
                new = Chunk(chunk, session.clock, safe=safe)
                ended = yield Pull(source, new)
                if new.tasks:
                    if stream is None:
                        which = tries.pick()
                        stream = yield Open(which, "ScheduleStream", None, session.timeout_s)
                        # Half its time for sending, half for the answers.
                        fresh_until = session.clock() + (session.timeout_s or _WATCH_S) / 2
                    yield Send(stream, pb.ScheduleBatchRequest(tasks=new.tasks))
                    waiting.append(new)
                continue
        if not waiting:
            return
        answer = yield Receive(stream)
        if isinstance(answer, pb.ScheduleBatchResponse):
            session.endpoints.worked(which)
            done = waiting.popleft()
            yield Emit((yield from store(session, done, done.kind, answer.results)))
            continue
        yield Drop(stream)
        stream = None
        if not isinstance(answer, Failure):
            answer = Failure(Unreachable(f"{session.endpoints.names[which]} ended the stream"), "UNAVAILABLE")
        yield from _after_a_break(session, answer, which, waiting)


def _after_a_break(session: Session, failure: Failure, which: int, waiting: deque[Chunk]) -> Steps[None]:
    """Settles what a broken stream left unanswered."""
    certain = not failure.sent or failure.refused
    if certain and not isinstance(failure.error, Unreachable | Overloaded | StoreFull):
        raise failure.error
    session.endpoints.failed(which, session.clock(), least_s=failure.retry_after_s or 0)
    while waiting:
        chunk = waiting.popleft()
        kind = chunk.kind
        if certain or kind is Kind.REPEATABLE:
            yield Emit((yield from store(session, chunk, kind)))
        else:
            yield Emit([outcome_unknown(failure.error)] * len(chunk.tasks))


def listed(session: Session, method: str, wanted: Mapping[str, Any], limit: int | None) -> Steps[None]:
    """Emits the tasks that match, ``limit`` at most; goes on elsewhere where a node was lost."""
    request = pb.ListRequest(filter=filter_of(wanted))
    left = limit
    while left is None or left > 0:
        tries = Tries(session, Kind.READ)
        which = tries.pick()
        request.limit = _PAGE if left is None else min(left, _PAGE)
        stream = yield Open(which, method, request, tries.attempt_s())
        while (page := (yield Receive(stream))) is not None:
            if isinstance(page, Failure):
                yield Pause(tries.pause_after(page, which))
                which = tries.pick()
                stream = yield Open(which, method, request, tries.attempt_s())
                continue
            tries.went_on()
            request.cursor = page.cursor
            tasks = [Task.of(task) for task in page.tasks]
            if left is not None:
                tasks = tasks[:left]
                left -= len(tasks)
                request.limit = max(min(left, _PAGE), 1)
            yield Emit(tasks)
        session.endpoints.worked(which)
        if not request.cursor:
            return


def watched(
    session: Session, ids: Iterable[str], *, ends_only: bool, limit_s: float | None = None
) -> Steps[dict[str, None]]:
    """Emits the wire's events until all have ended or the time is over; returns the ids that have not ended.

    However short the time is, where each stands now is looked at.
    """
    open_ = dict.fromkeys(ids)
    until = None if limit_s is None else session.clock() + limit_s
    if limit_s is not None and limit_s < _SHORT_S:
        yield from _looked(session, open_, ends_only=ends_only)
    tries = Tries(session, Kind.READ, limit_s)
    while open_:
        opened = session.clock()
        left = _WATCH_S if until is None else min(_WATCH_S, until - opened)
        if left <= 0:
            return open_
        which = tries.pick()
        stream = yield Open(which, "Watch", pb.WatchRequest(ids=list(open_), ends_only=ends_only), left)
        while isinstance(answer := (yield Receive(stream)), pb.WatchResponse):
            tries.went_on()
            for event in answer.events:
                if STATES[event.state].is_end:
                    open_.pop(event.id, None)
            yield Emit(answer.events)
            if not open_:
                break
        yield Drop(stream)
        if not open_:
            session.endpoints.worked(which)
            return open_
        if isinstance(answer, Failure) and isinstance(answer.error, CallTimeout):
            tries.went_on()  # its own time was over
            continue
        if answer is None:
            answer = Failure(Unreachable(f"{session.endpoints.names[which]} ended the watch"), "UNAVAILABLE")
        if answer.sent and session.clock() - opened >= _HELD_S:
            tries.went_on()  # it stood, without news: what broke it is new
        yield Pause(tries.pause_after(answer, which))
    return open_


def _looked(session: Session, open_: dict[str, None], *, ends_only: bool) -> Steps[None]:
    """Emits where each stands now; takes out of ``open_`` what has ended."""
    unseen = dict(open_)
    tries = Tries(session, Kind.READ, _LOOK_S)
    while unseen:
        which = tries.pick()
        stream = yield Open(which, "Watch", pb.WatchRequest(ids=list(unseen)), tries.attempt_s())
        while isinstance(answer := (yield Receive(stream)), pb.WatchResponse):
            for event in answer.events:
                unseen.pop(event.id, None)
                if STATES[event.state].is_end:
                    open_.pop(event.id, None)
            yield Emit([event for event in answer.events if not ends_only or STATES[event.state].is_end])
            if not unseen:
                break
        yield Drop(stream)
        if not unseen:
            session.endpoints.worked(which)
            return
        if answer is None:
            answer = Failure(Unreachable(f"{session.endpoints.names[which]} ended the watch"), "UNAVAILABLE")
        yield Pause(tries.pause_after(answer, which))


def result(session: Session, task_id: str, *, limit_s: float | None, codecs: Codecs) -> Steps[Any]:
    """What the task's function returned. TaskFailed, TaskCancelled, ResultGone, NotFinished, NotDecodable."""
    found: list[pb.TaskEvent] = []
    yield from feed(watched(session, [task_id], ends_only=True, limit_s=limit_s), found.extend)
    for event in found:
        if STATES[event.state].is_end:
            return returned(event, codecs)
    within = f" within {limit_s:g} s" if limit_s else " yet"
    raise NotFinished(f"task {task_id} has not finished{within}; it goes on all the same")


def returned(event: pb.TaskEvent, codecs: Codecs) -> Any:
    """What a finished task left, or why there is nothing. As `result`."""
    match STATES[event.state]:
        case TaskState.SUCCEEDED if event.HasField("result"):
            left = event.result
            # What a command printed has no form.
            return left.output if left.HasField("exit_code") else codecs.returned(left.output, left.content_type)
        case TaskState.FAILED:
            raise TaskFailed(event.id, event.reason or event.result.reason, event.result.output)
        case TaskState.CANCELLED:
            raise TaskCancelled(event.id)
        case _:
            raise ResultGone(event.id)


@dataclass(frozen=True, slots=True)
class Broken:
    """An outcome that is an error, where a value could be one too."""

    error: Exception


def value_of(event: pb.TaskEvent, codecs: Codecs) -> Any:
    """As `returned`, with what it raises as a Broken."""
    try:
        return returned(event, codecs)
    except DelayBoxError as error:
        return Broken(error)
