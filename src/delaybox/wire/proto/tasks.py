"""A task asked for over gRPC, and a change of one -> domain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from delaybox.core.durations import duration_ms
from delaybox.core.errors import InvalidTask
from delaybox.core.lane import check_name
from delaybox.core.localtime import local_ms, zone_of
from delaybox.core.needs import NO_NEEDS, needs_asked
from delaybox.core.retry import RetryFields, RetryPolicy, checked_policy
from delaybox.core.task import (
    DEFAULT_QUEUE,
    NO_RESULT,
    DeliveryMode,
    NewTask,
    OnConflict,
    Priority,
    TaskChange,
    TaskType,
    UniqueWhile,
    check_delivery,
)
from delaybox.wire.encoded import check_task_needs
from delaybox.wire.gen import scheduler_pb2 as pb
from delaybox.wire.gen import task_pb2
from delaybox.wire.json import tasks as v1
from delaybox.wire.json.moments import moment_ms
from delaybox.wire.json.tasks import TaskRules
from delaybox.wire.webhook import webhook_of

TYPES: Final[Mapping[pb.TaskType, TaskType]] = MappingProxyType(
    {
        pb.TASK_TYPE_PUB_SUB: TaskType.PUB_SUB,
        pb.TASK_TYPE_SHELL_CMD: TaskType.SHELL_CMD,
        pb.TASK_TYPE_HTTP: TaskType.HTTP,
        pb.TASK_TYPE_WORKER: TaskType.WORKER,
    }
)
PRIORITIES: Final[Mapping[pb.Priority, Priority]] = MappingProxyType(
    {
        pb.PRIORITY_NORMAL: Priority.NORMAL,
        pb.PRIORITY_LOW: Priority.LOW,
        pb.PRIORITY_HIGH: Priority.HIGH,
        pb.PRIORITY_CRITICAL: Priority.CRITICAL,
    }
)
_ON_CONFLICT: Final[Mapping[pb.OnConflict, OnConflict]] = MappingProxyType(
    {pb.ON_CONFLICT_KEEP: OnConflict.KEEP, pb.ON_CONFLICT_REPLACE: OnConflict.REPLACE}
)
_UNIQUE_WHILE: Final[Mapping[pb.UniqueWhile, UniqueWhile]] = MappingProxyType(
    {pb.UNIQUE_WHILE_PENDING: UniqueWhile.PENDING, pb.UNIQUE_WHILE_RUNNING: UniqueWhile.RUNNING}
)
_NO_HEADERS: Mapping[str, bytes] = MappingProxyType({})
_NO_LABELS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class WhenAsked:
    """One of the two, or neither."""

    due_ms: int | None = None
    delay_ms: int | None = None
    zone: str | None = None


def new_task(asked: pb.NewTask, rules: TaskRules) -> NewTask:
    """The task that is asked for. Raises InvalidTask, PayloadTooLarge or TypeDisabled."""
    task_type = type_of("type", asked.type)
    when = when_of(asked)
    name, payload = asked.name, asked.payload
    if name or task_type is TaskType.WORKER:
        check_name(task_type, name)
    v1.check_size("payload", payload, rules.max_payload_bytes)
    if task_type is TaskType.SHELL_CMD:
        rules.shell.check(payload, name)
    header = v1.headers_of(dict(asked.headers)) if asked.headers else _NO_HEADERS
    webhook = webhook_of(asked)
    if task_type is TaskType.HTTP:
        webhook = rules.webhooks.check(webhook, header, payload)
    elif webhook is not None:
        raise InvalidTask("webhook", "webhook belongs to type HTTP; give that type with it, or leave it out")
    key: str | None = asked.idempotency_key or None
    if key is not None:
        v1.check_key("idempotency_key", key)
    new = NewTask(
        payload=payload,
        due_ms=when.due_ms,
        delay_ms=when.delay_ms,
        zone=when.zone or "",
        type=task_type,
        queue=v1.queue_of("queue", asked.queue) if asked.queue else DEFAULT_QUEUE,
        priority=priority_of("priority", asked.priority),
        header=header,
        name=name,
        idempotency_key=key,
        retry=retry_of(asked.retry) if asked.HasField("retry") else None,
        timeout_ms=_span("timeout_ms", asked.timeout_ms),
        expire_after_ms=_span("expire_after_ms", asked.expire_after_ms),
        labels=v1.labels_of(dict(asked.labels)) if asked.labels else _NO_LABELS,
        keep_result_ms=_keep(asked),
        max_snooze_ms=_span("max_snooze_ms", asked.max_snooze_ms),
        on_conflict=_on_conflict(asked),
        max_wait_ms=_span("max_wait_ms", asked.max_wait_ms),
        unique_while=_unique_while(asked),
        delivery=_delivery(asked),
        reject_past=asked.reject_past,
        queue_unstated=task_type is TaskType.WORKER and not asked.queue,
        group=v1.group_of("group", asked.group) if asked.group else "",
        fairness_key=v1.fairness_key_of("fairness_key", asked.fairness_key) if asked.fairness_key else "",
        fairness_weight=v1.fairness_weight_of("fairness_weight", asked.fairness_weight, keyed=bool(asked.fairness_key))
        if asked.fairness_weight
        else 1.0,
        webhook=webhook,
        needs=needs_asked(asked.cost or None, asked.requires, asked.prefers)
        if asked.cost or asked.requires or asked.prefers
        else NO_NEEDS,
    )
    if asked.delivery:
        check_delivery(new)
    if new.needs is not NO_NEEDS:
        check_task_needs(new)
    return new


def change(asked: pb.RescheduleRequest, rules: TaskRules) -> TaskChange:
    """What a Reschedule asks for. Raises InvalidTask or PayloadTooLarge."""
    when = when_of(asked)
    payload = asked.payload if asked.HasField("payload") else None
    if payload is not None:
        v1.check_size("payload", payload, rules.max_payload_bytes)
    found = TaskChange(
        due_ms=when.due_ms,
        delay_ms=when.delay_ms,
        zone=when.zone,
        priority=priority_of("priority", asked.priority) if asked.HasField("priority") else None,
        payload=payload,
        labels=v1.labels_of(dict(asked.labels.values)) if asked.HasField("labels") else None,
    )
    if found == TaskChange():
        raise InvalidTask("when", "the request changes nothing; give due_ms, delay_ms, priority, payload or labels")
    return found


def when_of(asked: pb.NewTask | pb.RescheduleRequest | pb.RescheduleManyRequest) -> WhenAsked:
    """The ``when`` of a request. InvalidTask."""
    which = asked.WhichOneof("when")
    if which is None:
        return WhenAsked()
    if which == "due_ms":
        return WhenAsked(due_ms=moment_ms("due_ms", asked.due_ms), zone=_zone(asked))
    if which == "local":
        local = asked.local
        return WhenAsked(due_ms=local_ms("local", local.local, local.zone, local.fold), zone=local.zone)
    return WhenAsked(delay_ms=duration_ms("delay_ms", asked.delay_ms))


def _zone(asked: pb.NewTask | pb.RescheduleRequest | pb.RescheduleManyRequest) -> str | None:
    if isinstance(asked, pb.RescheduleManyRequest) or not asked.zone:
        return None
    zone_of("zone", asked.zone)
    return asked.zone


def type_of(field: str, number: pb.TaskType) -> TaskType:
    """The task type of that number. InvalidTask."""
    found = TYPES.get(number)
    if found is None:
        raise InvalidTask(field, f"{field} {number} is not a task type; there are {_listed(pb.TaskType.items())}")
    return found


def priority_of(field: str, number: pb.Priority) -> Priority:
    """The priority of that number. InvalidTask."""
    found = PRIORITIES.get(number)
    if found is None:
        raise InvalidTask(field, f"{field} {number} is not a priority; there are {_listed(pb.Priority.items())}")
    return found


_RETRY: Final = RetryFields("retry.max_attempts", "retry.initial_ms", "retry.factor", "retry.max_ms", "retry.jitter")


def retry_of(asked: task_pb2.Retry) -> RetryPolicy:
    """The policy that is asked for: 0 is the default of its field, but for jitter, where it is none. InvalidTask."""
    return checked_policy(
        _RETRY,
        attempts=asked.max_attempts or None,
        initial_ms=_span(_RETRY.initial, asked.initial_ms) or None,
        factor=asked.factor or None,
        max_ms=_span(_RETRY.maximum, asked.max_ms) or None,
        jitter=asked.jitter,
    )


def _on_conflict(asked: pb.NewTask) -> OnConflict:
    found = _ON_CONFLICT.get(asked.on_conflict)
    if found is None:
        raise InvalidTask(
            "on_conflict",
            f"on_conflict {asked.on_conflict} is not known; there are {_listed(pb.OnConflict.items())}",
        )
    if found is OnConflict.KEEP and asked.max_wait_ms:
        raise InvalidTask("max_wait_ms", "max_wait_ms goes with on_conflict replace; give that too, or leave it out")
    if found is OnConflict.REPLACE and not asked.idempotency_key:
        raise InvalidTask("on_conflict", "on_conflict is given and no idempotency key; give one as well")
    return found


def _delivery(asked: pb.NewTask) -> DeliveryMode:
    if not asked.delivery:
        return DeliveryMode.AT_LEAST_ONCE
    if asked.delivery != pb.DELIVERY_AT_MOST_ONCE:
        raise InvalidTask(
            "delivery", f"delivery {asked.delivery} is not known; there are {_listed(pb.Delivery.items())}"
        )
    return DeliveryMode.AT_MOST_ONCE


def _unique_while(asked: pb.NewTask) -> UniqueWhile | None:
    if not asked.unique_while:
        return None
    found = _UNIQUE_WHILE.get(asked.unique_while)
    if found is None:
        raise InvalidTask(
            "unique_while",
            f"unique_while {asked.unique_while} is not known; there are {_listed(pb.UniqueWhile.items())}",
        )
    if not asked.idempotency_key:
        raise InvalidTask("unique_while", "unique_while is given and no idempotency key; give one as well")
    return found


def _keep(asked: pb.NewTask) -> int:
    if not asked.no_result:
        return _span("keep_result_ms", asked.keep_result_ms)
    if asked.keep_result_ms:
        raise InvalidTask("no_result", "no_result and keep_result_ms are both given; give one of them")
    return NO_RESULT


def _span(field: str, ms: int) -> int:
    return duration_ms(field, ms) if ms else 0


def _listed(names: list[tuple[str, int]]) -> str:
    return ", ".join(f"{number} ({name})" for name, number in names)
