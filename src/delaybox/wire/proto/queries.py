"""What a list, a forecast or a bulk change is asked for over gRPC -> domain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from delaybox.core.durations import duration_ms
from delaybox.core.errors import InvalidTask
from delaybox.core.history import ENDED, HistoryQuery
from delaybox.core.limits import DEFAULT_PAGE, MAX_CURSOR, MAX_PAGE
from delaybox.core.query import TaskQuery
from delaybox.core.task import TaskState
from delaybox.wire.gen import scheduler_pb2 as pb
from delaybox.wire.json.moments import moment_ms
from delaybox.wire.json.queries import DAY_MS, HOUR_MS
from delaybox.wire.json.tasks import function_of, group_of, labels_of, queue_of
from delaybox.wire.proto.tasks import type_of
from delaybox.wire.proto.views import STATES

DEFAULT_LIST: Final = 1_000
"""Tasks in all of a list, over as many messages as they take."""
_STATES: Final[Mapping[pb.TaskState, TaskState]] = {number: state for state, number in STATES.items()}
_EVERYTHING: Final = TaskQuery()


def filter_of(asked: pb.TaskFilter, at: str) -> TaskQuery:
    """The filter. ``at``: the field of the request that holds it, for errors. InvalidTask."""
    state = None
    if asked.state != pb.TASK_STATE_UNSPECIFIED:
        state = _STATES.get(asked.state)
        if state is None:
            known = ", ".join(f"{number} ({pb.TaskState.Name(number)})" for number in STATES.values())
            raise InvalidTask(f"{at}.state", f"{at}.state {asked.state} is not a state to look for; there are {known}")
    return TaskQuery(
        state=state,
        queue=queue_of(f"{at}.queue", asked.queue) if asked.queue else None,
        type=type_of(f"{at}.type", asked.type) if asked.HasField("type") else None,
        name=function_of(f"{at}.function", asked.function) if asked.function else None,
        labels=labels_of(dict(asked.labels), f"{at}.labels"),
        group=group_of(f"{at}.group", asked.group) if asked.group else "",
        due_from_ms=moment_ms(f"{at}.due_from_ms", asked.due_from_ms) if asked.due_from_ms else 0,
        due_to_ms=moment_ms(f"{at}.due_to_ms", asked.due_to_ms) if asked.due_to_ms else _EVERYTHING.due_to_ms,
    )


def listing(asked: pb.ListRequest) -> tuple[TaskQuery, str, int]:
    """Filter, cursor and how many in all. InvalidTask."""
    if len(asked.cursor) > MAX_CURSOR:
        raise InvalidTask("cursor", "cursor is too long; pass on the one that the last page gave, or leave it out")
    return filter_of(asked.filter, "filter"), asked.cursor, asked.limit or DEFAULT_LIST


def history(asked: pb.HistoryRequest) -> tuple[HistoryQuery, str, int]:
    """Which ends, cursor and how many. InvalidTask."""
    state = None
    if asked.state != pb.TASK_STATE_UNSPECIFIED:
        state = _STATES.get(asked.state)
        if state not in ENDED:
            raise InvalidTask("state", f"state {asked.state} is not that of an ended task; use 4, 5 or 6")
    if len(asked.cursor) > MAX_CURSOR:
        raise InvalidTask("cursor", "cursor is too long; pass on the one that the last page gave, or leave it out")
    if asked.limit > MAX_PAGE:
        raise InvalidTask("limit", f"limit {asked.limit} is not in range; give a number from 1 to {MAX_PAGE}")
    wanted = HistoryQuery(
        state=state,
        queue=queue_of("queue", asked.queue) if asked.queue else None,
        type=type_of("type", asked.type) if asked.HasField("type") else None,
        name=asked.function or None,
        from_ms=moment_ms("from_ms", asked.from_ms) if asked.from_ms else 0,
        to_ms=moment_ms("to_ms", asked.to_ms) if asked.to_ms else 10**15,
    )
    return wanted, asked.cursor, asked.limit or DEFAULT_PAGE


def forecast(asked: pb.ForecastRequest, now_ms: int) -> tuple[int, int, int]:
    """from, to and step in ms. InvalidTask."""
    start = moment_ms("from_ms", asked.from_ms) if asked.from_ms else now_ms
    end = moment_ms("to_ms", asked.to_ms) if asked.to_ms else start + DAY_MS
    return start, end, duration_ms("step_ms", asked.step_ms) if asked.step_ms else HOUR_MS


def selected(asked: pb.Selection) -> TaskQuery:
    """Which tasks a bulk change is for. InvalidTask, also for a filter that holds nothing where not all are meant."""
    found = filter_of(asked.filter, "selection.filter")
    empty = found == _EVERYTHING
    if empty and not asked.all:
        raise InvalidTask(
            "selection.filter",
            "selection.filter is empty; say which tasks are meant, or set selection.all to mean every one",
        )
    if asked.all and not empty:
        raise InvalidTask("selection.all", "selection.all and selection.filter are both given; give one of them")
    return found
