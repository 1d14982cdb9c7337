"""Sends what a process logs to a collector by OTLP. Loaded by name where it is on."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from opentelemetry import context as variables
from opentelemetry import trace
from opentelemetry._logs import LogRecord, SeverityNumber, get_logger_provider
from opentelemetry.sdk._logs import LoggerProvider, ReadableLogRecord
from opentelemetry.sdk._logs.export import LogRecordExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import NonRecordingSpan, SpanContext, set_span_in_context

from delaybox.core.texts import head, tail
from delaybox.otel import otlp
from delaybox.otel.queue import THREADS, SendQueue
from delaybox.otel.spans import remote
from delaybox.processes.logs import error_of, extras_of, message_of

Value = str | int | float | bool

MOST: Final = 2_048
"""Records that wait; further ones are dropped. Fewer than of spans, because a record may be larger."""
MOST_BYTES: Final = 8 << 10
"""Of a message and of a traceback, each."""
_MOST_VALUE: Final = 256
_AT_ONCE_BYTES: Final = 1 << 20
"""Bytes of one request, about: a collector takes 4 MiB unless it is set up otherwise."""
_INT64: Final = range(-(1 << 63), 1 << 63)
_OF_OTHERS: Final = "opentelemetry."


class _Line(NamedTuple):
    """A record, as much of it as is sent."""

    logger: str
    level: int
    word: str
    at_ns: int
    message: str
    attributes: dict[str, Value]
    trace: SpanContext | None
    size: int


class LogSender(logging.Handler):
    """A handler whose records go to a collector: bounded, and dropped rather than waited for.

    A record may have ``task_id``, ``task_name``, ``task_attempt`` and ``traceparent`` (see `processes.logs`).
    """

    def __init__(self, endpoint: str, facts: Mapping[str, str], *, protocol: str = "") -> None:
        """``endpoint``: of the collector; "": as the environment says; ``protocol``: likewise. ``facts``: attributes
        of this process. ConfigError for a protocol that is not there."""
        super().__init__()
        self._exporter = otlp.exporter("logs", endpoint, protocol)
        self._resource = otlp.resource(facts)
        self._version = facts.get("service.version")
        self._queue: SendQueue[_Line] = SendQueue(
            "logs", self._send, otlp.counter("logs"), most=MOST, why=otlp.complaints.first
        )

    def emit(self, record: logging.LogRecord) -> None:
        """It never waits. What is logged by those that send, or on their threads, is about the sending itself."""
        if record.name.startswith(_OF_OTHERS) or str(record.threadName).startswith(THREADS):
            return
        try:
            self._queue.put(_line(record))
        except Exception:  # noqa: BLE001 - as every handler does: users' code may run in what is logged
            self.handleError(record)

    def end(self) -> None:
        """Sends what waits, as far as a short time allows."""
        self._queue.end(otlp.END_S)

    def _send(self, lines: Sequence[_Line]) -> bool:
        taken = True
        for some in _in_parts(lines):
            taken = self._export(some) and taken
        return taken

    def _export(self, lines: Sequence[_Line]) -> bool:
        now_ns = time.time_ns()
        batch = [ReadableLogRecord(_record(one, now_ns), self._resource, self._scope(one.logger)) for one in lines]
        return self._exporter.export(batch) is LogRecordExportResult.SUCCESS

    def _scope(self, logger: str) -> InstrumentationScope:
        return _scope(logger, self._version if logger.partition(".")[0] == "delaybox" else None)


def begin(endpoint: str, facts: Mapping[str, str], *filters: logging.Filter, protocol: str = "") -> Callable[[], None]:
    """Sends what this process logs from now on, beside what its other handlers do with it; returns what ends it.

    ``filters``: past these. The others as `LogSender`. ConfigError.
    """
    sender = LogSender(endpoint, facts, protocol=protocol)
    for one in filters:
        sender.addFilter(one)
    root = logging.getLogger()
    root.addHandler(sender)

    def end() -> None:
        root.removeHandler(sender)
        sender.end()

    return end


def begin_unless_set_up(facts: Mapping[str, str], *filters: logging.Filter) -> Callable[[], None]:
    """As `begin`, as the environment says, unless this program has set up OpenTelemetry's logs itself."""
    if isinstance(get_logger_provider(), LoggerProvider):
        return lambda: None
    return begin("", facts, *filters)


def _line(record: logging.LogRecord) -> _Line:
    message, fields = message_of(record)
    message = head(message, MOST_BYTES)
    attributes: dict[str, Value] = {"process.pid": record.process or 0, "thread.name": str(record.threadName)}
    if record.lineno:
        attributes |= {
            "code.file.path": record.pathname,
            "code.line.number": record.lineno,
            "code.function.name": str(record.funcName),
        }
    if task := getattr(record, "task_id", ""):
        attributes["messaging.message.id"] = task
        attributes["delaybox.task.attempt"] = getattr(record, "task_attempt", 0)
        if name := getattr(record, "task_name", ""):
            attributes["delaybox.task.name"] = name
    attributes |= _exception(record)
    given = {**fields, **extras_of(record)}
    attributes |= {name: _kept(value) for name, value in given.items() if value is not None}
    size = len(message) + sum(len(value) if isinstance(value, str) else 8 for value in attributes.values())
    return _Line(
        record.name, record.levelno, record.levelname, int(record.created * 1e9), message, attributes, _trace(record),
        size,
    )  # fmt: skip


def _exception(record: logging.LogRecord) -> dict[str, Value]:
    error = error_of(record)
    if error is None:
        return {"exception.stacktrace": tail(record.exc_text, MOST_BYTES)} if record.exc_text else {}
    return {
        "exception.type": type(error).__qualname__,
        "exception.message": head(str(error), MOST_BYTES),
        "exception.stacktrace": tail(record.exc_text or "".join(traceback.format_exception(error)), MOST_BYTES),
    }


def _kept(value: Value) -> Value:
    if isinstance(value, str):
        return head(value, _MOST_VALUE)
    # A number that OTLP has no room for would keep the whole batch from being sent.
    return value if not isinstance(value, int) or value in _INT64 else str(value)[:_MOST_VALUE]


def _trace(record: logging.LogRecord) -> SpanContext | None:
    """The span that the record belongs to: the one that was active, else the one that the record names."""
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        return span
    given: str = getattr(record, "traceparent", "")
    return remote({"traceparent": given.encode()}) if given else None


def _record(line: _Line, now_ns: int) -> LogRecord:
    inside = variables.Context()
    if line.trace is not None:
        inside = set_span_in_context(NonRecordingSpan(line.trace), inside)
    return LogRecord(
        timestamp=line.at_ns,
        observed_timestamp=now_ns,
        context=inside,
        severity_text=line.word,
        severity_number=_severity(line.level),
        body=line.message,
        attributes=line.attributes,
    )


def _severity(level: int) -> SeverityNumber:
    """That of OpenTelemetry's specification: ten of Python's levels are four of these."""
    return SeverityNumber(min(24, max(1, 5 + (level - logging.DEBUG) * 4 // 10)))


def _in_parts(lines: Sequence[_Line]) -> Iterator[Sequence[_Line]]:
    """The lines in requests that a collector takes."""
    part: list[_Line] = []
    size = 0
    for line in lines:
        if part and size + line.size > _AT_ONCE_BYTES:
            yield part
            part, size = [], 0
        part.append(line)
        size += line.size
    yield part


@lru_cache(maxsize=500)
def _scope(logger: str, version: str | None) -> InstrumentationScope:
    return InstrumentationScope(logger, version)
