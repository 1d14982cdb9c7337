"""The query strings of ``/v1``, and the filters of changes of many -> domain. What is unknown is refused by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import parse_qsl

from delaybox.core.durations import duration_ms
from delaybox.core.errors import InvalidTask
from delaybox.core.limits import DEFAULT_PAGE, DEFAULT_REPLAY, MAX_CURSOR, MAX_PAGE, MAX_REPLAY
from delaybox.core.query import TaskQuery
from delaybox.core.scaling import ScalingQuery
from delaybox.core.task import TaskState
from delaybox.core.words import show, unknown
from delaybox.wire import scaling
from delaybox.wire.json import bulk_types, types
from delaybox.wire.json.moments import moment_ms
from delaybox.wire.json.reading import JsonReader
from delaybox.wire.json.tasks import (
    check_key,
    check_label,
    function_of,
    group_of,
    labels_of,
    queue_of,
    type_of,
    when_of,
    whole,
)

DAY_MS: Final = 86_400_000
HOUR_MS: Final = 3_600_000

_MAX_FIELDS = 60
_STATES: Final = {s.value: s for s in TaskState}
_DEAD = ("queue", "type", "function", "label", "group", "due_from", "due_to", "cursor", "limit")
_TASKS = ("state", *_DEAD)
_FORECAST = ("from", "to", "step")
_KEY = ("key",)
_KEY_MEANT = {"idempotency_key": "key"}
_CANCEL = ("free_key", "running")
_CANCEL_MEANT = {"free": "free_key", "freekey": "free_key", "stop": "running"}
_GET = ("wait",)
_GET_MEANT = {"timeout": "wait"}
MAX_WAIT_MS: Final = 60_000
"""For how long a GET of a task may wait for its end."""
_BOOLS: Final = {"true": True, "false": False}
_MEANT = {
    "status": "state",
    "labels": "label",
    "offset": "cursor",
    "page": "cursor",
    "name": "function",
    "from": "due_from",
    "to": "due_to",
}


@dataclass(frozen=True, slots=True)
class Listing:
    """Which part of a list is asked for."""

    filter: TaskQuery
    cursor: str
    limit: int


def parse_tasks(query: bytes) -> Listing:
    """The query of ``GET /v1/tasks``. InvalidTask."""
    return _listing(query, _TASKS)


def parse_dead(query: bytes) -> Listing:
    """The query of ``GET /v1/dead``. InvalidTask."""
    return _listing(query, _DEAD)


def parse_forecast(query: bytes, now_ms: int) -> tuple[int, int, int]:
    """from, to and step (ms) of ``GET /v1/forecast``: a day from now in hours unless given. InvalidTask."""
    given, _ = fields_of(query, _FORECAST, {})
    start = moment_ms("from", given["from"]) if "from" in given else now_ms
    end = moment_ms("to", given["to"]) if "to" in given else start + DAY_MS
    return start, end, duration_ms("step", given["step"], least=1) if "step" in given else HOUR_MS


def parse_scaling(query: bytes) -> ScalingQuery:
    """The query of ``GET /v1/scaling``. InvalidTask."""
    given, _ = fields_of(query, scaling.FIELDS, {})
    return scaling.query_of(given)


def parse_cancel(query: bytes) -> tuple[bool, bool]:
    """The query of ``DELETE /v1/tasks/{id}``: free_key and running. InvalidTask."""
    given, _ = fields_of(query, _CANCEL, _CANCEL_MEANT)
    return _flag(given, "free_key"), _flag(given, "running")


def parse_get(query: bytes) -> int:
    """The query of ``GET /v1/tasks/{id}``: for how long (ms) to wait for its end. InvalidTask."""
    return _wait_ms(fields_of(query, _GET, _GET_MEANT)[0])


def _wait_ms(given: Mapping[str, str]) -> int:
    if "wait" not in given:
        return 0
    wait = duration_ms("wait", given["wait"], least=0)
    if wait > MAX_WAIT_MS:
        raise InvalidTask(
            "wait", f"wait {show(given['wait'])} is more than {MAX_WAIT_MS // 1000} s; give less, and ask again"
        )
    return wait


def parse_key(query: bytes) -> str:
    """The query of calls that name their task by its idempotency key: that key. InvalidTask."""
    return _key(fields_of(query, _KEY, _KEY_MEANT)[0])


def parse_get_by_key(query: bytes) -> tuple[str, int]:
    """The query of ``GET /v1/tasks/by-key``: the key, and for how long (ms) to wait for its end. InvalidTask."""
    given, _ = fields_of(query, _KEY + _GET, _KEY_MEANT | _GET_MEANT)
    return _key(given), _wait_ms(given)


def parse_cancel_by_key(query: bytes) -> tuple[str, bool, bool]:
    """The query of ``DELETE /v1/tasks/by-key``: the key, free_key and running. InvalidTask."""
    given, _ = fields_of(query, _KEY + _CANCEL, _KEY_MEANT | _CANCEL_MEANT)
    return _key(given), _flag(given, "free_key"), _flag(given, "running")


def _key(given: Mapping[str, str]) -> str:
    if "key" not in given:
        raise InvalidTask("key", "key is missing; give the idempotency key as ?key=...")
    check_key("key", given["key"])
    return given["key"]


def _flag(given: Mapping[str, str], name: str) -> bool:
    text = given.get(name, "false")
    if text not in _BOOLS:
        raise InvalidTask(name, f"{name} {show(text)} is neither true nor false; give one of them")
    return _BOOLS[text]


def parse_none(query: bytes) -> None:
    """The query of a call that takes none. InvalidTask."""
    fields_of(query, (), {})


_read_cancel_many = JsonReader(bulk_types.CancelManyRequest, where="a field of a selection of tasks")
_read_reschedule_many = JsonReader(bulk_types.RescheduleManyRequest, where="a field of a selection of tasks")
_read_selection = JsonReader(bulk_types.SelectionRequest, where="a field of a selection of tasks")
_read_replay = JsonReader(bulk_types.ReplayRequest, where="a field of a replay")
_read_discard = JsonReader(bulk_types.DiscardRequest, where="a field of a selection of dead letters")


@dataclass(frozen=True, slots=True)
class Chosen:
    """Which tasks are to be changed, how many at most (0: all), and whether only to count."""

    wanted: TaskQuery
    limit: int
    dry_run: bool


def parse_cancel_many(body: bytes) -> tuple[Chosen, bool]:
    """The body of ``POST /v1/tasks/cancel``; and whether keys are freed. InvalidTask."""
    asked = _read_cancel_many(body)
    _read_cancel_many.check_names(body, asked)
    return _chosen(asked), bool(asked.free_keys)


def parse_reschedule_many(body: bytes) -> tuple[Chosen, int | None, int | None]:
    """The body of ``POST /v1/tasks/reschedule``; with due ms or delay ms. InvalidTask."""
    asked = _read_reschedule_many(body)
    _read_reschedule_many.check_names(body, asked)
    due_ms, delay_ms, _ = when_of(asked, _read_reschedule_many, body)
    if due_ms is None and delay_ms is None:
        raise InvalidTask("at", "neither at nor delay is given; say when the tasks are to be due")
    return _chosen(asked), due_ms, delay_ms


def parse_run_many(body: bytes) -> Chosen:
    """The body of ``POST /v1/tasks/run``. InvalidTask."""
    asked = _read_selection(body)
    _read_selection.check_names(body, asked)
    return _chosen(asked)


def parse_replay(body: bytes) -> Chosen:
    """The body of ``POST /v1/dead/replay``. InvalidTask."""
    asked = _read_replay(body)
    _read_replay.check_names(body, asked)
    return _dead(asked)


def parse_discard(body: bytes) -> Chosen:
    """The body of ``POST /v1/dead/discard``. InvalidTask, also where it names nothing: what it deletes is gone."""
    asked = _read_discard(body)
    _read_discard.check_names(body, asked)
    chosen = _dead(asked)
    if chosen.wanted == TaskQuery() and not asked.all:
        raise InvalidTask(
            "body", "body names no dead letters; give queue, labels, group and so on, or all true for every one"
        )
    return chosen


def _dead(asked: bulk_types.DeadRequest) -> Chosen:
    limit = DEFAULT_REPLAY if asked.limit is None else whole("limit", asked.limit)
    if not 1 <= limit <= MAX_REPLAY:
        raise InvalidTask("limit", f"limit {limit} is not in range; give a number from 1 to {MAX_REPLAY}")
    found = _filter(asked)
    if asked.all and found != TaskQuery():
        raise InvalidTask("all", "all is given with a filter; give one of them")
    return Chosen(found, limit, bool(asked.dry_run))


def _chosen(asked: bulk_types.SelectionRequest) -> Chosen:
    found = _filter(asked)
    if asked.state is not None:
        if asked.state not in bulk_types.PENDING_STATES:
            raise InvalidTask("state", f"state {show(asked.state)} is not one of pending tasks; use scheduled or ready")
        found = replace(found, state=_STATES[asked.state])
    empty = found == TaskQuery()
    if empty and not asked.all:
        raise InvalidTask("body", "body names no tasks; give queue, labels, group and so on, or all true for every one")
    if asked.all and not empty:
        raise InvalidTask("all", "all is given with a filter; give one of them")
    limit = 0
    if asked.limit is not None:
        limit = whole("limit", asked.limit)
        if not 1 <= limit <= bulk_types.MAX_CHANGED:
            raise InvalidTask(
                "limit", f"limit {limit} is not from 1 to {bulk_types.MAX_CHANGED}; leave it out for no limit"
            )
    return Chosen(found, limit, bool(asked.dry_run))


def _filter(asked: bulk_types.SelectionRequest | bulk_types.DeadRequest) -> TaskQuery:
    found = TaskQuery(
        queue=None if asked.queue is None else queue_of("queue", asked.queue),
        type=None if asked.type is None else type_of("type", asked.type),
        name=None if asked.function is None else function_of("function", asked.function),
        labels=labels_of(asked.labels or {}),
        group="" if asked.group is None else group_of("group", asked.group),
    )
    if asked.due_from is not None:
        found = replace(found, due_from_ms=_moment("due_from", asked.due_from))
    if asked.due_to is not None:
        found = replace(found, due_to_ms=_moment("due_to", asked.due_to))
    return found


def _moment(field: str, value: str | float) -> int:
    return moment_ms(field, value if isinstance(value, str) else whole(field, value))


def _listing(query: bytes, known: Sequence[str]) -> Listing:
    if not query:
        return _ALL
    given, labels = fields_of(query, known, _MEANT)
    state = None
    if "state" in given:
        state = _STATES.get(given["state"])
        if state is None:
            raise InvalidTask("state", "state " + unknown(given["state"], types.STATES, {}, where="a state"))
    cursor = given.get("cursor", "")
    if len(cursor) > MAX_CURSOR:
        raise InvalidTask("cursor", "cursor is too long; pass on the one that the last page gave, or leave it out")
    everything = _ALL.filter
    return Listing(
        TaskQuery(
            state=state,
            queue=queue_of("queue", given["queue"]) if "queue" in given else None,
            type=type_of("type", given["type"]) if "type" in given else None,
            name=function_of("function", given["function"]) if "function" in given else None,
            labels=labels,
            group=group_of("group", given["group"]) if "group" in given else "",
            due_from_ms=moment_ms("due_from", given["due_from"]) if "due_from" in given else everything.due_from_ms,
            due_to_ms=moment_ms("due_to", given["due_to"]) if "due_to" in given else everything.due_to_ms,
        ),
        cursor,
        limit_of(given["limit"]) if "limit" in given else DEFAULT_PAGE,
    )


_ALL = Listing(TaskQuery(), "", DEFAULT_PAGE)


def fields_of(query: bytes, known: Sequence[str], meant: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Parameters by name, and labels."""
    given: dict[str, str] = {}
    labels: dict[str, str] = {}
    if not query:
        return given, labels
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, max_num_fields=_MAX_FIELDS, errors="strict")
    except UnicodeDecodeError:
        raise InvalidTask("query", "the query is not percent-encoded UTF-8; encode it") from None
    except ValueError:
        raise InvalidTask("query", f"the query has more than {_MAX_FIELDS} fields; send fewer") from None
    for name, value in pairs:
        if name not in known:
            if not known:
                raise InvalidTask(name[:40], f"{show(name)} is not a parameter here; this call takes none")
            there = {spelling: name for spelling, name in meant.items() if name in known}
            raise InvalidTask(name[:40], unknown(name, known, there, where="a parameter here"))
        if name == "label":
            key, equals, text = value.partition("=")
            if not equals:
                raise InvalidTask("label", f"label {show(value)} has no value; write label=name=value")
            check_label("label", key, text)
            if labels.setdefault(key, text) != text:
                raise InvalidTask("label", f"label {show(key)} is asked for with two values; no task has both")
        elif name in given:
            raise InvalidTask(name, f"{name} is given more than once; send it once")
        else:
            given[name] = value
    return given, dict(labels_of(labels))


def limit_of(text: str) -> int:
    limit = int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else 0
    if not 1 <= limit <= MAX_PAGE:
        raise InvalidTask("limit", f"limit {show(text)} is not in range; give a number from 1 to {MAX_PAGE}")
    return limit
