"""Each unary call: its request, whether it may be repeated, and what the caller gets for its response."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from delaybox.client.models import (
    BulkDone,
    ForecastStep,
    KeyLimit,
    Queue,
    QueueRules,
    ScheduleAnswer,
    Task,
)
from delaybox.client.moments import moment
from delaybox.client.new_tasks import RulesToSet, Slack, selection_of
from delaybox.client.retries import Repeating, RpcCall
from delaybox.client.values import (
    Duration,
    Moment,
    flag_of,
    id_of,
    key_of,
    labels_of,
    policy_of,
    priority_number,
    put_policy,
    put_when,
    raw_of,
    real_of,
    unix_ms,
    warn,
)
from delaybox.core.durations import span_ms
from delaybox.core.errors import InvalidTask
from delaybox.core.words import show, unknown
from delaybox.wire.gen import scheduler_pb2 as pb


def schedule(task: pb.NewTask, *, own_key: bool = False) -> RpcCall[ScheduleAnswer]:
    """``own_key``: the key was made for this call alone, so a task that is found under it was stored by this call."""
    kind = Repeating.REPEATABLE if task.idempotency_key else Repeating.ONCE

    def stored(answer: pb.ScheduleResponse) -> ScheduleAnswer:
        if answer.warning:
            warn(answer.warning, RuntimeWarning)
        return ScheduleAnswer(answer.id, answer.due_ms, answer.created or own_key)

    return RpcCall("Schedule", pb.ScheduleRequest(task=task), kind, stored)


def get(task_id: str | None, key: str | None = None) -> RpcCall[Task]:
    return RpcCall("Get", pb.GetRequest(**named(task_id, key)), Repeating.READ, Task.of)


def named(task_id: str | None, key: str | None) -> dict[str, str]:
    """The fields of a request that name its task: by id, or by idempotency key. InvalidTask."""
    if (task_id is None) == (key is None):
        raise InvalidTask("id", "give the id of a task, or key=, its idempotency key; one of them")
    return {"idempotency_key": key_of(key)} if task_id is None else {"id": id_of(task_id)}


def history(request: pb.HistoryRequest) -> RpcCall[pb.HistoryResponse]:
    return RpcCall("History", request, Repeating.READ, lambda answer: answer)


def cancel(task_id: str | None, *, running: bool, free_key: bool, key: str | None = None) -> RpcCall[bool]:
    """True or an error. True: the task was cancelled, or whoever runs it was asked to stop it."""
    request = pb.CancelRequest(**named(task_id, key), running=running, free_key=free_key)
    return RpcCall("Cancel", request, Repeating.ONCE, lambda _: True)


def reschedule(
    task_id: str | None,
    when: Mapping[str, Any],
    *,
    priority: str | None,
    payload: object,
    labels: Mapping[str, str] | None,
    key: str | None = None,
) -> RpcCall[Task]:
    request = pb.RescheduleRequest()
    for name, value in named(task_id, key).items():
        setattr(request, name, value)
    put_when(request, when)
    if priority is not None:
        request.priority = priority_number(priority)  # type: ignore[assignment]
    if payload is not None:
        request.payload = raw_of(payload)
    if labels is not None:
        request.labels.values.update(labels_of("labels", labels))
        request.labels.SetInParent()
    if all(given is None for given in (*when.values(), priority, payload, labels)):
        raise InvalidTask("delay", "nothing would change; give at, at_ms or delay, priority, payload or labels")
    return RpcCall("Reschedule", request, Repeating.REPEATABLE, Task.of)


def run_now(task_id: str | None, key: str | None = None) -> RpcCall[datetime]:
    request = pb.RunNowRequest(**named(task_id, key))
    return RpcCall("RunNow", request, Repeating.ONCE, lambda answer: moment(answer.due_ms))


def _selecting(method: str, request: Any, wanted: Mapping[str, Any], options: Mapping[str, Any]) -> RpcCall[BulkDone]:
    request.selection.CopyFrom(selection_of(wanted, **options))
    kind = Repeating.READ if options["dry_run"] else Repeating.ONCE
    return RpcCall(method, request, kind, BulkDone.of)


def cancel_many(wanted: Mapping[str, Any], *, free_keys: bool, **options: Any) -> RpcCall[BulkDone]:
    return _selecting("CancelMany", pb.CancelManyRequest(free_keys=free_keys), wanted, options)


def cancel_ids(ids: Sequence[str]) -> RpcCall[BulkDone]:
    """Cancels those of these tasks that are pending, and frees their keys. Harmless when repeated."""
    return RpcCall("CancelMany", pb.CancelManyRequest(ids=ids, free_keys=True), Repeating.REPEATABLE, BulkDone.of)


def reschedule_many(wanted: Mapping[str, Any], when: Mapping[str, Any], **options: Any) -> RpcCall[BulkDone]:
    request = pb.RescheduleManyRequest()
    put_when(request, when)
    if request.WhichOneof("when") is None:
        raise InvalidTask("at", "neither at, at_ms nor delay is given; say when the tasks are to be due")
    return _selecting("RescheduleMany", request, wanted, options)


def run_now_many(wanted: Mapping[str, Any], **options: Any) -> RpcCall[BulkDone]:
    return _selecting("RunNowMany", pb.RunNowManyRequest(), wanted, options)


def replay_dead_many(wanted: Mapping[str, Any], **options: Any) -> RpcCall[BulkDone]:
    return _selecting("ReplayDeadMany", pb.ReplayDeadManyRequest(), wanted, options)


def discard_dead_many(wanted: Mapping[str, Any], **options: Any) -> RpcCall[BulkDone]:
    return _selecting("DiscardDeadMany", pb.DiscardDeadManyRequest(), wanted, options)


def replay_dead(task_id: str | None, key: str | None = None) -> RpcCall[None]:
    return RpcCall("ReplayDead", pb.ReplayDeadRequest(**named(task_id, key)), Repeating.ONCE, _nothing)


def discard_dead(task_id: str | None, key: str | None = None) -> RpcCall[None]:
    return RpcCall("DiscardDead", pb.DiscardDeadRequest(**named(task_id, key)), Repeating.ONCE, _nothing)


def queues(queue: str | None) -> RpcCall[tuple[Queue, ...]]:
    return RpcCall(
        "Queues",
        pb.QueuesRequest(queue=queue or ""),
        Repeating.READ,
        lambda answer: tuple(Queue.of(one, pending_complete=not answer.due_soon) for one in answer.queues),
    )


def queue_rules(queue: str | None) -> RpcCall[tuple[QueueRules, ...]]:
    return RpcCall(
        "QueueRules",
        pb.QueueRulesRequest(queue=queue or ""),
        Repeating.READ,
        lambda answer: tuple(map(QueueRules.of, answer.queues)),
    )


def set_queue(queue: str, rules: Mapping[str, Any], *, replace: bool) -> RpcCall[QueueRules]:
    """``rules``: by name; None clears one."""
    request = pb.SetQueueRequest(queue=queue, replace=replace)
    for name in rules:
        if name not in RulesToSet.__annotations__:
            raise InvalidTask(name, unknown(name, RulesToSet.__annotations__, {}, where="a rule of a queue"))
    request.clear.extend(name for name, value in rules.items() if value is None)
    for name, value in rules.items():
        if value is None:
            continue
        if name == "paused":
            request.rules.paused = flag_of("paused", value)
        elif name == "weight":
            request.rules.weight = real_of("weight", value)
        elif name == "slack":
            for level, span in _pairs("slack", value, '{"low": "10m"}').items():
                if level not in Slack.__annotations__:
                    raise InvalidTask("slack", unknown(level, Slack.__annotations__, {}, where="a priority with slack"))
                setattr(request.rules.slack, f"{level}_ms", span_ms(f"slack.{level}", span, least=0))
        elif name == "retry":
            put_policy(request.rules.retry, policy_of("retry", value))
        elif name in ("concurrency", "burst", "rate", "resume_rate"):
            put_limit(request.rules, name, value)
        elif name == "keys":
            put_key_limits(request.rules, value)
        else:
            setattr(request.rules, f"{name}_ms", span_ms(name, value, least=0))
    return RpcCall("SetQueue", request, Repeating.REPEATABLE, lambda answer: QueueRules.of(answer.queue))


def _pairs(field: str, value: Any, form: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidTask(field, f"{field} {show(value)} is no dictionary; give one such as {form}")
    return value


def put_limit(rules: pb.Rules | pb.KeyLimit, name: str, value: object, where: str = "") -> None:
    """Sets a limit. InvalidTask."""
    try:
        if isinstance(value, bool):
            raise TypeError
        setattr(rules, name, value)
    except (TypeError, ValueError):
        rate = 'text such as "100/s"'
        form = {"rate": rate, "resume_rate": rate, "by": 'text such as "label:customer"'}.get(
            name, "a whole number from 1 on; for no limit give None"
        )
        raise InvalidTask(where + name, f"{where}{name} {value!r} is not {form}") from None


def put_key_limits(rules: pb.Rules, limits: Sequence[Mapping[str, object]]) -> None:
    """Sets limits by key. InvalidTask."""
    # An empty list is sent, so that it is refused with the mend.
    rules.keys.SetInParent()
    form = '{"by": "label:customer", "concurrency": 5}'
    if isinstance(limits, str | Mapping) or not isinstance(limits, Iterable):
        raise InvalidTask("keys", f"keys {show(limits)} is no list of limits; give them such as [{form}]")
    for at, limit in enumerate(limits):
        one, where = rules.keys.limits.add(), f"keys[{at}]."
        for name, value in _pairs(f"keys[{at}]", limit, form).items():
            if name not in KeyLimit.__annotations__:
                raise InvalidTask(
                    where + name, unknown(name, KeyLimit.__annotations__, {}, where="part of such a limit")
                )
            if value is not None:
                put_limit(one, name, value, where)


def unset_queue(queue: str) -> RpcCall[None]:
    return RpcCall("UnsetQueue", pb.UnsetQueueRequest(queue=queue), Repeating.REPEATABLE, _nothing)


def forecast(start: Moment | None, end: Moment | None, step: Duration | None) -> RpcCall[tuple[ForecastStep, ...]]:
    request = pb.ForecastRequest()
    if start is not None:
        request.from_ms = unix_ms("start", start)
    if end is not None:
        request.to_ms = unix_ms("end", end)
    if step is not None:
        request.step_ms = span_ms("step", step)
    return RpcCall("Forecast", request, Repeating.READ, lambda answer: tuple(map(ForecastStep.of, answer.steps)))


def _nothing(_: object) -> None:
    return None
