"""New tasks that a front end has encoded itself: the typed record of the two fast ways, batches over gRPC and Kafka.

A body that came encoded is passed on as it is, because decoding and encoding it again took most of a batch's time. What
else the store must know stands beside it, once for all tasks that have it in common.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from delaybox.core import ids
from delaybox.core.errors import InvalidTask
from delaybox.core.lane import NAMED, WITH_PLACES, lane_of
from delaybox.core.limits import MAX_DUE_MS
from delaybox.core.needs import NO_NEEDS, check_needs
from delaybox.core.task import DEFAULT_QUEUE, DeliveryMode, NewTask, Priority, TaskType
from delaybox.wire import body as wire_body
from delaybox.wire import controls

_ONCE: Final = DeliveryMode.AT_MOST_ONCE


class TaskKind:
    """What many tasks have in common. Compared by identity, so that looking one up is cheap.

    ``queue_unstated``: as in `NewTask`. ``expires``: the bodies hold a time after which they must not be delivered.
    """

    __slots__ = ("expires", "name", "priority", "queue", "queue_unstated", "type")

    def __init__(
        self,
        task_type: TaskType,
        queue: str = DEFAULT_QUEUE,
        name: str = "",
        priority: Priority = Priority.NORMAL,
        *,
        queue_unstated: bool = False,
        expires: bool = False,
    ) -> None:
        self.type = task_type
        self.queue = queue
        self.name = name
        self.priority = priority
        self.queue_unstated = queue_unstated
        self.expires = expires

    @classmethod
    def of(cls, task: NewTask) -> TaskKind:
        """The kind of a task."""
        return cls(
            task.type,
            task.queue,
            name_of(task),
            task.priority,
            queue_unstated=task.queue_unstated,
            expires=bool(task.expire_after_ms),
        )


class EncodedTask(Struct, frozen=True, gc=False):
    """A new task without an idempotency key. ``body``: see `wire.body`.

    ``due48``: Unix ms, 0 for at once, or a delay in ms with ``ids.RELATIVE`` set.
    """

    due48: int
    body: bytes
    kind: TaskKind


PLAIN: Final = TaskKind(TaskType.PUB_SUB)
"""A PUB_SUB task in the default queue with normal priority."""


def encode(task: NewTask) -> EncodedTask:
    """A task without an idempotency key, encoded. InvalidTask as `due48` and `check`."""
    check(task)
    return EncodedTask(due48(task), wire_body.encode(task), TaskKind.of(task))


def is_plain(task: NewTask) -> bool:
    """Whether it has nothing but a lane, a time and a payload, as most tasks of a bulk have. Then its body is that
    payload, its record has no extension, and nothing contradicts its type; so nothing else needs to be looked at."""
    return not (
        task.header
        or task.labels
        or task.retry
        or task.idempotency_key is not None
        or task.webhook
        or task.timeout_ms
        or task.expire_after_ms
        or task.keep_result_ms
        or task.max_snooze_ms
        or task.group
        or task.fairness_key
        or task.zone
        or task.unique_while
        or task.delivery is _ONCE
        or task.needs is not NO_NEEDS
        or (task.name and task.type not in NAMED)
    )


def check(task: NewTask) -> None:
    """InvalidTask for a header, or for needs, that contradict the task's type."""
    if task.header:
        controls.check_type(task.header, shell=task.type is TaskType.SHELL_CMD)
    if task.needs is not NO_NEEDS:
        check_task_needs(task)


def check_task_needs(task: NewTask) -> None:
    """InvalidTask for needs that do not go with the task's type, or are too long beside its queue and function."""
    if task.needs != NO_NEEDS:
        check_needs(
            task.needs,
            of_worker=task.type is TaskType.WORKER,
            takes_places=task.type in WITH_PLACES,
            type_name=task.type.name.lower(),
            lane_bytes=len(lane_of(task.type, task.queue, name_of(task))),
        )


def name_of(task: NewTask) -> str:
    """The task's function or command as its lane has it, with what the task needs of a worker."""
    return task.name if task.needs is NO_NEEDS else task.name + task.needs.text()


def due48(task: NewTask) -> int:
    """As `EncodedTask.due48`; InvalidTask for a time that an id cannot carry."""
    delay, due = task.delay_ms, task.due_ms
    found = delay if delay is not None else due if due is not None and due > 0 else 0
    if not 0 <= found <= MAX_DUE_MS:
        raise InvalidTask(
            "delay_ms" if delay is not None else "due_ms",
            f"due_ms {due} or delay_ms {delay} is out of range; give 0 to 10^14 milliseconds",
        )
    return found if delay is None else found | ids.RELATIVE
