"""The log of every process (nodes, their children, workers): one line for each record on stderr, text or JSON, UTC.

A record about a task (with ``task_id``, ``task_name``, ``task_attempt``) names the task.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any, Final

from delaybox.core import texts

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
            task = f" task={record.task_id} function={record.task_name} attempt={record.task_attempt}"  # type: ignore[attr-defined]
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


def exception_of(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    """The traceback of a record as text; "" when it has none."""
    if record.exc_text:
        return record.exc_text
    return formatter.formatException(record.exc_info) if record.exc_info else ""
