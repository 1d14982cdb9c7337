"""The feed of events as CloudEvents 1.0 in JSON, and what ``GET /v1/events`` is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final

from msgspec import Meta, Struct, json

from delaybox.core import ids
from delaybox.core.errors import InvalidTask
from delaybox.core.events import EventKind, EventQuery, FeedItem, Missed, StoredEvent
from delaybox.core.lane import split
from delaybox.core.limits import NAME, NAME_FORM
from delaybox.core.task import Priority
from delaybox.core.words import show, unknown
from delaybox.wire.json.moments import render_moment
from delaybox.wire.json.queries import fields_of
from delaybox.wire.json.rendering import NAME_OF_PRIORITY, NAME_OF_TYPE
from delaybox.wire.json.tasks import queue_of, type_of
from delaybox.wire.json.types import PRIORITIES, TYPES

FIELDS: Final = ("kind", "queue", "type", "function", "label", "after")
KINDS: Final[Mapping[str, EventKind]] = {kind.value: kind for kind in EventKind}
PREFIX: Final = "io.delaybox.task."
MISSED: Final = "io.delaybox.events.missed"
_TYPES: Final = [*(PREFIX + kind for kind in KINDS), MISSED]
_PRIORITIES: Final = tuple(sorted(Priority))


class EventData(Struct, omit_defaults=True, gc=False):
    """What happened. Of `io.delaybox.events.missed` only `missed` and `reason`."""

    id: str = ""
    type: Annotated[str, Meta(extra_json_schema={"enum": list(TYPES)})] = ""
    queue: str = ""
    name: Annotated[str, Meta(description="function (worker) or named command (shell)")] = ""
    priority: Annotated[str, Meta(extra_json_schema={"enum": list(PRIORITIES)})] = ""
    due: Annotated[str, Meta(description="when the task is due; of changed and retried: from now on")] = ""
    due_ms: int = 0
    attempt: Annotated[int, Meta(description="failed attempts so far")] = 0
    deliveries: int = 0
    labels: Mapping[str, str] = {}
    node: Annotated[str, Meta(description="the member that saw it; nothing: a caller caused it")] = ""
    reason: str = ""
    missed: Annotated[int | None, Meta(description="how many events are missing here at least; 0: nobody knows")] = None


class CloudEvent(Struct, omit_defaults=True, gc=False):
    """A CloudEvent 1.0. `id` names it in the feed, too: `after` takes it."""

    specversion: Annotated[str, Meta(description="always 1.0")]
    id: str
    source: Annotated[str, Meta(description="the store: /delaybox/ and its prefix")]
    type: Annotated[str, Meta(extra_json_schema={"enum": _TYPES})]
    datacontenttype: str
    data: EventData
    subject: Annotated[str, Meta(description="the id of the task")] = ""
    time: Annotated[str, Meta(description="when it happened, by Redis's clock")] = ""


def cloud_event(item: FeedItem, source: str) -> CloudEvent:
    """One item of the feed."""
    what = item.what
    if isinstance(what, Missed):
        data = EventData(missed=what.count, reason=what.why)
        return CloudEvent("1.0", item.position, source, MISSED, "application/json", data)
    task_id = ids.render(what.task_id)
    return CloudEvent(
        "1.0", item.position, source, PREFIX + what.kind, "application/json", data_of(what, task_id), task_id,
        render_moment(what.at_ms),
    )  # fmt: skip


def data_of(event: StoredEvent, task_id: str) -> EventData:
    """What happened, without the envelope."""
    data = EventData(
        id=task_id,
        priority=NAME_OF_PRIORITY[_PRIORITIES[event.priority]],
        due=render_moment(event.due_ms),
        due_ms=event.due_ms,
        attempt=event.attempt,
        deliveries=event.deliveries,
        labels=event.labels,
        node=event.node,
        reason=event.reason,
    )
    try:
        lane = split(event.lane)
    except ValueError:
        return data  # a newer node's task type
    data.type, data.queue, data.name = NAME_OF_TYPE[lane.type], lane.queue, lane.name
    return data


_encode = json.Encoder().encode


def encode(item: FeedItem, source: str) -> bytes:
    """One item of the feed in JSON."""
    return _encode(cloud_event(item, source))


def parse(query: bytes) -> tuple[EventQuery, str]:
    """The query of ``GET /v1/events``: which, and behind which position. InvalidTask."""
    given, labels = fields_of(
        query, FIELDS, {"name": "function", "kinds": "kind", "labels": "label", "cursor": "after", "since": "after"}
    )
    function = given.get("function")
    if function is not None and NAME.fullmatch(function) is None:
        raise InvalidTask("function", f"function {show(function)} is not a name; use {NAME_FORM}")
    wanted = EventQuery(
        kinds=kinds_of(given["kind"].split(",")) if "kind" in given else frozenset(),
        queue=queue_of("queue", given["queue"]) if "queue" in given else None,
        type=type_of("type", given["type"]) if "type" in given else None,
        name=function,
        labels=labels,
    )
    return wanted, given.get("after", "")


def kinds_of(names: list[str]) -> frozenset[EventKind]:
    """Kinds by name. InvalidTask."""
    for name in names:
        if name not in KINDS:
            raise InvalidTask("kind", "kind " + unknown(name, KINDS, {}, where="a kind of event"))
    return frozenset(KINDS[name] for name in names)
