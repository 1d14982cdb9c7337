"""A span around each call of a function. Loaded where a worker's process traces (see `begin`)."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Coroutine
from typing import Any, Final

from opentelemetry import context as variables
from opentelemetry import trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanKind, Status, StatusCode, set_span_in_context

from delaybox import __version__
from delaybox.otel import tracing
from delaybox.otel.spans import Spans, described, remote
from delaybox.wire.trace import BAGGAGE, PARENT, trace_in
from delaybox.worker.context import Context
from delaybox.worker.failures import RetryLater

_BAGGAGE: Final = W3CBaggagePropagator()


def begin() -> None:
    """Traces with the tracer that the program has set up; without one nothing is traced."""
    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider | trace.NoOpTracerProvider):
        return
    tracing.turn(Spans(trace.get_tracer("delaybox", __version__)))


def started(spans: Spans, context: Context, call: Callable[[], Any]) -> Any:
    """What ``call`` returns; code that it runs, or that a coroutine runs that it returns, has the span of the call.

    A node that traces has a span of the firing, to which this one belongs. Otherwise it begins a trace of its own,
    linked to the scheduling, which may be days ago.
    """
    task = context.facts
    header = trace_in(task.headers)
    scheduling, firing = remote(header), remote(trace_in({PARENT: task.firing.encode()}))
    parent = None if firing is None else set_span_in_context(NonRecordingSpan(firing))
    span = spans.tracer.start_span(
        f"process {task.name}",
        context=parent or variables.Context(),
        kind=SpanKind.CONSUMER,
        attributes=described(
            "process",
            "run",
            task.queue,
            {
                "messaging.message.id": task.id,
                "delaybox.task.name": task.name,
                "delaybox.task.attempt": task.attempt + 1,
                "process.pid": os.getpid(),
            },
        ),
        links=() if scheduling is None else [Link(scheduling)],
    )
    inside = set_span_in_context(span, parent)
    if baggage := header.get(BAGGAGE):
        inside = _BAGGAGE.extract({BAGGAGE: [baggage.decode()]}, inside)
    token = variables.attach(inside)
    try:
        value = call()
    except BaseException as error:
        _failed(span, error)
        raise
    finally:
        variables.detach(token)
    if inspect.iscoroutine(value):
        return _awaited(value, span, inside)
    span.end()
    return value


async def _awaited(coroutine: Coroutine[Any, Any, Any], span: Span, inside: variables.Context) -> Any:
    # The attempt's context variables are its own, and end with it.
    variables.attach(inside)
    try:
        value = await coroutine
    except BaseException as error:
        _failed(span, error)
        raise
    span.end()
    return value


def _failed(span: Span, error: BaseException) -> None:
    if isinstance(error, RetryLater):
        span.set_attribute("delaybox.outcome", "snoozed")
    else:
        span.record_exception(error)
        span.set_attribute("error.type", type(error).__name__)
        span.set_status(Status(StatusCode.ERROR))
    span.end()
