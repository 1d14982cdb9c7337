"""The feed of events as a client reads it: what happens to all tasks, across broken connections."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypedDict

from delaybox.client.errors import CallTimeout, Failure, Unreachable
from delaybox.client.models import PRIORITIES, TYPES, Priority, TaskType
from delaybox.client.moments import moment
from delaybox.client.retries import ClientSession, Repeating, Tries
from delaybox.client.steps import Drop, Emit, OpenStream, Pause, Receive, Steps
from delaybox.client.values import labels_of, number_of, text_of
from delaybox.wire.gen import scheduler_pb2 as pb

_STREAM_S: Final = 60.0
"""Longest life of one stream, so that a cut that is not reported is noticed."""
_TYPE_NUMBERS: Final = {kind.value: number for number, kind in TYPES.items()}


class EventFilter(TypedDict, total=False):
    """Which events; everything that is given must hold. ``kinds``: scheduled, changed, fired, retried, dead, cancelled,
    completed."""

    kinds: str | Iterable[str] | None
    queue: str | None
    type: str | None
    function: str | None
    labels: Mapping[str, str] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedEvent:
    """Something that happened to a task. ``id``: names it in the feed; `Client.events` goes on behind it.

    ``kind`` "missed": events are missing here, at least ``missed`` of them (0: nobody knows how many); ``reason`` says
    why, and the other fields mean nothing. ``due``: when the task is due, of changed and retried from now on.
    ``attempt``: failed attempts so far. ``node``: the member that saw it, "": a caller caused it.
    """

    id: str
    kind: str
    task_id: str
    at: datetime
    type: TaskType
    queue: str
    name: str
    priority: Priority
    due: datetime
    attempt: int
    deliveries: int
    labels: Mapping[str, str]
    node: str
    reason: str
    missed: int = 0

    @classmethod
    def of(cls, answer: pb.FeedEvent) -> FeedEvent:
        return cls(
            id=answer.id,
            kind=answer.kind,
            task_id=answer.task_id,
            at=moment(answer.at_ms),
            type=TYPES[answer.type],
            queue=answer.queue,
            name=answer.name,
            priority=PRIORITIES[answer.priority],
            due=moment(answer.due_ms),
            attempt=answer.attempt,
            deliveries=answer.deliveries,
            labels=dict(answer.labels),
            node=answer.node,
            reason=answer.reason,
            missed=answer.missed,
        )


def events_of(wanted: Mapping[str, Any], after: str | None) -> pb.EventsRequest:
    """The wire's question for events. InvalidTask, TypeError for an unknown part."""
    if strange := wanted.keys() - EventFilter.__annotations__.keys():
        known = ", ".join(EventFilter.__annotations__)
        raise TypeError(f"{min(strange)!r} is no part of a filter of events; there are {known}")
    out = pb.EventsRequest(after="" if after is None else text_of("after", after))
    if (kinds := wanted.get("kinds")) is not None:
        out.kinds.extend(text_of("kinds", kind) for kind in ([kinds] if isinstance(kinds, str) else kinds))
    if (queue := wanted.get("queue")) is not None:
        out.queue = text_of("queue", queue)
    if (kind := wanted.get("type")) is not None:
        out.type = number_of("type", kind, _TYPE_NUMBERS, "a task type")  # type: ignore[assignment]
    if (function := wanted.get("function")) is not None:
        out.function = text_of("function", function)
    if (labels := wanted.get("labels")) is not None:
        out.labels.update(labels_of("labels", labels))
    return out


def followed(session: ClientSession, wanted: Mapping[str, Any], after: str | None) -> Steps[None]:
    """Emits events as they happen; goes on where a stream was cut. Never ends by itself."""
    request = events_of(wanted, after)
    tries = Tries(session, Repeating.READ)
    while True:
        which = tries.pick()
        stream = yield OpenStream(which, "Events", request, _STREAM_S)
        while isinstance(answer := (yield Receive(stream)), pb.EventsResponse):
            tries.went_on()
            session.endpoints.worked(which)
            request = pb.EventsRequest.FromString(request.SerializeToString())
            request.after = answer.position
            if answer.events:
                yield Emit([FeedEvent.of(event) for event in answer.events])
        yield Drop(stream)
        if isinstance(answer, Failure) and isinstance(answer.error, CallTimeout):
            tries.went_on()  # its own time was over
            continue
        if answer is None:
            answer = Failure(Unreachable(f"{session.endpoints.names[which]} ended the stream"), "UNAVAILABLE")
        yield Pause(tries.pause_after(answer, which))
