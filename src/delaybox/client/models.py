"""The values that calls return: plain and frozen, made from the wire's messages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, ClassVar, Final, NamedTuple, Required, TypedDict

from delaybox.client.failed_attempts import FailedAttempt
from delaybox.client.moments import moment
from delaybox.core.durations import Span
from delaybox.core.retry import DEFAULT_RETRY
from delaybox.wire.gen import scheduler_pb2 as pb
from delaybox.wire.gen import task_pb2


class TaskState(StrEnum):
    """Where a task stands; equal to its name as text."""

    SCHEDULED = "scheduled"
    READY = "ready"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    FINISHED_OR_UNKNOWN = "finished_or_unknown"

    @property
    def is_end(self) -> bool:
        """Whether nothing comes after it."""
        return self in _ENDS


_ENDS = frozenset((TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED, TaskState.FINISHED_OR_UNKNOWN))


class TaskType(StrEnum):
    """What a task is delivered to."""

    PUB_SUB = "pub_sub"
    SHELL = "shell"
    HTTP = "http"
    WORKER = "worker"


class Priority(StrEnum):
    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"
    CRITICAL = "critical"


STATES: Final[Mapping[int, TaskState]] = {pb.TaskState.Value(f"TASK_STATE_{s.name}"): s for s in TaskState}
TYPES: Final[Mapping[int, TaskType]] = {
    pb.TASK_TYPE_PUB_SUB: TaskType.PUB_SUB,
    pb.TASK_TYPE_SHELL_CMD: TaskType.SHELL,
    pb.TASK_TYPE_HTTP: TaskType.HTTP,
    pb.TASK_TYPE_WORKER: TaskType.WORKER,
}
PRIORITIES: Final[Mapping[int, Priority]] = {pb.Priority.Value(f"PRIORITY_{p.name}"): p for p in Priority}


class ScheduleAnswer(NamedTuple):
    """The answer to one scheduled task. ``created``: False when its key already named this task."""

    id: str
    due_ms: int
    created: bool = True


@dataclass(frozen=True, slots=True)
class Retry:
    """How failed attempts are tried again.

    attempts: in all, the first one included: ``Retry(4)`` tries as often as ``retry=3``.
    initial: the wait after the first failure; 1 s, or ``maximum`` where that is shorter, unless given. Waits are
        seconds, a timedelta, or text such as "10s".
    factor: what each further wait is multiplied by.
    maximum: the longest wait; 1 h, or ``initial`` where that is longer, unless given.
    jitter: the share of each wait that is drawn at random, 0 (none) to 1.
    """

    attempts: int = DEFAULT_RETRY.max_attempts
    initial: Span | None = None
    factor: float = DEFAULT_RETRY.factor
    maximum: Span | None = None
    jitter: float = DEFAULT_RETRY.jitter


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedTask:
    """How a task ended. ``fired``: when it was handed out last, None: never; ``attempt``: failed attempts, the last one
    included; ``node``: the member that had it, "": a caller ended it."""

    id: str
    state: TaskState
    type: TaskType
    queue: str
    name: str
    priority: Priority
    due: datetime
    fired: datetime | None
    ended: datetime
    attempt: int
    deliveries: int
    node: str
    reason: str

    @classmethod
    def of(cls, answer: pb.EndedTask) -> EndedTask:
        return cls(
            id=answer.id,
            state=STATES[answer.state],
            type=TYPES[answer.type],
            queue=answer.queue,
            name=answer.name,
            priority=PRIORITIES[answer.priority],
            due=moment(answer.due_ms),
            fired=moment(answer.fired_ms) if answer.fired_ms else None,
            ended=moment(answer.ended_ms),
            attempt=answer.attempt,
            deliveries=answer.deliveries,
            node=answer.node,
            reason=answer.reason,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """``fraction``: 0 to 1, or None when it was not stated."""

    fraction: float | None
    message: str

    @classmethod
    def of(cls, answer: pb.Progress) -> Progress:
        return cls(fraction=answer.fraction if answer.fraction >= 0 else None, message=answer.message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The result of a finished task. ``output`` in the form ``content_type`` (empty = JSON); ``exit_code`` of a
    command; ``status`` and ``headers`` of the answer to a webhook, whose body is ``output``."""

    ok: bool
    finished: datetime
    duration_ms: int
    output: bytes
    content_type: str = ""
    exit_code: int | None = None
    truncated: bool = False
    reason: str = ""
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, left: task_pb2.Result) -> Result:
        return cls(
            ok=left.ok,
            finished=moment(left.finished_ms),
            duration_ms=left.duration_ms,
            output=left.output,
            content_type=left.content_type,
            exit_code=left.exit_code if left.HasField("exit_code") else None,
            truncated=left.truncated,
            reason=left.reason,
            status=left.status,
            headers=dict(left.headers),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A task as it is now. ``attempt``: failed attempts so far; ``reason``: why it last failed, or why it waits.

    ``brief``: the token lacks the scope read, so only id, state and due are given. ``traceback``: of a worker's dead
    letter, the last one; lists leave it out. ``fired``, ``ended``, ``node``: of an ended task that `Client.get` looks
    at, where that is remembered: when it was handed out last, when it ended, and the member that had it ("": a caller
    ended it). ``remembered``: only its end is; payload, headers, labels and result are not kept. ``failures``: of a
    task that `Client.get` looks at, why its last attempts failed, in order, where that is remembered.
    """

    id: str
    state: TaskState
    due: datetime
    type: TaskType
    queue: str
    priority: Priority
    name: str
    payload: bytes
    headers: Mapping[str, bytes]
    labels: Mapping[str, str]
    attempt: int
    losses: int
    deliveries: int
    reason: str
    expire_after_ms: int
    timeout_ms: int
    keep_result_ms: int
    max_snooze_ms: int
    at_most_once: bool
    result: Result | None
    progress: Progress | None
    brief: bool = False
    traceback: str = ""
    url: str = ""
    method: str = ""
    fired: datetime | None = None
    ended: datetime | None = None
    node: str = ""
    remembered: bool = False
    group: str = ""
    fairness_key: str = ""
    fairness_weight: float = 1.0
    cost: int = 1
    requires: tuple[str, ...] = ()
    prefers: tuple[str, ...] = ()
    zone: str = ""
    failures: tuple[FailedAttempt, ...] = ()

    @classmethod
    def of(cls, info: pb.TaskInfo) -> Task:
        return cls(
            id=info.id,
            state=STATES[info.state],
            due=moment(info.due_ms),
            type=TYPES[info.type],
            queue=info.queue,
            priority=PRIORITIES[info.priority],
            name=info.name,
            payload=info.payload,
            headers=dict(info.headers),
            labels=dict(info.labels),
            attempt=info.attempt,
            losses=info.losses,
            deliveries=info.deliveries,
            reason=info.reason,
            expire_after_ms=info.expire_after_ms,
            timeout_ms=info.timeout_ms,
            keep_result_ms=info.keep_result_ms,
            max_snooze_ms=info.max_snooze_ms,
            at_most_once=info.delivery == pb.DELIVERY_AT_MOST_ONCE,
            group=info.group,
            fairness_key=info.fairness_key,
            fairness_weight=info.fairness_weight or 1.0,
            cost=info.cost or 1,
            requires=tuple(info.requires),
            prefers=tuple(info.prefers),
            zone=info.zone,
            result=Result.of(info.result) if info.HasField("result") else None,
            progress=Progress.of(info.progress) if info.HasField("progress") else None,
            brief=info.brief,
            traceback=info.traceback,
            url=info.webhook.url,
            method=info.webhook.method,
            fired=moment(info.fired_ms) if info.fired_ms else None,
            ended=moment(info.ended_ms) if info.ended_ms else None,
            node=info.node,
            remembered=info.remembered,
            failures=tuple(map(FailedAttempt.of, info.failures)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A task's state at some moment."""

    id: str
    state: TaskState
    attempt: int
    reason: str
    result: Result | None
    progress: Progress | None

    @classmethod
    def of(cls, answer: pb.TaskEvent) -> Event:
        return cls(
            id=answer.id,
            state=STATES[answer.state],
            attempt=answer.attempt,
            reason=answer.reason,
            result=Result.of(answer.result) if answer.HasField("result") else None,
            progress=Progress.of(answer.progress) if answer.HasField("progress") else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkDone:
    """What a bulk call did. ``matched`` the filter; ``skipped``: had begun or ended before they could be changed.
    ``scanned``: labels without an index were asked for, so all that waits was looked through."""

    matched: int
    changed: int
    skipped: int
    sample_ids: tuple[str, ...]
    scanned: bool = False

    @classmethod
    def of(cls, answer: pb.BulkResponse) -> BulkDone:
        return cls(
            matched=answer.matched,
            changed=answer.changed,
            skipped=answer.skipped,
            sample_ids=tuple(answer.sample_ids),
            scanned=answer.scanned,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """One queue of one task type. ``unserved``: functions and commands with ready tasks that nobody serves.
    ``pending_complete``: False: the store holds more than 10,000 tasks, of which ``pending`` counts those due soon.

    ``waits``: why its due tasks wait by the rules of the queue; "" where they do not. ``oldest_wait``: for how long the
    first in line of its due tasks waits.
    """

    queue: str
    type: TaskType
    pending: int
    ready: int
    in_flight: int
    unserved: tuple[str, ...]
    waits: str = ""
    oldest_wait: timedelta = timedelta()
    pending_complete: bool = True

    @classmethod
    def of(cls, answer: pb.QueueInfo, *, pending_complete: bool) -> Queue:
        return cls(
            queue=answer.queue,
            type=TYPES[answer.type],
            pending=answer.pending,
            ready=answer.ready,
            in_flight=answer.in_flight,
            unserved=tuple(answer.unserved),
            waits=answer.waits,
            oldest_wait=timedelta(milliseconds=answer.oldest_wait_ms),
            pending_complete=pending_complete,
        )


class KeyLimit(TypedDict, total=False):
    """A limit that holds for the tasks of each value by themselves: ``{"by": "label:customer", "concurrency": 5}``.

    ``by`` is ``label:NAME``, ``fairness_key`` or ``group``; ``concurrency``, ``rate`` and ``burst`` as of a queue.
    """

    by: Required[str]
    concurrency: int
    rate: str
    burst: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueRules:
    """The rules of a queue; of the fields None is a rule that is not set.

    queue: ``"*"`` stands for all queues without such a rule of their own.
    effect: what holds for it, with what comes from ``"*"`` and from the node's configuration; None inside of it.
    waits: why its due tasks wait by its rules; "" where they do not.
    full_speed_at: while what waited during its pause begins at its resume_rate: until about when; else None.
    version: of all rules together; processes that report it or a later one (`Client.nodes`) know these.
    newer: names of rules that a newer DelayBox set; the node leaves them alone.
    """

    queue: str
    paused: bool | None
    keep_result: timedelta | None
    retry: Retry | None
    timeout: timedelta | None
    weight: float | None = None
    slack: Mapping[str, timedelta] | None = None
    concurrency: int | None = None
    rate: str | None = None
    burst: int | None = None
    keys: tuple[KeyLimit, ...] | None = None
    key_keep: timedelta | None = None
    resume_rate: str | None = None
    effect: QueueRules | None = None
    waits: str = ""
    full_speed_at: datetime | None = None
    version: int = 0
    newer: tuple[str, ...] = ()

    @classmethod
    def of(cls, answer: pb.RuledQueue) -> QueueRules:
        effect = cls(**_rules(answer.queue, answer.effect))
        at = moment(answer.full_speed_at_ms) if answer.full_speed_at_ms else None
        own = _rules(answer.queue, answer.rules)
        newer = tuple(answer.newer)
        return cls(**own, effect=effect, waits=answer.waits, full_speed_at=at, version=answer.version, newer=newer)


def _rules(queue: str, message: pb.Rules) -> dict[str, Any]:
    def span(name: str) -> timedelta | None:
        return timedelta(milliseconds=getattr(message, name)) if message.HasField(name) else None

    policy = message.retry
    return {
        "queue": queue,
        "paused": message.paused if message.HasField("paused") else None,
        "keep_result": span("keep_result_ms"),
        "concurrency": message.concurrency if message.HasField("concurrency") else None,
        "rate": message.rate if message.HasField("rate") else None,
        "resume_rate": message.resume_rate if message.HasField("resume_rate") else None,
        "burst": message.burst if message.HasField("burst") else None,
        "keys": tuple(map(_key_limit, message.keys.limits)) if message.HasField("keys") else None,
        "key_keep": span("key_keep_ms"),
        "retry": Retry(
            policy.max_attempts,
            timedelta(milliseconds=policy.initial_ms),
            policy.factor,
            timedelta(milliseconds=policy.max_ms),
            policy.jitter,
        )
        if message.HasField("retry")
        else None,
        "timeout": span("timeout_ms"),
        "weight": message.weight if message.HasField("weight") else None,
        "slack": {
            level: timedelta(milliseconds=getattr(message.slack, f"{level}_ms"))
            for level in ("high", "normal", "low")
            if message.slack.HasField(f"{level}_ms")
        }
        if message.HasField("slack")
        else None,
    }


def _key_limit(message: pb.KeyLimit) -> KeyLimit:
    limit = KeyLimit(by=message.by)
    if message.HasField("concurrency"):
        limit["concurrency"] = message.concurrency
    if message.HasField("rate"):
        limit["rate"] = message.rate
    if message.HasField("burst"):
        limit["burst"] = message.burst
    return limit


@dataclass(frozen=True, slots=True)
class ForecastStep:
    """Tasks that are due from ``start`` until the next step."""

    start: datetime
    count: int

    @classmethod
    def of(cls, answer: pb.ForecastStep) -> ForecastStep:
        return cls(moment(answer.start_ms), answer.count)


@dataclass(slots=True)
class Scheduled:
    """The outcome of many tasks. ``errors``: place in the input and reason, of the first thousand refused."""

    created: int = 0
    existing: int = 0
    refused: int = 0
    errors: list[tuple[int, Exception]] = field(default_factory=list)

    MAX_ERRORS: ClassVar[int] = 1000

    @property
    def total(self) -> int:
        return self.created + self.existing + self.refused

    def __str__(self) -> str:
        return (
            f"{self.total} tasks had been answered: {self.created} created, {self.existing} there already, "
            f"{self.refused} refused"
        )

    def add(self, outcome: ScheduleAnswer | Exception) -> None:
        """Counts one more."""
        if isinstance(outcome, ScheduleAnswer):
            if outcome.created:
                self.created += 1
            else:
                self.existing += 1
            return
        if len(self.errors) < self.MAX_ERRORS:
            self.errors.append((self.total, outcome))
        self.refused += 1
