"""The filter of a list of tasks, as a form has it -> what the service is asked for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final
from urllib.parse import urlencode

from delaybox.core.errors import InvalidTask
from delaybox.core.history import ENDED, HistoryQuery
from delaybox.core.query import TaskQuery
from delaybox.core.task import TaskState
from delaybox.wire.json.moments import moment_ms
from delaybox.wire.json.tasks import check_label, labels_of, queue_of, type_of

FIELDS: Final = ("state", "queue", "type", "name", "group", "label", "due_from", "due_to", "ended_from", "ended_to")
STATES: Final = ("scheduled", "ready", "running", "failed", "succeeded")
_STATES: Final = {state.value: state for state in TaskState}


def filter_of(form: Mapping[str, str]) -> TaskQuery:
    """The filter. InvalidTask, which names the field."""
    state = None
    if "state" in form:
        state = _STATES.get(form["state"])
        if state is None:
            raise InvalidTask("state", f"state {form['state'][:40]!r} is unknown; choose one of {', '.join(STATES)}")
    everything = TaskQuery()
    return TaskQuery(
        state=state,
        queue=queue_of("queue", form["queue"].strip()) if "queue" in form else None,
        type=type_of("type", form["type"]) if "type" in form else None,
        name=form["name"].strip() if "name" in form else None,
        group=form.get("group", "").strip(),
        labels=labels_of(labels("label", form.get("label", ""))),
        due_from_ms=moment("due_from", form["due_from"]) if "due_from" in form else everything.due_from_ms,
        due_to_ms=moment("due_to", form["due_to"]) if "due_to" in form else everything.due_to_ms,
    )


def ends_of(form: Mapping[str, str]) -> HistoryQuery:
    """The filter of tasks that have ended. InvalidTask."""
    given = filter_of({name: form[name] for name in ("state", "queue", "type", "name") if name in form})
    if given.state is not None and given.state not in ENDED:
        raise InvalidTask("state", f"state {given.state.value} is no end; choose succeeded, failed or cancelled")
    everything = HistoryQuery()
    return HistoryQuery(
        state=given.state,
        queue=given.queue,
        type=given.type,
        name=given.name,
        from_ms=moment("ended_from", form["ended_from"]) if "ended_from" in form else everything.from_ms,
        to_ms=moment("ended_to", form["ended_to"]) if "ended_to" in form else everything.to_ms,
    )


def labels(field: str, text: str) -> dict[str, str]:
    """Labels as people write them: name=value, with commas or lines between them. A comma of a value, and a space at
    its end, has a backslash before it. InvalidTask."""
    found: dict[str, str] = {}
    for part in _parts(text):
        name, equals, value = part.partition("=")
        if not equals:
            raise InvalidTask(
                field, f"{field} {part[:40]!r} has no value; write name=value, and \\, for a comma of a value"
            )
        check_label(field, name, value)
        found[name] = value
    return found


def written(name: str, value: str) -> str:
    """A label as `labels` reads it."""
    return f"{name}={_MEANS_MORE.sub(_WITH_BACKSLASH, value)}"


_MEANS_MORE: Final = re.compile(r"[\\,\r\n]|^\s|\s$")
_WITH_BACKSLASH: Final = r"\\\g<0>"
_PART: Final = re.compile(r"(?:\\.|[^\\,\r\n]|\\$)+", re.DOTALL)
_BEFORE, _AFTER = re.compile(r"^\s+"), re.compile(r"(?<!\\)\s+$")
_ESCAPED: Final = re.compile(r"\\([\\,\s])")


def _parts(text: str) -> Iterator[str]:
    """What stands between commas and lines, without spaces around it and backslashes."""
    for found in _PART.findall(text):
        part = _AFTER.sub("", _BEFORE.sub("", found))
        if part:
            yield _ESCAPED.sub(r"\1", part)


def moment(field: str, text: str) -> int:
    """Unix ms of a moment from a form. Where no script runs, a field for date and time has no zone: it is in UTC.
    InvalidTask."""
    text = text.strip()
    if len(text) == 16 and text[10:11] == "T":
        text += ":00"
    if len(text) == 19 and text[10:11] == "T":
        text += "Z"
    return moment_ms(field, text)


def query_of(form: Mapping[str, str], **more: str) -> str:
    """The filter as a query, to ask for the same again."""
    return urlencode({name: form[name] for name in FIELDS if name in form} | more)


def words(form: Mapping[str, str]) -> list[tuple[str, str]]:
    """The filter for people: (what, value)."""
    names = {"label": "label", "name": "function", "due_from": "due from", "due_to": "due before"}
    return [(names.get(name, name), form[name]) for name in FIELDS if name in form]
