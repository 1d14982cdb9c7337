"""How DelayBox's spans are named, linked and described (semantic conventions for messaging)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
    TraceState,
    set_span_in_context,
)

from delaybox.core.errors import DelayBoxError

SYSTEM: Final = "delaybox"
MOST_LINKS: Final = 128
"""Of one span; the SDK keeps no more either."""

Attributes = Mapping[str, str | int | float | bool]
Headers = Mapping[str, bytes]


class Spans:
    """Makes spans. What belongs to a task is described by the same names everywhere."""

    def __init__(self, tracer: Tracer) -> None:
        self.tracer = tracer

    @contextmanager
    def scheduling(self, queue: str, attributes: Attributes, trace: Headers) -> Iterator[Span]:
        """A span of the scheduling of one task, within that trace, or a new one where there is none."""
        before = remote(trace)
        span = self.tracer.start_span(
            f"schedule {queue}",
            context=None if before is None else set_span_in_context(NonRecordingSpan(before)),
            kind=SpanKind.PRODUCER,
            attributes=described("send", "schedule", queue, attributes),
        )
        try:
            yield span
        except BaseException as error:
            failed(span, error)
            raise
        finally:
            span.end()

    def scheduled(self, began_ns: int, count: int, refused: int, traces: Iterable[Headers]) -> None:
        """A span of the scheduling of many tasks, which has just ended; linked to the traces that they belong to."""
        links = [Link(found) for found in map(remote, traces) if found is not None]
        one = len(links) == 1
        span = self.tracer.start_span(
            "schedule",
            context=set_span_in_context(NonRecordingSpan(links[0].context)) if one else None,
            kind=SpanKind.PRODUCER,
            attributes={
                "messaging.system": SYSTEM,
                "messaging.operation.type": "send",
                "messaging.operation.name": "schedule",
                "messaging.batch.message_count": count,
                "delaybox.refused": refused,
            },
            links=() if one else links[:MOST_LINKS],
            start_time=began_ns,
        )
        span.end()


def described(kind: str, name: str, queue: str, more: Attributes) -> dict[str, str | int | float | bool]:
    """The attributes of a span. ``kind``: the operation's type by the conventions; ``name``: what it is called here."""
    return {
        "messaging.system": SYSTEM,
        "messaging.destination.name": queue,
        "messaging.operation.type": kind,
        "messaging.operation.name": name,
        **more,
    }


def remote(trace: Headers) -> SpanContext | None:
    """The span that a valid trace names; None where there is none."""
    parent = trace.get("traceparent")
    if not parent:
        return None
    _, trace_id, span_id, flags = parent.decode("ascii").split("-")[:4]
    state = trace.get("tracestate")
    return SpanContext(
        int(trace_id, 16),
        int(span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(int(flags, 16)),
        trace_state=TraceState.from_header([state.decode("ascii")]) if state else None,
    )


def parent_of(span: Span) -> bytes:
    """The ``traceparent`` that names a span."""
    context = span.get_span_context()
    return b"00-%032x-%016x-%02x" % (context.trace_id, context.span_id, context.trace_flags)


def failed(span: Span, error: BaseException) -> None:
    """Notes why it failed. The words of an error may quote what a caller sent, so they stay out."""
    kind = error.code if isinstance(error, DelayBoxError) else type(error).__name__
    span.set_attribute("error.type", kind)
    span.set_status(Status(StatusCode.ERROR))
