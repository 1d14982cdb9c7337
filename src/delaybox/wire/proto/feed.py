"""The feed of events over gRPC."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from delaybox.core import ids
from delaybox.core.events import EventQuery, FeedItem, Missed
from delaybox.core.lane import split
from delaybox.wire.gen import scheduler_pb2 as pb
from delaybox.wire.json.events import kinds_of
from delaybox.wire.json.tasks import labels_of, queue_of
from delaybox.wire.proto.tasks import PRIORITIES, type_of
from delaybox.wire.proto.views import TYPE_NUMBERS

_AT_ONCE: Final = 500
"""Events in one message: with labels of the largest size it stays below what clients accept."""
_PRIORITIES: Final = tuple(number for number, _ in sorted(PRIORITIES.items(), key=lambda pair: pair[1]))


def wanted(asked: pb.EventsRequest) -> tuple[EventQuery, str]:
    """Which events, and behind which position. InvalidTask."""
    found = EventQuery(
        kinds=kinds_of(list(asked.kinds)),
        queue=queue_of("queue", asked.queue) if asked.queue else None,
        type=type_of("type", asked.type) if asked.HasField("type") else None,
        name=asked.function or None,
        labels=labels_of(dict(asked.labels), "labels"),
    )
    return found, asked.after


def responses(items: Sequence[FeedItem], position: str) -> Iterator[pb.EventsResponse]:
    """The messages for some events, at least one. ``position``: behind all of them."""
    for at in range(0, len(items) - _AT_ONCE, _AT_ONCE):
        some = items[at : at + _AT_ONCE]
        yield pb.EventsResponse(events=map(_event, some), position=some[-1].position)
    rest = items[(len(items) - 1) // _AT_ONCE * _AT_ONCE :] if items else ()
    yield pb.EventsResponse(events=map(_event, rest), position=position)


def _event(item: FeedItem) -> pb.FeedEvent:
    what = item.what
    if isinstance(what, Missed):
        return pb.FeedEvent(id=item.position, kind="missed", missed=what.count, reason=what.why)
    out = pb.FeedEvent(
        id=item.position,
        kind=what.kind,
        task_id=ids.render(what.task_id),
        at_ms=what.at_ms,
        priority=_PRIORITIES[what.priority],
        due_ms=what.due_ms,
        attempt=what.attempt,
        deliveries=what.deliveries,
        labels=what.labels,
        node=what.node,
        reason=what.reason,
    )
    try:
        lane = split(what.lane)
    except ValueError:
        return out  # a newer node's task type
    out.type, out.queue, out.name = TYPE_NUMBERS[lane.type], lane.queue, lane.name
    return out
