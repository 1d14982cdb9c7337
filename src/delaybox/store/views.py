"""Stored records as readers see them."""

from __future__ import annotations

from google.protobuf.message import DecodeError

from delaybox.core import ids
from delaybox.core.task import Priority, TaskState, TaskView
from delaybox.store.record import Record, UnreadableRecord, read, read_dead
from delaybox.store.store import Found
from delaybox.wire import body as wire_body


def of_record(record: Record, state: TaskState, *, body: bytes = b"", reason: str = "") -> TaskView:
    """The view of one record. ``body``: what lies apart when the record is a stub.

    UnreadableRecord when the body is no task, or the lane names a type that this version does not know.
    """
    try:
        message = wire_body.decode(body if record.stub else record.body)
        task_type = record.type
    except (DecodeError, ValueError) as error:
        raise UnreadableRecord(f"lane {record.lane!r} and body do not make a task: {error}") from None
    return TaskView(
        task_id=ids.render(record.task_id),
        state=state,
        due_ms=record.due_ms,
        type=task_type,
        queue=record.queue,
        priority=Priority(record.priority),
        payload=message.payload,
        header=dict(message.header),
        attempt=record.attempt,
        losses=record.losses,
        deliveries=record.deliveries,
        reason=reason,
        name=message.name,
        labels=dict(message.labels),
    )


def of_found(task_id: bytes, found: Found) -> TaskView | None:
    """The view of what the store found; None where it found nothing that this version can read."""
    try:
        if found.place == "dead":
            _, reason, record = read_dead(task_id, found.value)
            return of_record(record, TaskState.FAILED, body=found.body, reason=reason)
        if found.place in ("home", "lease"):
            record = read(task_id, found.value)
            state = TaskState.RUNNING if found.place == "lease" else pending_state(record, found.now_ms)
            return of_record(record, state, body=found.body)
    except UnreadableRecord:
        return None
    return None


def pending_state(record: Record, now_ms: int) -> TaskState:
    """Scheduled, or ready once it is due."""
    return TaskState.READY if record.due_ms <= now_ms else TaskState.SCHEDULED
