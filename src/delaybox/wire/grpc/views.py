"""What the service answers -> messages of delaybox.v1."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, Protocol

from google.protobuf.message import DecodeError

from delaybox.core import ids
from delaybox.core.query import ForecastStep, Page, QueueStats
from delaybox.core.task import Priority, TaskState, TaskType, TaskView
from delaybox.wire import progress as wire_progress
from delaybox.wire import result as wire_result
from delaybox.wire.gen import scheduler_pb2 as pb
from delaybox.wire.gen import task_pb2
from delaybox.wire.grpc.tasks import PRIORITIES, TYPES

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
_TYPE_NUMBERS: Final[Mapping[TaskType, pb.TaskType]] = {kind: number for number, kind in TYPES.items()}
_PRIORITY_NUMBERS: Final[Mapping[Priority, pb.Priority]] = {p: number for number, p in PRIORITIES.items()}


def info(view: TaskView) -> pb.TaskInfo:
    """One task."""
    out = pb.TaskInfo(
        id=view.task_id,
        state=STATES[view.state],
        due_ms=view.due_ms,
        type=_TYPE_NUMBERS[view.type],
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
        traceback=view.traceback,
    )
    if view.result is not None:
        out.result.CopyFrom(wire_result.message(view.result))
    if view.progress is not None:
        out.progress.CopyFrom(wire_progress.message(view.progress))
    return out


def page(found: Page) -> pb.ListResponse:
    """Part of a list."""
    return pb.ListResponse(tasks=[info(view) for view in found.items], cursor=found.cursor)


class Changed(Protocol):
    """What came of a bulk change."""

    @property
    def matched(self) -> int: ...
    @property
    def changed(self) -> int: ...
    @property
    def skipped(self) -> int: ...
    @property
    def sample(self) -> Sequence[str]: ...


def changed(found: Changed) -> pb.BulkResponse:
    """What came of a bulk change."""
    return pb.BulkResponse(matched=found.matched, changed=found.changed, skipped=found.skipped, sample_ids=found.sample)


def queues(found: Sequence[QueueStats], name: str) -> pb.QueuesResponse:
    """Every queue, or the one of that name."""
    return pb.QueuesResponse(
        queues=[
            pb.QueueInfo(
                queue=q.queue,
                type=_TYPE_NUMBERS[q.type],
                pending=q.pending,
                ready=q.ready,
                in_flight=q.in_flight,
                unserved=q.unserved,
            )
            for q in found
            if not name or q.queue == name
        ]
    )


def forecast(steps: Sequence[ForecastStep]) -> pb.ForecastResponse:
    """Tasks due per step."""
    return pb.ForecastResponse(steps=[pb.ForecastStep(start_ms=s.start_ms, count=s.count) for s in steps])


def nodes(found: Sequence[Mapping[str, Any]]) -> pb.NodesResponse:
    """Each node's facts as JSON."""
    return pb.NodesResponse(nodes=[json.dumps(dict(node), separators=(",", ":")) for node in found])


_EVENTS_AT_ONCE: Final = 1_000
_EVENT_BYTES: Final = 1024 * 1024


class Standing(Protocol):
    """One look at a task; ``state`` None: nothing of it is kept."""

    @property
    def state(self) -> TaskState | None: ...
    @property
    def attempt(self) -> int: ...
    @property
    def reason(self) -> str: ...
    @property
    def result(self) -> task_pb2.Result | None: ...
    @property
    def progress(self) -> bytes: ...


def events(changes: Sequence[tuple[bytes, Standing]]) -> Iterator[pb.WatchResponse]:
    """Changes in messages of about a megabyte at most."""
    response, size = pb.WatchResponse(), 0
    for task_id, standing in changes:
        state = standing.state
        event = response.events.add(
            id=ids.render(task_id),
            state=pb.TASK_STATE_FINISHED_OR_UNKNOWN if state is None else STATES[state],
            attempt=standing.attempt,
            reason=standing.reason,
        )
        if standing.result is not None:
            event.result.CopyFrom(standing.result)
        if standing.progress:
            with contextlib.suppress(DecodeError):  # it is lost, as it may be
                event.progress.MergeFromString(standing.progress)
        size += event.ByteSize()
        if len(response.events) >= _EVENTS_AT_ONCE or size >= _EVENT_BYTES:
            yield response
            response, size = pb.WatchResponse(), 0
    if response.events:
        yield response
