"""Each unary call: its request, whether it may be repeated, and what the caller gets for its response."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from delaybox.client.models import BulkDone, ForecastStep, Queue, Stored, Task, moment, nodes_of
from delaybox.client.steps import Call, Kind
from delaybox.client.tasks import selection_of
from delaybox.client.values import Duration, Moment, id_of, labels_of, priority_number, put_when, raw_of, unix_ms, warn
from delaybox.core.errors import InvalidTask
from delaybox.core.spans import span_ms
from delaybox.wire.gen import scheduler_pb2 as pb


def schedule(task: pb.NewTask, *, own_key: bool = False) -> Call[Stored]:
    """``own_key``: the key was made for this call alone, so a task that is found under it was stored by this call."""
    kind = Kind.REPEATABLE if task.idempotency_key else Kind.ONCE

    def stored(said: pb.ScheduleResponse) -> Stored:
        if said.warning:
            warn(said.warning, RuntimeWarning)
        return Stored(said.id, said.due_ms, said.created or own_key)

    return Call("Schedule", pb.ScheduleRequest(task=task), kind, stored)


def get(task_id: str) -> Call[Task]:
    return Call("Get", pb.GetRequest(id=id_of(task_id)), Kind.READ, Task.of)


def cancel(task_id: str, *, running: bool, free_key: bool) -> Call[bool]:
    """True or an error. True: the task was cancelled, or its worker was asked to stop it."""
    request = pb.CancelRequest(id=id_of(task_id), running=running, free_key=free_key)
    return Call("Cancel", request, Kind.ONCE, lambda _: True)


def reschedule(
    task_id: str,
    when: Mapping[str, Any],
    *,
    priority: str | None,
    payload: object,
    labels: Mapping[str, str] | None,
) -> Call[Task]:
    request = pb.RescheduleRequest(id=id_of(task_id))
    put_when(request, when)
    if priority is not None:
        request.priority = priority_number(priority)  # type: ignore[assignment]
    if payload is not None:
        request.payload = raw_of(payload)
    if labels is not None:
        request.labels.values.update(labels_of("labels", labels))
        request.labels.SetInParent()
    return Call("Reschedule", request, Kind.REPEATABLE, Task.of)


def run_now(task_id: str) -> Call[datetime]:
    return Call("RunNow", pb.RunNowRequest(id=id_of(task_id)), Kind.ONCE, lambda said: moment(said.due_ms))


def _selecting(method: str, request: Any, wanted: Mapping[str, Any], options: Mapping[str, Any]) -> Call[BulkDone]:
    request.selection.CopyFrom(selection_of(wanted, **options))
    kind = Kind.READ if options["dry_run"] else Kind.ONCE
    return Call(method, request, kind, BulkDone.of)


def cancel_many(wanted: Mapping[str, Any], *, free_keys: bool, **options: Any) -> Call[BulkDone]:
    return _selecting("CancelMany", pb.CancelManyRequest(free_keys=free_keys), wanted, options)


def cancel_ids(ids: Sequence[str]) -> Call[BulkDone]:
    """Cancels those of these tasks that are pending, and frees their keys. Harmless when repeated."""
    return Call("CancelMany", pb.CancelManyRequest(ids=ids, free_keys=True), Kind.REPEATABLE, BulkDone.of)


def reschedule_many(wanted: Mapping[str, Any], when: Mapping[str, Any], **options: Any) -> Call[BulkDone]:
    request = pb.RescheduleManyRequest()
    put_when(request, when)
    if request.WhichOneof("when") is None:
        raise InvalidTask("at", "neither at, at_ms nor delay is given; say when the tasks are to be due")
    return _selecting("RescheduleMany", request, wanted, options)


def run_now_many(wanted: Mapping[str, Any], **options: Any) -> Call[BulkDone]:
    return _selecting("RunNowMany", pb.RunNowManyRequest(), wanted, options)


def replay_dead_many(wanted: Mapping[str, Any], **options: Any) -> Call[BulkDone]:
    return _selecting("ReplayDeadMany", pb.ReplayDeadManyRequest(), wanted, options)


def replay_dead(task_id: str) -> Call[None]:
    return Call("ReplayDead", pb.ReplayDeadRequest(id=id_of(task_id)), Kind.ONCE, _nothing)


def discard_dead(task_id: str) -> Call[None]:
    return Call("DiscardDead", pb.DiscardDeadRequest(id=id_of(task_id)), Kind.ONCE, _nothing)


def queues(queue: str | None) -> Call[tuple[Queue, ...]]:
    return Call(
        "Queues", pb.QueuesRequest(queue=queue or ""), Kind.READ, lambda said: tuple(map(Queue.of, said.queues))
    )


def forecast(start: Moment | None, end: Moment | None, step: Duration | None) -> Call[tuple[ForecastStep, ...]]:
    request = pb.ForecastRequest()
    if start is not None:
        request.from_ms = unix_ms("start", start)
    if end is not None:
        request.to_ms = unix_ms("end", end)
    if step is not None:
        request.step_ms = span_ms("step", step)
    return Call("Forecast", request, Kind.READ, lambda said: tuple(map(ForecastStep.of, said.steps)))


def nodes() -> Call[tuple[dict[str, Any], ...]]:
    return Call("Nodes", pb.NodesRequest(), Kind.READ, nodes_of)


def _nothing(_: object) -> None:
    return None
