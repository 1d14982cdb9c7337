"""How a worker's processes log: a line a record on stderr, text or JSON, UTC, with the task that the record is about.

The form is that of a node's log. What cpu functions log in their processes is sent to the worker's process, and handled
by the loggers that are set up there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, Final

from google.protobuf.message import DecodeError

from delaybox.core.errors import ConfigError
from delaybox.core.texts import head, tail
from delaybox.otel.environment import active_span
from delaybox.processes import logs
from delaybox.processes.logs import OF_TASK, exception_of, extras_of
from delaybox.wire.trace import PARENT, trace_in
from delaybox.worker.assigned import AssignedTask
from delaybox.worker.context import running

_PASSED: Final = ("name", "levelno", "levelname", "created", "process", "pathname", "lineno", "funcName")
_MOST_BYTES: Final = 64 << 10
"""Most characters of one message, and of one traceback, that a cpu function's process passes on."""
_MOST_LOGGERS: Final = 500


class TaskFilter(logging.Filter):
    """Puts ``task_id``, ``task_name`` and ``task_attempt`` on every record: of the task for which the code that logs
    runs, "" and 0 outside of one. For handlers of your own; those of ``delaybox worker`` have it.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Drops nothing."""
        if not hasattr(record, "task_id"):
            found = running.get(None)
            about = ("", "", 0) if found is None else (found.context.id, found.context.name, found.context.attempt + 1)
            for name, value in zip(OF_TASK, about, strict=True):
                setattr(record, name, value)
        return True


class TraceFilter(TaskFilter):
    """As `TaskFilter`; records have the ``traceparent`` of that task's firing as well, else of its scheduling."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Drops nothing."""
        if not hasattr(record, "traceparent"):
            record.traceparent = _of_running()
        return super().filter(record)


def add_task_fields(logger: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A processor of structlog: adds ``task``, ``function`` and ``attempt`` to what is logged while a task runs, unless
    it has fields of these names. Put it before the renderer."""
    found = running.get(None)
    if found is not None:
        context = found.context
        event.setdefault("task", context.id)
        event.setdefault("function", context.name)
        event.setdefault("attempt", context.attempt + 1)
    return event


def set_up(log_format: str, level: str = "info") -> None:
    """Lines on stderr; JSON objects with ``json``. ``level``: one of `processes.logs.LEVELS`. ConfigError."""
    for option, value, known in (("--log-format", log_format, logs.FORMATS), ("--log-level", level, logs.LEVELS)):
        if value not in known:
            raise ConfigError(f"{option} {value!r} is not known; use {', '.join(known[:-1])} or {known[-1]}")
    logs.set_up(log_format, TaskFilter(), level=level)


def about(
    logger: logging.Logger, level: int, task: AssignedTask, words: str, *args: object, traceback: str = ""
) -> None:
    """Logs for a task from anywhere."""
    if not logger.isEnabledFor(level):
        return
    record = logger.makeRecord(logger.name, level, __file__, 0, words, args, None, "about")
    record.task_id, record.task_name, record.task_attempt = task.id, task.name, task.attempt + 1
    record.traceparent = task.traceparent or _of_scheduling(task)
    # Set as a formatter does that has formatted an exception, because every formatter shows it then.
    record.exc_text = traceback.rstrip() or None
    logger.handle(record)


def _of_scheduling(task: AssignedTask) -> str:
    """The ``traceparent`` among its headers; "" for none, and for a body that cannot be read: that is what is being
    logged, and its report must be sent all the same."""
    try:
        header = task.task.header
    except DecodeError:
        return ""
    return trace_in(header).get(PARENT, b"").decode()


# From a cpu function's process to the worker's


class Forward(logging.Handler):
    """A handler that passes records on: ``send`` gets the data from which `again` makes a record."""

    def __init__(self, send: Callable[[Mapping[str, Any]], None]) -> None:
        super().__init__()
        self.addFilter(TaskFilter())
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        """Formats the message. Users' code may run here, in the arguments of the message."""
        try:
            sent = {
                name: getattr(record, name)
                for name in (
                    "name",
                    "levelno",
                    "levelname",
                    "created",
                    "process",
                    "pathname",
                    "lineno",
                    "funcName",
                    *OF_TASK,
                )
            }
            sent["msg"] = head(record.getMessage(), _MOST_BYTES)
            sent["exc_text"] = tail(exception_of(logging.Formatter(), record), _MOST_BYTES) or None
            sent["traceparent"] = _traceparent()
            extras = {
                name: head(value, _MOST_BYTES) if isinstance(value, str) else value
                for name, value in extras_of(record).items()
            }
            self._send(sent | extras)
        except Exception:  # noqa: BLE001 - as every handler does: a record that cannot be shown is not the task's fault
            self.handleError(record)


def _traceparent() -> str:
    """Of the span that is active, else of the task that runs; "" for none."""
    return active_span() or _of_running()


def _of_running() -> str:
    found = running.get(None)
    return "" if found is None else found.context.trace.get(PARENT, "")


def again(sent: Mapping[str, Any]) -> None:
    """A record of another process, into this one's log."""
    record = logging.makeLogRecord(dict(sent))
    logger = logging.getLogger(record.name)
    if logger.isEnabledFor(record.levelno):
        logger.handle(record)


def levels() -> dict[str, int]:
    """The levels that are set in this process, by logger; "" is the root."""
    found = {"": logging.getLogger().getEffectiveLevel()}
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger) and logger.level and len(found) < _MOST_LOGGERS:
            found[name] = logger.level
    return found


def set_levels(wanted: Mapping[str, int]) -> None:
    """Sets levels that `levels` returned."""
    for name, level in wanted.items():
        logging.getLogger(name).setLevel(level)
