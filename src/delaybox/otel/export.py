"""Sends spans to a collector by OTLP, as OpenTelemetry's environment variables say. Loaded by name where it is on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import Link, SpanKind, TraceState
from opentelemetry.util.types import Attributes

from delaybox.otel import otlp, tracing
from delaybox.otel.queue import SendQueue
from delaybox.otel.spans import Spans


class FollowLinks(Sampler):
    """A firing is kept if the scheduling that it is linked to was; otherwise the configured sampler decides."""

    def __init__(self, otherwise: Sampler) -> None:
        self._otherwise = otherwise

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        before = [link.context for link in links or () if link.context.is_remote]
        if before and not trace.get_current_span(parent_context).get_span_context().is_valid:
            kept = any(context.trace_flags.sampled for context in before)
            return SamplingResult(Decision.RECORD_AND_SAMPLE if kept else Decision.DROP, attributes, trace_state)
        return self._otherwise.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)

    def get_description(self) -> str:
        return f"FollowLinks{{{self._otherwise.get_description()}}}"


class _ToQueue(SpanProcessor):
    """Ended spans wait in a queue, whatever becomes of the collector."""

    def __init__(self, exporter: SpanExporter, dropped: Callable[[int], None]) -> None:
        self._exporter = exporter
        self._queue: SendQueue[ReadableSpan] = SendQueue("spans", self._send, dropped, why=otlp.complaints.first)

    def _send(self, batch: Sequence[ReadableSpan]) -> bool:
        return self._exporter.export(batch) is SpanExportResult.SUCCESS

    def on_end(self, span: ReadableSpan) -> None:
        if span.context is not None and span.context.trace_flags.sampled:
            self._queue.put(span)

    def shutdown(self) -> None:
        self._queue.end(otlp.END_S)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return True


def begin(
    endpoint: str, facts: Mapping[str, str], *, protocol: str = "", everywhere: bool = False
) -> Callable[[], None]:
    """Traces what this process does from now on; returns what ends it.

    ``endpoint``: of the collector; "": as the environment says; ``protocol``: likewise. ``facts``: attributes of this
    process. ``everywhere``: also what other code of this process traces. ConfigError for a protocol that is not there.
    """
    exporter: SpanExporter = otlp.exporter("traces", endpoint, protocol)
    provider = TracerProvider(resource=otlp.resource(facts), shutdown_on_exit=False)
    provider.sampler = FollowLinks(provider.sampler)
    provider.add_span_processor(_ToQueue(exporter, otlp.counter("spans")))
    if everywhere:
        trace.set_tracer_provider(provider)
    tracing.turn(Spans(provider.get_tracer("delaybox", facts.get("service.version"))))

    def end() -> None:
        tracing.turn(None)
        provider.shutdown()

    return end
