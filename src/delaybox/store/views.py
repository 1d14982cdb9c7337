"""Stored records as readers see them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from google.protobuf.message import DecodeError
from msgspec.structs import replace

from delaybox.core import ids
from delaybox.core.task import CANCELLED, DeliveryMode, Priority, TaskState, TaskView
from delaybox.store.label_entries import entry as label_entry
from delaybox.store.record import Record, UnreadableRecord, read, read_dead, rewrite, traceback_of
from delaybox.store.store import Found
from delaybox.wire import body as wire_body
from delaybox.wire import result as wire_result
from delaybox.wire.webhook import webhook_of

_PRIORITIES: Final = tuple(sorted(Priority))


def of_record(
    record: Record, state: TaskState, *, body: bytes = b"", reason: str = "", result: bytes = b""
) -> TaskView:
    """The view of one record. ``body``: the body that lies apart when the record is a stub; ``result``: in its stored
    form.

    UnreadableRecord when the body is no task, or the lane names a type that this version does not know.
    """
    try:
        message = wire_body.decode(body if record.stub else record.body)
        kept = wire_result.decode(result) if result else None
        task_type = record.type
    except (DecodeError, ValueError) as error:
        raise UnreadableRecord(f"lane {record.lane!r} and body do not make a task: {error}") from None
    return TaskView(
        task_id=ids.render(record.task_id),
        state=state,
        due_ms=record.due_ms,
        type=task_type,
        queue=record.queue,
        priority=_PRIORITIES[record.priority],
        payload=message.payload,
        header=wire_body.pairs(message.header),
        attempt=record.attempt,
        losses=record.losses,
        deliveries=record.deliveries,
        reason=reason,
        name=record.name or message.name,
        labels=wire_body.pairs(message.labels),
        expire_after_ms=message.expire_after_ms,
        timeout_ms=message.timeout_ms,
        keep_result_ms=message.keep_result_ms,
        max_snooze_ms=message.max_snooze_ms,
        delivery=DeliveryMode.AT_MOST_ONCE if message.at_most_once else DeliveryMode.AT_LEAST_ONCE,
        result=kept,
        group=record.group,
        fairness_key=record.fairness_key,
        fairness_weight=record.fairness_weight,
        needs=record.needs,
        zone=message.zone,
        webhook=webhook_of(message),
    )


def of_found(task_id: bytes, found: Found) -> TaskView | None:
    """The view of what the store found; None where it found nothing that this version can read."""
    try:
        if found.place == "dead":
            _, reason, record = read_dead(task_id, found.value)
            view = of_record(record, TaskState.FAILED, body=found.body, reason=reason, result=found.result)
            return replace(view, traceback=traceback_of(found.value))
        if found.place in ("home", "lease", "finished"):
            record = read(task_id, found.value)
            state = TaskState.RUNNING if found.place == "lease" else pending_state(record, found.now_ms)
            view = of_record(record, state, body=found.body, result=found.result)
            return _finished(view) if found.place == "finished" else view
    except UnreadableRecord:
        return None
    return None


def _finished(view: TaskView) -> TaskView:
    """The view of a task of which only the result is kept."""
    result = view.result
    if result is None or result.ok:
        return replace(view, state=TaskState.SUCCEEDED)
    state = TaskState.CANCELLED if result.reason == CANCELLED else TaskState.FAILED
    return replace(view, state=state, reason=result.reason)


def pending_state(record: Record, now_ms: int) -> TaskState:
    """Scheduled, or ready once it is due."""
    return TaskState.READY if record.due_ms <= now_ms else TaskState.SCHEDULED


def changed(
    task_id: bytes,
    found: Found,
    *,
    due_ms: int | None,
    delay_ms: int | None,
    priority: Priority | None,
    payload: bytes | None,
    labels: Mapping[str, str] | None,
    zone: str | None = None,
    indexed: Collection[str] = (),
) -> tuple[bytes, bytes]:
    """(new record, body that lies apart) of a pending task with some of its parts replaced; UnreadableRecord."""
    record = read(task_id, found.value)
    try:
        message = wire_body.decode(found.body if record.stub else record.body)
    except DecodeError as error:
        raise UnreadableRecord(str(error)) from None
    if payload is not None:
        message.payload = payload
    if labels is not None:
        message.labels.clear()
        message.labels.update(labels)
    if zone is not None:
        message.zone = zone
    due = record.due_ms
    if due_ms is not None:
        due = due_ms
    elif delay_ms is not None:
        due = found.now_ms + delay_ms
    body = message.SerializeToString()
    return rewrite(
        record,
        body=body,
        due_ms=due,
        priority=record.priority if priority is None else int(priority),
        labels=None if labels is None else label_entry(indexed, labels, record.name or message.name),
    )
