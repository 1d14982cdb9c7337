"""What waits for a collector: bounded, never waited for, and counted where it is dropped."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler
from opentelemetry.trace import Link

from delaybox import metrics
from delaybox.config.otel import OtelSection
from delaybox.core.delivery import DONE, Delivery, Report
from delaybox.core.errors import ConfigError
from delaybox.core.task import NewTask
from delaybox.engine.traced import PlacedSpans, traced
from delaybox.otel import environment, tracing
from delaybox.otel.export import FollowLinks, begin
from delaybox.otel.export_metrics import interval_s
from delaybox.otel.queue import AT_ONCE, SendQueue
from delaybox.otel.spans import Spans, parent_of, remote
from delaybox.store.record import draft
from delaybox.store.replies import Claimed
from tests.waiting import PATIENCE_S, until

TRACE = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0"


def test_a_queue_is_bounded_and_nobody_waits_for_it() -> None:
    stuck, go_on = threading.Event(), threading.Event()
    dropped: list[int] = []
    sent: list[int] = []

    def send(batch: Sequence[int]) -> bool:
        stuck.set()
        go_on.wait(60)
        sent.extend(batch)
        return True

    queue = SendQueue("test", send, dropped.append, most=2 * AT_ONCE)
    for n in range(AT_ONCE):
        queue.put(n)
    assert stuck.wait(60)
    for n in range(3 * AT_ONCE):
        queue.put(AT_ONCE + n)
    assert sum(dropped) == AT_ONCE, "two batches wait, the third is dropped"
    go_on.set()
    queue.end(60)
    assert sent == list(range(3 * AT_ONCE)), "what waited is sent at the end, in order"


def test_of_figures_the_newest_wait() -> None:
    sent: list[int] = []
    dropped: list[int] = []
    first, go_on = threading.Event(), threading.Event()

    def send(batch: Sequence[int]) -> bool:
        sent.extend(batch)
        first.set()
        return go_on.wait(PATIENCE_S)

    queue: SendQueue[int] = SendQueue("x", send, dropped.append, most=1, pause_s=0.01, keep_newest=True)
    queue.put(1)
    assert first.wait(10)
    for n in (2, 3, 4):
        queue.put(n)
    go_on.set()
    queue.end(10)
    assert (sent, dropped) == ([1, 4], [1, 1])


def test_what_is_refused_is_counted_and_the_rest_is_sent() -> None:
    dropped: list[int] = []
    sent: list[str] = []

    def send(batch: Sequence[str]) -> bool:
        if "bad" in batch:
            raise OSError("no route")
        sent.extend(batch)
        return "worse" not in batch

    queue = SendQueue("test", send, dropped.append, pause_s=0.01)
    for word in ("bad", "worse", "good"):
        queue.put(word)
        until(lambda: not queue._waiting)
    queue.end(60)
    assert sum(dropped) == 2 and sent == ["worse", "good"]


@pytest.mark.parametrize("otherwise", [ALWAYS_ON, ALWAYS_OFF])
def test_a_firing_is_kept_if_its_scheduling_was(otherwise: Sampler) -> None:
    provider = TracerProvider(sampler=FollowLinks(otherwise), shutdown_on_exit=False)
    tracer = provider.get_tracer("test")
    for flag, kept in ((b"1", True), (b"0", False)):
        context = remote({"traceparent": TRACE + flag})
        assert context is not None
        assert tracer.start_span("fired", links=[Link(context)]).is_recording() is kept
    alone = tracer.start_span("alone")
    assert alone.is_recording() is (otherwise is ALWAYS_ON)
    mine = remote({"traceparent": parent_of(alone)})
    assert mine is not None and mine.span_id == alone.get_span_context().span_id


async def test_a_span_that_cannot_be_made_keeps_no_task_from_its_target() -> None:
    class Broken(trace.NoOpTracer):
        def start_span(self, *_: Any, **__: Any) -> trace.Span:
            raise RuntimeError("no span")

    class Target:
        async def deliver(self, batch: Sequence[Delivery], report: Report) -> None:
            report(batch, DONE)

    one = Delivery(bytes(16), 0, b"lease", 1, 0, 0, 10**12, b"pdefault", False, b"")
    reported: list[Delivery] = []
    await traced(Spans(Broken()))(Target(), [one], lambda deliveries, _: reported.extend(deliveries))
    assert reported == [one] and not one.trace


async def test_messages_past_those_that_may_wait_get_no_span(monkeypatch: pytest.MonkeyPatch) -> None:
    dropped: list[int] = []
    monkeypatch.setattr(metrics, "otel_dropped", lambda signal, n: dropped.append(n))
    made: list[str] = []

    class Kept(SpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            made.append(span.name)

    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(Kept())
    placed = PlacedSpans(Spans(provider.get_tracer("test")))
    record = draft(NewTask(due_ms=1)).record
    named = [one for n in range(PlacedSpans.MOST + 7) for one in (n.to_bytes(16, "big"), record)]
    nothing = Claimed(5, -1, [], [], 0, 0, 0, 0, 0, False, {})
    for some in (named, named[:2], []):
        placed.add(3, replace(nothing, named=some))
    assert dropped == [7, 1] and not made, "nothing is made while the claim goes on"
    await placed.stop()
    assert made == ["claim", *["deliver default"] * PlacedSpans.MOST]


def test_off_unless_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing, named = OtelSection(), OtelSection(endpoint="http://collector:4317")
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://here:4317"}
    assert nothing.collector({}) is None
    assert nothing.collector(variables) == "", "as the environment says"
    assert named.collector(variables) == "http://collector:4317", "the configuration comes first"
    for section in (nothing, named):
        assert section.collector(variables | {"OTEL_TRACES_EXPORTER": "none"}) is None
    assert named.collector(variables | {"OTEL_SDK_DISABLED": "true"}) is None
    monkeypatch.setattr(environment, "installed", lambda protocol: False)
    assert nothing.collector(variables) is None, "a variable that is for others stops nobody"
    with pytest.raises(ConfigError, match=r"delaybox\[otel\]"):
        named.collector({})


def test_metrics_are_off_unless_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing, wanted = OtelSection(), OtelSection(endpoint="http://collector:4317", metrics=True)
    traces = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://here:4317"}
    assert nothing.metrics_to(traces) is None, "a collector for traces need not take metrics"
    assert OtelSection(endpoint="http://collector:4317").metrics_to({}) is None
    assert nothing.metrics_to(traces | {"OTEL_METRICS_EXPORTER": "otlp"}) == ""
    assert nothing.metrics_to({"OTEL_METRICS_EXPORTER": "otlp"}) is None, "no collector is named"
    assert nothing.metrics_to({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://here:4317"}) == ""
    assert wanted.metrics_to(traces) == "http://collector:4317", "the configuration comes first"
    assert OtelSection(metrics=True).metrics_to(traces) == ""
    assert wanted.metrics_to({"OTEL_METRICS_EXPORTER": "none"}) is None
    assert wanted.metrics_to({"OTEL_SDK_DISABLED": "true"}) is None
    with pytest.raises(ConfigError, match=r"set otel\.endpoint"):
        OtelSection(metrics=True).metrics_to({})
    monkeypatch.setattr(environment, "installed", lambda protocol: False)
    assert nothing.metrics_to(traces | {"OTEL_METRICS_EXPORTER": "otlp"}) is None
    with pytest.raises(ConfigError, match=r"delaybox\[otel\]"):
        wanted.metrics_to({})


def test_logs_are_off_unless_they_are_asked_for() -> None:
    traces = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://here:4317"}
    assert OtelSection(endpoint="http://collector:4317").logs_to(traces) is None
    assert OtelSection(endpoint="http://collector:4317", logs=True).logs_to(traces) == "http://collector:4317"
    assert OtelSection().logs_to(traces | {"OTEL_LOGS_EXPORTER": "otlp"}) == ""
    assert OtelSection(logs=True).logs_to(traces | {"OTEL_LOGS_EXPORTER": "none"}) is None
    with pytest.raises(ConfigError, match=r"otel\.logs is true, but no collector is named"):
        OtelSection(logs=True).logs_to({})
    # Of a worker the environment alone decides.
    assert environment.logs_to(traces) is None
    assert environment.logs_to(traces | {"OTEL_LOGS_EXPORTER": "otlp"}) == ""
    assert environment.logs_to({"OTEL_LOGS_EXPORTER": "otlp"}) is None, "no collector is named"
    assert environment.metrics_to(traces) is None
    assert environment.metrics_to(traces | {"OTEL_METRICS_EXPORTER": "otlp"}) == ""
    assert environment.metrics_to(traces | {"OTEL_METRICS_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "true"}) is None


def test_an_interval_that_cannot_be_is_refused_with_the_mend() -> None:
    name = "OTEL_METRIC_EXPORT_INTERVAL"
    assert interval_s({}) == 60 and interval_s({name: "250"}) == 0.25
    for text in ("often", "0", "-1", "nan", "inf"):
        with pytest.raises(ConfigError, match="milliseconds above 0"):
            interval_s({name: text})


def test_other_protocols_are_refused_with_the_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "x")
    with pytest.raises(ConfigError, match="set it to grpc or http/protobuf"):
        begin("http://127.0.0.1:1", {})
    assert tracing.spans is None
    # A worker's environment may be meant for the program that it is part of.
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://here:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}
    assert environment.traces_to(variables) is None


def test_the_protocol_is_as_configured_or_as_the_environment_says() -> None:
    everything, logs = "OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL"
    assert environment.protocol_of({}, "logs") == "grpc"
    assert environment.protocol_of({everything: "http/protobuf"}, "logs") == "http/protobuf"
    assert environment.protocol_of({everything: "http/protobuf", logs: "grpc"}, "logs") == "grpc"
    assert environment.protocol_of({everything: "http/json"}, "traces", "grpc") == "grpc"
    url = "https://collector/otlp"
    assert OtelSection(endpoint=url, logs=True, protocol="http/protobuf").logs_to({}) == url
    with pytest.raises(ConfigError, match="has the path /otlp, which gRPC does not use"):
        OtelSection(endpoint=url, logs=True).logs_to({})


def test_a_collector_that_takes_nothing_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    answers = iter([False, False, True, True])
    queue: SendQueue[int] = SendQueue(
        "spans", lambda _: next(answers), lambda _: None, pause_s=0.01, why=lambda: "full"
    )
    with caplog.at_level("INFO", "delaybox.otel"):
        for n in range(4):
            queue.put(n)
            until(lambda: not queue._waiting)
        queue.end(60)
    first, second = (record.getMessage() for record in caplog.records)
    assert first.startswith("the collector takes no spans") and first.endswith(": full")
    assert second == "the collector takes spans again"
