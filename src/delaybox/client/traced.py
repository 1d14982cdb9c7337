"""The trace of the calling program (OpenTelemetry), which goes along with what is scheduled there.

Nothing of OpenTelemetry is imported before the program has done so: without it there is no trace.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from delaybox.client.models import ScheduleAnswer
from delaybox.client.steps import Steps
from delaybox.wire.gen import scheduler_pb2 as pb
from delaybox.wire.trace import PARENT, trace_in

if TYPE_CHECKING:
    from opentelemetry.trace import Span

_API = "opentelemetry.trace"
_NONE: Mapping[str, bytes] = MappingProxyType({})


def current() -> Mapping[str, bytes]:
    """The headers of a task in the trace of the calling code; empty where no span is active."""
    api = sys.modules.get(_API)
    if api is None or not api.get_current_span().get_span_context().is_valid:
        return _NONE
    return _injected(None)


def sent(task: pb.NewTask, steps: Callable[[pb.NewTask], Steps[ScheduleAnswer]]) -> Steps[ScheduleAnswer]:
    """The steps that store one task, within a span of their own, which goes along with the task."""
    if _API not in sys.modules:
        return steps(task)
    from opentelemetry.trace import SpanKind, get_tracer, set_span_in_context

    from delaybox.otel.spans import described

    queue = task.queue or "default"
    span = get_tracer("delaybox").start_span(
        f"send {queue}", kind=SpanKind.PRODUCER, attributes=described("send", "send", queue, {})
    )
    if not span.get_span_context().is_valid:
        return steps(task)
    return _within(span, steps(with_trace(task, _injected(set_span_in_context(span)))))


def _within(span: Span, steps: Steps[ScheduleAnswer]) -> Steps[ScheduleAnswer]:
    try:
        answer = yield from steps
        span.set_attribute("messaging.message.id", answer.id)
        return answer
    except BaseException as error:
        from delaybox.otel.spans import failed

        failed(span, error)
        raise
    finally:
        span.end()


def _injected(context: Any) -> Mapping[str, bytes]:
    """As the program is set up to pass its context on (OTEL_PROPAGATORS)."""
    from opentelemetry import propagate

    carrier: dict[str, str] = {}
    propagate.inject(carrier, context)
    return trace_in({name: value.encode("latin-1", "replace") for name, value in carrier.items()})


def with_trace(task: pb.NewTask, trace: Mapping[str, bytes]) -> pb.NewTask:
    """The task in that trace, unless it has one of its own. A copy, because the caller may schedule the same object
    again elsewhere."""
    if not trace or PARENT in task.headers:
        return task
    traced = pb.NewTask()
    traced.CopyFrom(task)
    put(traced, trace)
    return traced


def put(task: pb.NewTask, trace: Mapping[str, bytes]) -> None:
    """Adds the trace to a task's headers."""
    for name, value in trace.items():
        task.headers[name] = value
