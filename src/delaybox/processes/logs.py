"""The log of every process (nodes, their children, workers): one line for each record on stderr, text or JSON, UTC.

A record about a task (with ``task_id``, ``task_name``, ``task_attempt``) names the task. It may have a ``traceparent``,
of the span that it belongs to, for a collector.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from delaybox.core import texts
from delaybox.core.delivery import Delivery

Fields = dict[str, str | int | float | bool | None]

OF_TASK: Final = ("task_id", "task_name", "task_attempt")
MOST_EXTRAS: Final = 32
_STANDARD: Final = frozenset(
    {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName", "traceparent", *OF_TASK}
)
_OF_EVENTS: Final = frozenset({"event", "timestamp", "level", "logger", "exc_info", "stack_info"})
FORMATS: Final = ("text", "json")
LEVELS: Final = ("debug", "info", "warning", "error")


def set_up(log_format: str, *filters: logging.Filter, level: str = "info") -> None:
    """Sends what this process logs, ``level`` (one of LEVELS) and above, to stderr in the form ``text`` or ``json``,
    past ``filters``."""
    handler = logging.StreamHandler()
    for one in filters:
        handler.addFilter(one)
    handler.setFormatter(formatter(log_format))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def formatter(log_format: str) -> logging.Formatter:
    """The formatter for ``text`` or ``json``."""
    return JsonLines() if log_format == "json" else TextLines()


def _moment(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def shown(logger: str, message: str) -> str:
    """The text of a message. One of DelayBox's is made one line, whatever a caller's part in it holds; others may have
    more."""
    return texts.line(message) if logger.partition(".")[0] == "delaybox" else texts.block(message)


class TextLines(logging.Formatter):
    """Text: a record is a line; further lines of others' messages are indented, so that none looks like a record."""

    def format(self, record: logging.LogRecord) -> str:
        text = shown(record.name, record.getMessage())
        for more in (exception_of(self, record), self.formatStack(record.stack_info) if record.stack_info else ""):
            text += texts.block(f"\n{more}") if more else ""
        task = ""
        if getattr(record, "task_id", ""):
            function = f" function={record.task_name}" if record.task_name else ""  # type: ignore[attr-defined]
            task = f" task={record.task_id}{function} attempt={record.task_attempt}"  # type: ignore[attr-defined]
        first, line, rest = text.partition("\n")
        level = record.levelname.lower()
        return f"{_moment(record)} [{level:<9}] {first} [{record.name}] process={record.process}{task}{line}{rest}"


class JsonLines(logging.Formatter):
    """JSON: a record is an object on one line."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "event": record.getMessage(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "timestamp": _moment(record),
            "process": record.process,
        }
        if getattr(record, "task_id", ""):
            line |= {"task": record.task_id, "function": record.task_name, "attempt": record.task_attempt}  # type: ignore[attr-defined]
        if exception := exception_of(self, record):
            line["exception"] = exception
        return json.dumps(line)


def of_delivery(delivery: Delivery) -> dict[str, Any]:
    """For ``extra``: the record is about this delivery of a task."""
    found = dict(zip(OF_TASK, (delivery.id, delivery.name, delivery.attempt + 1), strict=True))
    return found | {"traceparent": delivery.trace.decode()}


def extras_of(record: logging.LogRecord) -> Fields:
    """What the caller gave a record beside its message (``extra``): the first few that are plain values."""
    return _plain(vars(record), _STANDARD)


def message_of(record: logging.LogRecord) -> tuple[str, Fields]:
    """The text of a record, and what else it says, as far as it is plain values. structlog may leave it to handlers to
    make a text of an event's fields."""
    event = record.msg
    if not isinstance(event, dict) or record.args:
        return record.getMessage(), {}
    return str(event.get("event", "")), _plain(event, _OF_EVENTS)


def error_of(record: logging.LogRecord) -> BaseException | None:
    """The exception that a record is about."""
    if record.exc_info:
        return record.exc_info[1]
    given = record.msg.get("exc_info") if isinstance(record.msg, dict) else None
    if given is True:
        return sys.exc_info()[1]
    return given if isinstance(given, BaseException) else None


def _plain(given: Mapping[Any, Any], without: frozenset[str]) -> Fields:
    found: Fields = {}
    for name, value in given.items():
        if name in without or str(name).startswith("_"):
            continue
        if isinstance(value, str | int | float | bool | None):
            found[str(name)] = value
            if len(found) == MOST_EXTRAS:
                break
    return found


def exception_of(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    """The traceback of a record as text; "" when it has none."""
    if record.exc_text:
        return record.exc_text
    return formatter.formatException(record.exc_info) if record.exc_info else ""
