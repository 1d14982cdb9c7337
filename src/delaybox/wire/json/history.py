"""How tasks ended, as ``GET /v1/history`` asks for it and shows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final

from msgspec import Meta, Struct

from delaybox.core.errors import InvalidTask
from delaybox.core.history import ENDED, HistoryPage, HistoryQuery
from delaybox.core.history import EndedTask as Ended
from delaybox.core.limits import DEFAULT_PAGE, MAX_CURSOR
from delaybox.core.task import TaskState
from delaybox.core.words import unknown
from delaybox.wire.json.moments import moment_ms, render_moment
from delaybox.wire.json.queries import fields_of, limit_of
from delaybox.wire.json.rendering import NAME_OF_PRIORITY, NAME_OF_TYPE
from delaybox.wire.json.tasks import function_of, queue_of, type_of
from delaybox.wire.json.types import PRIORITIES, TYPES, Count, Id, Millis, Moment

FIELDS: Final = ("state", "queue", "type", "function", "ended_from", "ended_to", "cursor", "limit")
STATES: Final[Mapping[str, TaskState]] = {state.value: state for state in ENDED}


class EndedTask(Struct, omit_defaults=True, gc=False):
    """How a task ended. Its payload, headers, labels and result do not stand here."""

    id: Id
    state: Annotated[str, Meta(extra_json_schema={"enum": list(STATES)})]
    type: Annotated[str, Meta(extra_json_schema={"enum": list(TYPES)})]
    queue: str
    priority: Annotated[str, Meta(extra_json_schema={"enum": list(PRIORITIES)})]
    due: Moment
    due_ms: Millis
    ended: Moment
    ended_ms: Millis
    fired: Annotated[str, Meta(description="when it was handed out last; nothing: it never was")] = ""
    fired_ms: Count = 0
    name: Annotated[str, Meta(description="function (worker) or named command (shell)")] = ""
    attempt: Annotated[int, Meta(description="failed attempts, the last one included")] = 0
    deliveries: Annotated[int, Meta(description="times it was handed out")] = 0
    node: Annotated[str, Meta(description="the member that had it; nothing: a caller ended it")] = ""
    reason: str = ""


class EndedPage(Struct, gc=False):
    """Part of the list of ends. Go on with `cursor` while there is one, even after a short page."""

    tasks: list[EndedTask]
    beyond: Annotated[
        dict[str, int],
        Meta(description="by state, how many ended that were only counted because too many ended in one minute"),
    ]
    cursor: Annotated[str | None, Meta(description="pass it on to get the next page; null at the end")] = None


def parse(query: bytes) -> tuple[HistoryQuery, str, int]:
    """The query of ``GET /v1/history``: which, cursor and limit. InvalidTask."""
    given, _ = fields_of(query, FIELDS, {"status": "state", "name": "function", "from": "ended_from", "to": "ended_to"})
    state = None
    if "state" in given:
        state = STATES.get(given["state"])
        if state is None:
            why = unknown(given["state"], STATES, {}, where="the state of an ended task")
            raise InvalidTask("state", f"state {why}")
    cursor = given.get("cursor", "")
    if len(cursor) > MAX_CURSOR:
        raise InvalidTask("cursor", "cursor is too long; pass on the one that the last page gave, or leave it out")
    wanted = HistoryQuery(
        state=state,
        queue=queue_of("queue", given["queue"]) if "queue" in given else None,
        type=type_of("type", given["type"]) if "type" in given else None,
        name=function_of("function", given["function"]) if "function" in given else None,
        from_ms=moment_ms("ended_from", given["ended_from"]) if "ended_from" in given else 0,
        to_ms=moment_ms("ended_to", given["ended_to"]) if "ended_to" in given else 10**15,
    )
    return wanted, cursor, limit_of(given["limit"]) if "limit" in given else DEFAULT_PAGE


def page(found: HistoryPage) -> EndedPage:
    """Part of the list."""
    return EndedPage(
        [_ended(one) for one in found.items],
        {state.value: count for state, count in found.beyond.items() if count},
        found.cursor or None,
    )


def _ended(one: Ended) -> EndedTask:
    return EndedTask(
        id=one.task_id,
        state=one.state.value,
        type=NAME_OF_TYPE[one.type],
        queue=one.queue,
        priority=NAME_OF_PRIORITY[one.priority],
        due=render_moment(one.due_ms),
        due_ms=one.due_ms,
        ended=render_moment(one.ended_ms),
        ended_ms=one.ended_ms,
        fired=render_moment(one.fired_ms) if one.fired_ms else "",
        fired_ms=one.fired_ms,
        name=one.name,
        attempt=one.attempt,
        deliveries=one.deliveries,
        node=one.node,
        reason=one.reason,
    )
