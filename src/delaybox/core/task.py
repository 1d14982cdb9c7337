"""What a task is, apart from how it is stored or sent.

The records made once a task are msgspec structs: a frozen dataclass of fifteen fields takes 5 us to make, such a struct
0.5 us, which was a quarter of what a task of a batch cost. ``msgspec.structs.replace`` makes a changed copy.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, IntEnum
from types import MappingProxyType

from msgspec import Struct

from delaybox.core.errors import InvalidTask
from delaybox.core.needs import NO_NEEDS, WorkerNeeds
from delaybox.core.retry import RetryPolicy
from delaybox.core.webhook import Webhook

DEFAULT_QUEUE = "default"
DEFAULT_SNOOZE_MS = 7 * 24 * 3600 * 1000
"""For how long in all a task's own code may put it off, where the task names no time of its own."""
NO_RESULT = -1
"""In place of a time for which a result is kept: the task keeps none."""
CANCELLED = "cancelled"
"""The reason in the result of a task that was cancelled while it ran."""
_NO_BYTES: Mapping[str, bytes] = MappingProxyType({})
_NO_TEXT: Mapping[str, str] = MappingProxyType({})


class TaskType(Enum):
    """What a task is delivered to. The value is the one letter that starts a lane's name."""

    PUB_SUB = "p"
    SHELL_CMD = "s"
    HTTP = "h"
    WORKER = "w"

    # A member is equal to itself alone. What Enum has is written in Python, and each new task is looked up by its type.
    __hash__ = object.__hash__


class Priority(IntEnum):
    """Smaller is more urgent; the number is what the record stores in two bits."""

    CRITICAL = 0
    HIGH = 1
    NORMAL = 2
    LOW = 3


PRIORITY_NAMES: Mapping[str, Priority] = MappingProxyType({p.name.lower(): p for p in Priority})


class TaskState(Enum):
    """Where a task stands, as callers see it."""

    SCHEDULED = "scheduled"
    READY = "ready"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class OnConflict(Enum):
    """What a new task does whose idempotency key names a task already."""

    KEEP = "keep"
    """The first one stays; another task with its key is refused."""
    REPLACE = "replace"
    """It takes the first one's place: its time and content count from now on."""


class UniqueWhile(Enum):
    """How long an idempotency key that is a lock is held: while its task waits, or until it ends in whatever way."""

    PENDING = "pending"
    RUNNING = "running"


class DeliveryMode(Enum):
    """Whether a task may be carried out twice, or rather not at all."""

    AT_LEAST_ONCE = "at_least_once"
    AT_MOST_ONCE = "at_most_once"
    """It is acked before it is handed out: never twice, and never again when it fails or is lost."""


DELIVERY_MODES: Mapping[str, DeliveryMode] = MappingProxyType({one.value: one for one in DeliveryMode})
ON_CONFLICT: Mapping[str, OnConflict] = MappingProxyType({one.value: one for one in OnConflict})
UNIQUE_WHILE: Mapping[str, UniqueWhile] = MappingProxyType({one.value: one for one in UniqueWhile})


class NewTask(Struct, frozen=True, kw_only=True, gc=False):
    """A task as a caller asks for it. Exactly one of ``due_ms`` and ``delay_ms`` counts.

    ``due_ms``: Unix ms; ``None`` or a past moment means at once.
    ``delay_ms``: ms from the moment Redis stores it (Redis's clock); wins over ``due_ms``.
    ``header``: travels with the task, on the original's wire field ``header``.
    ``expire_after_ms``: a task that is late by more than this is dead-lettered as expired; 0 = never too late.
    ``keep_result_ms``: how long its result is kept; 0 = the target's default, NO_RESULT = not at all.
    ``max_snooze_ms``: for how long in all its own code may put it off, from the first time; 0 = DEFAULT_SNOOZE_MS.
    ``reject_past``: refused when it is already due.
    ``on_conflict``: what is done where the idempotency key names a task already. ``max_wait_ms``: with REPLACE, how
    long such requests may put the task off, from the first that says so on; 0 = any time.
    ``unique_while``: the idempotency key is a lock, free again at once when this is over; None: it outlives its task.
    ``delivery``: AT_MOST_ONCE goes with neither a retry policy, nor a result, nor a lock that lasts while it runs.
    ``queue_unstated``: the caller of a WORKER task named no queue, so its function's own queue is used, if it has one.
    ``zone``: the time zone in which its time was meant, kept to be shown; "" for none.
    ``fairness_key``: keys take turns within a queue and a partition, by ``fairness_weight``; "" is one of them.
    ``needs``: of a WORKER task, what its worker must have.
    ``group``: tasks of one name can be released, moved or cancelled together; "" for none.
    ``webhook``: the request of an HTTP task, and of no other; its headers and body are ``header`` and ``payload``.
    """

    payload: bytes = b""
    due_ms: int | None = None
    delay_ms: int | None = None
    type: TaskType = TaskType.PUB_SUB
    queue: str = DEFAULT_QUEUE
    priority: Priority = Priority.NORMAL
    header: Mapping[str, bytes] = _NO_BYTES
    name: str = ""
    idempotency_key: str | None = None
    retry: RetryPolicy | None = None
    timeout_ms: int = 0
    expire_after_ms: int = 0
    labels: Mapping[str, str] = _NO_TEXT
    keep_result_ms: int = 0
    max_snooze_ms: int = 0
    on_conflict: OnConflict = OnConflict.KEEP
    max_wait_ms: int = 0
    unique_while: UniqueWhile | None = None
    delivery: DeliveryMode = DeliveryMode.AT_LEAST_ONCE
    reject_past: bool = False
    queue_unstated: bool = False
    group: str = ""
    fairness_key: str = ""
    fairness_weight: float = 1.0
    needs: WorkerNeeds = NO_NEEDS
    zone: str = ""
    webhook: Webhook | None = None


class TaskChange(Struct, frozen=True, kw_only=True, gc=False):
    """What a caller wants to change of a pending task; None stays as it is."""

    due_ms: int | None = None
    delay_ms: int | None = None
    priority: Priority | None = None
    payload: bytes | None = None
    labels: Mapping[str, str] | None = None
    zone: str | None = None


class Submitted(Struct, frozen=True, gc=False):
    """The answer to one scheduled task.

    ``created`` is False when the idempotency key already named this task: the id is the first one's. ``queue``: the
    queue of a new task. ``warning``: why it will hardly be run there; '' = no reason is known.
    """

    task_id: str
    due_ms: int
    created: bool = True
    queue: str = ""
    warning: str = ""


class TaskResult(Struct, frozen=True, kw_only=True, gc=False):
    """The result of a finished task. ``output``: what a command printed or a function returned, cut when ``truncated``.

    ``content_type``: the form of a function's value; empty = JSON. ``status``, ``headers``: of the answer to a webhook,
    whose body is ``output``; 0 for what is none.
    """

    ok: bool
    finished_ms: int
    duration_ms: int = 0
    exit_code: int | None = None
    output: bytes = b""
    truncated: bool = False
    reason: str = ""
    content_type: str = ""
    status: int = 0
    headers: Mapping[str, str] = _NO_TEXT

    @property
    def cancelled(self) -> bool:
        """Whether the task was cancelled while it ran."""
        return not self.ok and self.reason == CANCELLED


class Progress(Struct, frozen=True, gc=False):
    """How far a running task is, as its worker reported last. ``fraction``: 0 to 1; negative where it is not known."""

    fraction: float
    message: str = ""


class FailedAttempt(Struct, frozen=True, kw_only=True, gc=False):
    """Why one attempt failed. ``fired_ms``: when it was handed out (0: not known). ``node``: the member that had it.
    ``delivery``: its fencing token, which counts how often the task was handed out by then (0: not known).

    ``traceback``: of a function; of a command the end of what it printed, where that was kept.
    """

    attempt: int
    fired_ms: int
    failed_ms: int
    node: str = ""
    reason: str = ""
    traceback: str = ""
    delivery: int = 0


class TaskView(Struct, frozen=True, kw_only=True, gc=False):
    """A stored task as a reader sees it. ``traceback``: of a dead letter that is looked at alone, its last one.

    ``fired_ms``, ``ended_ms``, ``node``: of a task that has ended, where that is remembered: when it was handed out
    last (0: never), when it ended, and the member that had it ("": a caller ended it). ``remembered``: nothing else of
    it is kept, so it has no payload, headers or labels here. ``failures``: of a task that is looked at alone, its last
    failed attempts in order, as far as they are remembered.
    """

    task_id: str
    state: TaskState
    due_ms: int
    type: TaskType
    queue: str
    priority: Priority
    payload: bytes
    header: Mapping[str, bytes]
    attempt: int = 0
    losses: int = 0
    deliveries: int = 0
    reason: str = ""
    name: str = ""
    labels: Mapping[str, str] = _NO_TEXT
    expire_after_ms: int = 0
    timeout_ms: int = 0
    keep_result_ms: int = 0
    max_snooze_ms: int = 0
    delivery: DeliveryMode = DeliveryMode.AT_LEAST_ONCE
    result: TaskResult | None = None
    progress: Progress | None = None
    traceback: str = ""
    group: str = ""
    fairness_key: str = ""
    fairness_weight: float = 1.0
    needs: WorkerNeeds = NO_NEEDS
    zone: str = ""
    webhook: Webhook | None = None
    fired_ms: int = 0
    ended_ms: int = 0
    node: str = ""
    remembered: bool = False
    failures: tuple[FailedAttempt, ...] = ()


def check_delivery(task: NewTask) -> None:
    """InvalidTask for what cannot hold of a task that is acked before it is handed out."""
    if task.delivery is not DeliveryMode.AT_MOST_ONCE:
        return
    for field, given, why in (
        ("retry", task.retry is not None, "is never tried again"),
        ("keep_result", task.keep_result_ms > 0, "leaves no result"),
        ("max_snooze", task.max_snooze_ms > 0, "cannot be put off by its own code"),
        ("unique_while", task.unique_while is UniqueWhile.RUNNING, "is not known any more while it runs"),
        ("on_success", bool(task.webhook and task.webhook.on_success), "is not known any more when it ends"),
        ("on_failure", bool(task.webhook and task.webhook.on_failure), "is not known any more when it ends"),
    ):
        if given:
            raise InvalidTask(
                field, f"{field} does not go with delivery at_most_once: such a task {why}; leave one out"
            )
