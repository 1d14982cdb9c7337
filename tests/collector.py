"""A collector of OpenTelemetry: a real OTLP server in the test's process, which keeps what it is sent."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import grpc
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc import (
    MetricsServiceServicer,
    add_MetricsServiceServicer_to_server,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)

from tests.waiting import until


class Seen(NamedTuple):
    """A span that arrived. ``links``: (trace, span) of each; ``service``: what sent it."""

    name: str
    kind: int
    trace: str
    span: str
    parent: str
    links: tuple[tuple[str, str], ...]
    attributes: dict[str, Any]
    ok: bool
    began_ns: int
    ended_ns: int
    service: str

    @property
    def task(self) -> str:
        """The id of its task; "" for none."""
        return str(self.attributes.get("messaging.message.id", ""))


class Pushed(MetricsServiceServicer):
    """What a collector was sent of metrics. ``latest``: each metric by its name, as it was last sent; ``resource``:
    of whoever sent it."""

    def __init__(self) -> None:
        self.latest: dict[str, Any] = {}
        self.resource: dict[str, Any] = {}

    def Export(  # noqa: N802 - the contract's name
        self, request: ExportMetricsServiceRequest, context: grpc.ServicerContext
    ) -> ExportMetricsServiceResponse:
        for resource in request.resource_metrics:
            self.resource = _pairs(resource.resource.attributes)
            self.latest = {metric.name: metric for scope in resource.scope_metrics for metric in scope.metrics}
        return ExportMetricsServiceResponse()

    def points(self, name: str, **labels: str) -> list[Any]:
        """The points of a metric that have these labels."""
        metric = self.latest.get(name)
        points = [] if metric is None else getattr(metric, metric.WhichOneof("data")).data_points
        return [point for point in points if labels.items() <= _pairs(point.attributes).items()]


class Collector(TraceServiceServicer):
    """``port`` 0: a free one."""

    def __init__(self) -> None:
        self.spans: list[Seen] = []
        self._lock = threading.Lock()
        self.metrics = Pushed()
        self.port = 0
        self._server = self._listening()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def Export(  # noqa: N802 - the contract's name
        self, request: ExportTraceServiceRequest, context: grpc.ServicerContext
    ) -> ExportTraceServiceResponse:
        found = []
        for resource in request.resource_spans:
            service = _pairs(resource.resource.attributes).get("service.name", "")
            for span in (one for scope in resource.scope_spans for one in scope.spans):
                links = tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links)
                found.append(
                    Seen(
                        span.name,
                        span.kind,
                        span.trace_id.hex(),
                        span.span_id.hex(),
                        span.parent_span_id.hex(),
                        links,
                        _pairs(span.attributes),
                        span.status.code != span.status.STATUS_CODE_ERROR,
                        span.start_time_unix_nano,
                        span.end_time_unix_nano,
                        service,
                    )
                )
        with self._lock:
            self.spans += found
        return ExportTraceServiceResponse()

    def _listening(self) -> grpc.Server:
        made = grpc.server(ThreadPoolExecutor(2))
        add_TraceServiceServicer_to_server(self, made)  # type: ignore[no-untyped-call]
        add_MetricsServiceServicer_to_server(self.metrics, made)  # type: ignore[no-untyped-call]
        self.port = made.add_insecure_port(f"127.0.0.1:{self.port}")
        return made

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """It cannot be reached meanwhile; then it is there again, at the same port."""
        self.stop()
        try:
            yield
        finally:
            self._server = self._listening()
            self.start()

    def start(self) -> None:
        self._server.start()

    def stop(self) -> None:
        self._server.stop(None).wait()

    def one(self, about: Callable[[Seen], bool]) -> Seen:
        """The span for which that is true, once it has arrived; there is one alone."""
        (found,) = until(lambda: [s for s in list(self.spans) if about(s)], lambda: self.names())
        return found

    def of(self, name: str, task: str) -> Seen:
        """The span of that name of a task."""
        return self.one(lambda span: span.name.startswith(name) and span.task == task)

    def names(self) -> str:
        return "\n".join(f"{s.service}: {s.name} {s.task} {s.trace} {s.parent}" for s in self.spans)


def _pairs(attributes: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in attributes}


@contextlib.contextmanager
def collector() -> Iterator[Collector]:
    """One that runs until the end."""
    started = Collector()
    started.start()
    try:
        yield started
    finally:
        started.stop()
