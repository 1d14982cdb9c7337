"""A collector of OpenTelemetry: a real OTLP server in the test's process, which keeps what it is sent. It takes OTLP
over gRPC at `Collector.url`, over HTTP at `Collector.http_url`.
"""

from __future__ import annotations

import contextlib
import gzip
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import grpc
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.collector.logs.v1.logs_service_pb2_grpc import (
    LogsServiceServicer,
    add_LogsServiceServicer_to_server,
)
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

from tests.ports import free_port
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


class Logged(NamedTuple):
    """A log record that arrived. ``severity``: its number; ``process``: what kind of process sent it."""

    logger: str
    severity: int
    word: str
    body: str
    trace: str
    span: str
    attributes: dict[str, Any]
    at_ns: int
    service: str
    process: str

    @property
    def task(self) -> str:
        """The id of its task; "" for none."""
        return str(self.attributes.get("messaging.message.id", ""))


class Logs(LogsServiceServicer):
    """What a collector was sent of logs."""

    def __init__(self) -> None:
        self.records: list[Logged] = []

    def Export(  # noqa: N802 - the contract's name
        self, request: ExportLogsServiceRequest, context: grpc.ServicerContext | None = None
    ) -> ExportLogsServiceResponse:
        for resource in request.resource_logs:
            about = _pairs(resource.resource.attributes)
            for scope in resource.scope_logs:
                self.records += [
                    Logged(
                        scope.scope.name,
                        record.severity_number,
                        record.severity_text,
                        record.body.string_value,
                        record.trace_id.hex(),
                        record.span_id.hex(),
                        _pairs(record.attributes),
                        record.time_unix_nano,
                        about.get("service.name", ""),
                        about.get("delaybox.process", ""),
                    )
                    for record in scope.log_records
                ]
        return ExportLogsServiceResponse()

    def wait(self, about: Callable[[Logged], bool]) -> Logged:
        """The first record for which that is true, once it has arrived."""
        return until(lambda: [r for r in list(self.records) if about(r)], self.bodies)[0]

    def bodies(self) -> str:
        return "\n".join(f"{r.process} {r.word} {r.logger}: {r.body}" for r in self.records)


class Pushed(MetricsServiceServicer):
    """What a collector was sent of metrics. ``latest``: each metric by its name, as it was last sent; ``resource``:
    of whoever sent it."""

    def __init__(self) -> None:
        self.latest: dict[str, Any] = {}
        self.resource: dict[str, Any] = {}

    def Export(  # noqa: N802 - the contract's name
        self, request: ExportMetricsServiceRequest, context: grpc.ServicerContext | None = None
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
    """``port``: its own, also while it is away."""

    def __init__(self) -> None:
        self.spans: list[Seen] = []
        self._lock = threading.Lock()
        self.metrics = Pushed()
        self.logs = Logs()
        self.port = free_port()
        self.paths: set[str] = set()
        self._server = self._listening()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._over_http())

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def http_url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}"

    def Export(  # noqa: N802 - the contract's name
        self, request: ExportTraceServiceRequest, context: grpc.ServicerContext | None = None
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
        add_LogsServiceServicer_to_server(self.logs, made)  # type: ignore[no-untyped-call]
        self.port = made.add_insecure_port(f"127.0.0.1:{self.port}")
        return made

    def _over_http(self) -> type[BaseHTTPRequestHandler]:
        """``paths``: where requests came."""
        takes: dict[str, tuple[Any, Callable[[Any], Any]]] = {
            "/v1/traces": (ExportTraceServiceRequest, self.Export),
            "/v1/metrics": (ExportMetricsServiceRequest, self.metrics.Export),
            "/v1/logs": (ExportLogsServiceRequest, self.logs.Export),
        }
        paths = self.paths

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                paths.add(self.path)
                kind, take = takes[f"/v1/{self.path.rpartition('/')[2]}"]
                assert self.headers["Content-Type"] == "application/x-protobuf"
                answer = take(kind.FromString(body)).SerializeToString()
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: Any) -> None:
                """Nothing."""

        return Handler

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """It cannot be reached meanwhile; then it is there again, at the same port."""
        self.stop()
        try:
            yield
        finally:
            self._server = self._listening()
            self.start()

    def serve_http(self) -> None:
        self._http.serve_forever(poll_interval=0.05)

    def stop_http(self) -> None:
        self._http.shutdown()
        self._http.server_close()

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
    serving = threading.Thread(target=started.serve_http, daemon=True)
    serving.start()
    try:
        yield started
    finally:
        started.stop()
        started.stop_http()
        serving.join()
