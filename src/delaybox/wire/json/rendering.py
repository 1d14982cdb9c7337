"""Domain -> the JSON of ``/v1``."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypedDict

import msgspec

from delaybox.core.needs import NO_NEEDS, WorkerNeeds
from delaybox.core.query import ForecastStep, Page, QueueList, QueueStats
from delaybox.core.queue import QueueRules
from delaybox.core.result_keeping import wished_ms
from delaybox.core.task import (
    DeliveryMode,
    FailedAttempt,
    NewTask,
    Priority,
    Progress,
    Submitted,
    TaskResult,
    TaskState,
    TaskType,
    TaskView,
)
from delaybox.core.webhook import Webhook
from delaybox.wire.json import failure_types, queue_types, types
from delaybox.wire.json.moments import render_moment
from delaybox.wire.json.tasks import TYPE_NAMES

encode: Final = msgspec.json.Encoder().encode
NAME_OF_TYPE: Final[Mapping[TaskType, str]] = {kind: name for name, kind in TYPE_NAMES.items()}
NAME_OF_PRIORITY: Final[Mapping[Priority, str]] = {p: p.name.lower() for p in Priority}
_NO_HEADERS: Final[dict[str, str]] = {}
_NO_FIELDS: Final[dict[str, Any]] = {}


def text_or_base64(data: bytes) -> tuple[str, str]:
    """(text, "") for UTF-8, else ("", base64)."""
    try:
        return data.decode(), ""
    except UnicodeDecodeError:
        return "", b64encode(data).decode()


def scheduled(new: NewTask, stored: Submitted, now_ms: int) -> types.Scheduled:
    """The answer to a task that was just stored. ``now_ms`` only distinguishes scheduled from ready."""
    text, encoded = text_or_base64(new.payload)
    return types.Scheduled(
        id=stored.task_id,
        type=NAME_OF_TYPE[new.type],
        state="ready" if stored.due_ms <= now_ms else "scheduled",
        due=render_moment(stored.due_ms),
        due_ms=stored.due_ms,
        queue=stored.queue or new.queue,
        priority=NAME_OF_PRIORITY[new.priority],
        payload=text,
        payload_base64=encoded,
        headers={k: v.decode() for k, v in new.header.items()} if new.header else _NO_HEADERS,
        name=new.name,
        **_webhook(new.webhook),
        labels=dict(new.labels) if new.labels else _NO_HEADERS,
        timeout_ms=new.timeout_ms,
        expire_after_ms=new.expire_after_ms,
        max_snooze_ms=new.max_snooze_ms,
        delivery=_delivery(new.delivery),
        group=new.group,
        fairness_key=new.fairness_key,
        fairness_weight=_weight(new.fairness_weight),
        **_needs(new.needs),
        zone=new.zone,
        created=stored.created,
        warning=stored.warning,
    )


def _needs(needs: WorkerNeeds) -> dict[str, Any]:
    if needs is NO_NEEDS:
        return _NO_FIELDS
    return {"cost": needs.cost, "requires": list(needs.requires), "prefers": list(needs.prefers)}


def _delivery(mode: DeliveryMode) -> str:
    return "" if mode is DeliveryMode.AT_LEAST_ONCE else mode.value


def task(view: TaskView) -> types.Task:
    """A stored task."""
    text, encoded = text_or_base64(view.payload)
    return types.Task(
        id=view.task_id,
        type=NAME_OF_TYPE[view.type],
        state=view.state.value,
        due=render_moment(view.due_ms),
        due_ms=view.due_ms,
        queue=view.queue,
        priority=NAME_OF_PRIORITY[view.priority],
        payload=text,
        payload_base64=encoded,
        # A task from the Redis channel may hold bytes that are no UTF-8; JSON must be UTF-8.
        headers={k: v.decode("utf-8", "replace") for k, v in view.header.items()} if view.header else _NO_HEADERS,
        name=view.name,
        **_webhook(view.webhook),
        labels=dict(view.labels) if view.labels else _NO_HEADERS,
        timeout_ms=view.timeout_ms,
        expire_after_ms=view.expire_after_ms,
        max_snooze_ms=view.max_snooze_ms,
        delivery=_delivery(view.delivery),
        group=view.group,
        fairness_key=view.fairness_key,
        fairness_weight=_weight(view.fairness_weight),
        **_needs(view.needs),
        zone=view.zone,
        attempt=view.attempt,
        losses=view.losses,
        deliveries=view.deliveries,
        reason=view.reason,
        result=None if view.result is None else _result(view.result),
        progress=None if view.progress is None else _progress(view.progress),
        traceback=view.traceback,
        failures=[_failure(one) for one in view.failures],
        **_end(view),
    )


def changed(view: TaskView) -> types.ChangedTask:
    """A task that was just changed."""
    return types.ChangedTask(**msgspec.structs.asdict(task(view)))


def found(view: TaskView) -> types.Scheduled:
    """The task that an idempotency key named already."""
    return types.Scheduled(**msgspec.structs.asdict(task(view)), created=False)


def gone(new: NewTask, stored: Submitted, state: TaskState | None = None) -> types.Scheduled:
    """The same when that task has ended and left no record: the fields of the present request, and no state unless its
    end is remembered."""
    out = scheduled(new, stored, 0)
    out.state = None if state is None else state.value
    return out


class _End(TypedDict, total=False):
    fired: str
    fired_ms: int
    ended: str
    ended_ms: int
    node: str
    remembered: bool


def _failure(one: FailedAttempt) -> failure_types.FailedAttempt:
    return failure_types.FailedAttempt(
        attempt=one.attempt,
        failed=render_moment(one.failed_ms),
        failed_ms=one.failed_ms,
        fired=render_moment(one.fired_ms) if one.fired_ms else "",
        fired_ms=one.fired_ms,
        node=one.node,
        reason=one.reason,
        traceback=one.traceback,
    )


def _end(view: TaskView) -> _End:
    if not view.ended_ms:
        return _NO_END
    out: _End = {"ended": render_moment(view.ended_ms), "ended_ms": view.ended_ms, "node": view.node}
    if view.fired_ms:
        out["fired"], out["fired_ms"] = render_moment(view.fired_ms), view.fired_ms
    if view.remembered:
        out["remembered"] = True
    return out


_NO_END: Final[_End] = {}


class _Webhook(TypedDict, total=False):
    url: str
    method: str
    retry_on: list[int]
    on_success: str
    on_failure: str
    cloudevents: str


def _webhook(webhook: Webhook | None) -> _Webhook:
    if webhook is None:
        return _NO_WEBHOOK
    return {
        "url": webhook.url,
        "method": webhook.method,
        "retry_on": list(webhook.retry_on),
        "on_success": webhook.on_success,
        "on_failure": webhook.on_failure,
        "cloudevents": webhook.cloudevents,
    }


_NO_WEBHOOK: Final[_Webhook] = {}


def _result(result: TaskResult) -> types.Result:
    text, encoded = text_or_base64(result.output)
    return types.Result(
        ok=result.ok,
        finished=render_moment(result.finished_ms),
        finished_ms=result.finished_ms,
        duration_ms=result.duration_ms,
        exit_code=result.exit_code,
        status=result.status,
        headers=dict(result.headers) if result.headers else _NO_HEADERS,
        output=text,
        output_base64=encoded,
        truncated=result.truncated,
        reason=result.reason,
    )


def _progress(report: Progress) -> types.Progress:
    return types.Progress(min(report.fraction, 1.0) if report.fraction >= 0 else None, report.message)


def page(found_: Page) -> types.TaskPage:
    """Part of a list."""
    return types.TaskPage([task(view) for view in found_.items], found_.cursor or None, found_.scanned)


def moved(task_id: str, due_ms: int) -> types.Moved:
    """A task's new due time."""
    return types.Moved(task_id, render_moment(due_ms), due_ms)


def _lane(stats: QueueStats) -> queue_types.Lane:
    return queue_types.Lane(
        stats.queue,
        NAME_OF_TYPE[stats.type],
        stats.pending,
        stats.complete,
        stats.ready,
        stats.in_flight,
        stats.fired_per_s,
        stats.unserved,
        stats.waits,
        stats.oldest_wait_ms,
    )


def queues(all_: QueueList) -> queue_types.Queues:
    """Every queue."""
    return queue_types.Queues([_lane(stats) for stats in all_], all_.complete)


def queue(
    name: str, all_: QueueList, *, own: QueueRules, effect: QueueRules, waits: str, newer: tuple[str, ...]
) -> queue_types.Queue:
    """One queue; zeros for one that holds nothing."""
    here = [stats for stats in all_ if stats.queue == name]
    return queue_types.Queue(
        name,
        sum(s.pending for s in here),
        all_.complete,
        sum(s.ready for s in here),
        sum(s.in_flight for s in here),
        round(sum(s.fired_per_s for s in here), 3),
        queue_types.QueueSettings(wished_ms(0, queue_ms=effect.keep_result_ms)),
        [_lane(s) for s in here],
        rules(own),
        rules(effect),
        waits,
        max((s.oldest_wait_ms for s in here), default=0),
        _full_speed_at(effect),
        newer,
    )


def rules(set_: QueueRules) -> queue_types.QueueRulesSet:
    """Rules, such that they can be sent as they are."""
    retry = set_.retry
    return queue_types.QueueRulesSet(
        paused=set_.paused,
        keep_result=set_.keep_result_ms,
        retry=None
        if retry is None
        else types.Retry(
            retry.max_attempts,
            types.Backoff(retry.initial_ms, retry.factor, retry.max_ms, retry.jitter),
        ),
        timeout=set_.timeout_ms,
        weight=set_.weight,
        slack=None
        if set_.slack is None
        else queue_types.SlackSet(set_.slack.high_ms, set_.slack.normal_ms, set_.slack.low_ms),
        concurrency=set_.concurrency,
        rate=None if set_.rate is None else str(set_.rate),
        burst=set_.burst,
        keys=None
        if set_.keys is None
        else [
            queue_types.KeyLimit(one.by, one.concurrency, None if one.rate is None else str(one.rate), one.burst)
            for one in set_.keys
        ],
        key_keep=set_.key_keep_ms,
        resume_rate=None if set_.resume_rate is None else str(set_.resume_rate),
    )


def _full_speed_at(effect: QueueRules) -> str | None:
    return None if effect.ramp is None else render_moment(effect.ramp.until_ms)


def ruled(
    queue_: str, own: QueueRules, effect: QueueRules, waits: str, newer: tuple[str, ...], version: int
) -> queue_types.RuledQueue:
    """A queue with its rules."""
    return queue_types.RuledQueue(queue_, rules(own), rules(effect), waits, newer, _full_speed_at(effect), version)


def forecast(steps: Sequence[ForecastStep], step_ms: int) -> types.Forecast:
    """Tasks due per step."""
    return types.Forecast(
        step_ms,
        sum(s.count for s in steps),
        [types.Step(render_moment(s.start_ms), s.start_ms, s.count) for s in steps],
    )


def _weight(weight: float) -> float:
    return types.EVEN_WEIGHT if weight == types.EVEN_WEIGHT else weight
