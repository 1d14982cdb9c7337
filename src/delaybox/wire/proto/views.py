"""What the service answers -> messages of delaybox.v1."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from google.protobuf.message import DecodeError

from delaybox.core import ids
from delaybox.core.history import HistoryPage
from delaybox.core.membership import LivingNode
from delaybox.core.query import BulkResult, ForecastStep, Page, QueueList
from delaybox.core.queue import QueueRules
from delaybox.core.task import DeliveryMode, Priority, TaskState, TaskType, TaskView
from delaybox.wire import members
from delaybox.wire import progress as wire_progress
from delaybox.wire import result as wire_result
from delaybox.wire.body import varint
from delaybox.wire.gen import scheduler_pb2 as pb
from delaybox.wire.proto import rules
from delaybox.wire.proto.tasks import PRIORITIES, TYPES
from delaybox.wire.standing import Standing
from delaybox.wire.webhook import message_of

STATES: Final[Mapping[TaskState, pb.TaskState]] = MappingProxyType(
    {
        TaskState.SCHEDULED: pb.TASK_STATE_SCHEDULED,
        TaskState.READY: pb.TASK_STATE_READY,
        TaskState.RUNNING: pb.TASK_STATE_RUNNING,
        TaskState.SUCCEEDED: pb.TASK_STATE_SUCCEEDED,
        TaskState.FAILED: pb.TASK_STATE_FAILED,
        TaskState.CANCELLED: pb.TASK_STATE_CANCELLED,
    }
)
ANSWER_BYTES: Final = 3 * 1024 * 1024
"""Most bytes of a message to a caller, where the answer can be divided: clients accept 4 MiB by default."""
_ENTRY_BYTES: Final = 8
"""Most bytes that stand before each item of a list."""
_UNSERVED_SHOWN: Final = 100
_FACTS_BYTES: Final = 64 * 1024
TYPE_NUMBERS: Final[Mapping[TaskType, pb.TaskType]] = {kind: number for number, kind in TYPES.items()}
_PRIORITY_NUMBERS: Final[Mapping[Priority, pb.Priority]] = {p: number for number, p in PRIORITIES.items()}


def info(view: TaskView) -> pb.TaskInfo:
    """One task."""
    out = pb.TaskInfo(
        id=view.task_id,
        state=STATES[view.state],
        due_ms=view.due_ms,
        type=TYPE_NUMBERS[view.type],
        queue=view.queue,
        priority=_PRIORITY_NUMBERS[view.priority],
        name=view.name,
        payload=view.payload,
        headers=view.header,
        labels=view.labels,
        attempt=view.attempt,
        losses=view.losses,
        deliveries=view.deliveries,
        reason=view.reason,
        expire_after_ms=view.expire_after_ms,
        timeout_ms=view.timeout_ms,
        keep_result_ms=view.keep_result_ms,
        max_snooze_ms=view.max_snooze_ms,
        delivery=pb.DELIVERY_AT_MOST_ONCE if view.delivery is DeliveryMode.AT_MOST_ONCE else pb.DELIVERY_AT_LEAST_ONCE,
        traceback=view.traceback,
        fired_ms=view.fired_ms,
        ended_ms=view.ended_ms,
        node=view.node,
        remembered=view.remembered,
        group=view.group,
        fairness_key=view.fairness_key,
        fairness_weight=view.fairness_weight if view.fairness_key else 0,
        cost=view.needs.cost if view.needs.cost > 1 else 0,
        requires=view.needs.requires,
        prefers=view.needs.prefers,
        zone=view.zone,
    )
    for one in view.failures:
        out.failures.add(
            attempt=one.attempt,
            fired_ms=one.fired_ms,
            failed_ms=one.failed_ms,
            node=one.node,
            reason=one.reason,
            traceback=one.traceback,
        )
    if view.webhook is not None:
        out.webhook.CopyFrom(message_of(view.webhook))
    if view.result is not None:
        out.result.CopyFrom(wire_result.message(view.result))
    if view.progress is not None:
        out.progress.CopyFrom(wire_progress.message(view.progress))
    return out


def page(found: Page) -> pb.ListResponse:
    """Part of a list."""
    return pb.ListResponse(tasks=[info(view) for view in found.items], cursor=found.cursor, scanned=found.scanned)


def history(found: HistoryPage) -> pb.HistoryResponse:
    """Part of the list of ends."""
    return pb.HistoryResponse(
        tasks=[
            pb.EndedTask(
                id=one.task_id,
                state=STATES[one.state],
                type=TYPE_NUMBERS[one.type],
                queue=one.queue,
                name=one.name,
                priority=_PRIORITY_NUMBERS[one.priority],
                due_ms=one.due_ms,
                fired_ms=one.fired_ms,
                ended_ms=one.ended_ms,
                attempt=one.attempt,
                deliveries=one.deliveries,
                node=one.node,
                reason=one.reason,
            )
            for one in found.items
        ],
        cursor=found.cursor,
        beyond_succeeded=found.beyond.get(TaskState.SUCCEEDED, 0),
        beyond_failed=found.beyond.get(TaskState.FAILED, 0),
        beyond_cancelled=found.beyond.get(TaskState.CANCELLED, 0),
    )


def fitting(response: pb.ListResponse) -> int:
    """How many of its tasks a message of `ANSWER_BYTES` holds, at least one."""
    if response.ByteSize() <= ANSWER_BYTES:
        return len(response.tasks)
    count = total = 0
    for task in response.tasks:
        total += task.ByteSize() + _ENTRY_BYTES
        if total > ANSWER_BYTES:
            break
        count += 1
    return max(1, count)


def changed(found: BulkResult) -> pb.BulkResponse:
    """The outcome of a bulk change."""
    return pb.BulkResponse(
        matched=found.matched,
        changed=found.changed,
        skipped=found.skipped,
        sample_ids=found.sample,
        scanned=found.scanned,
    )


def queues(found: QueueList, name: str) -> pb.QueuesResponse:
    """Every queue that fits, or the one of that name."""
    out = pb.QueuesResponse(due_soon=not found.complete)
    size = 0
    for q in found:
        if name and q.queue != name:
            continue
        shown = pb.QueueInfo(
            queue=q.queue,
            type=TYPE_NUMBERS[q.type],
            pending=q.pending,
            ready=q.ready,
            in_flight=q.in_flight,
            unserved=q.unserved if name else q.unserved[:_UNSERVED_SHOWN],
            waits=q.waits,
            oldest_wait_ms=q.oldest_wait_ms,
        )
        size += shown.ByteSize() + _ENTRY_BYTES
        if size > ANSWER_BYTES:
            out.truncated = True
            break
        out.truncated |= len(shown.unserved) < len(q.unserved)
        out.queues.append(shown)
    return out


def ruled_queue(
    queue: str, own: QueueRules, effect: QueueRules, waits: str = "", newer: Iterable[str] = (), version: int = 0
) -> pb.RuledQueue:
    """A queue with its rules."""
    return pb.RuledQueue(
        queue=queue,
        rules=rules.message(own),
        effect=rules.message(effect),
        waits=waits,
        newer=newer,
        full_speed_at_ms=0 if effect.ramp is None else effect.ramp.until_ms,
        version=version,
    )


def ruled(found: Iterable[pb.RuledQueue]) -> pb.QueueRulesResponse:
    """The queues with rules that fit."""
    out = pb.QueueRulesResponse()
    size = 0
    for queue in found:
        size += queue.ByteSize() + _ENTRY_BYTES
        if size > ANSWER_BYTES:
            out.truncated = True
            break
        out.queues.append(queue)
    return out


def forecast(steps: Sequence[ForecastStep]) -> pb.ForecastResponse:
    """Tasks due per step."""
    return pb.ForecastResponse(steps=[pb.ForecastStep(start_ms=s.start_ms, count=s.count) for s in steps])


def nodes(found: Iterable[LivingNode]) -> pb.NodesResponse:
    """The nodes that fit."""
    out = pb.NodesResponse()
    size = 0
    for node in found:
        shown = members.node_message(node)
        as_json = members.facts(node, _FACTS_BYTES)
        size += shown.ByteSize() + len(as_json.encode()) + 2 * _ENTRY_BYTES
        if size > ANSWER_BYTES:
            out.truncated = True
            break
        out.truncated |= len(shown.workers) < shown.worker_count
        out.infos.append(shown)
        out.nodes.append(as_json)
    return out


_EVENTS_AT_ONCE: Final = 1_000
_EVENT_BYTES: Final = 1024 * 1024


def events(changes: Sequence[tuple[bytes, Standing]]) -> Iterator[bytes]:
    """Changes in serialized messages of about a megabyte at most, in which stored results lie as they are."""
    parts: list[bytes] = []
    size = 0
    for task_id, standing in changes:
        event = b"\x0a\x24%b%b%b%b" % (
            ids.render(task_id).encode(),
            _moment(standing.state, standing.attempt, standing.reason),
            b"\x2a%b%b" % (varint(len(standing.result)), standing.result) if standing.result else b"",
            _with_progress(standing.progress) if standing.progress else b"",
        )
        parts += (b"\x0a", varint(len(event)), event)
        size += len(event) + _ENTRY_BYTES
        if len(parts) >= 3 * _EVENTS_AT_ONCE or size >= _EVENT_BYTES:
            yield b"".join(parts)
            parts, size = [], 0
    if parts:
        yield b"".join(parts)


@lru_cache(maxsize=256)
def _moment(state: TaskState | None, attempt: int, reason: str) -> bytes:
    """The fields of an event that are the same for most of a herd."""
    number = pb.TASK_STATE_FINISHED_OR_UNKNOWN if state is None else STATES[state]
    return pb.TaskEvent(state=number, attempt=attempt, reason=reason).SerializeToString()


def _with_progress(noted: bytes) -> bytes:
    """The field ``progress``. Progress that cannot be read is left out, because progress may be lost."""
    event = pb.TaskEvent()
    try:
        event.progress.MergeFromString(noted)
    except DecodeError:
        return b""
    return event.SerializeToString()
