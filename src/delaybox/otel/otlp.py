"""How a collector is reached by OTLP, over gRPC or HTTP. Loaded by name where it is on."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, Literal, overload

from opentelemetry.sdk.resources import Resource

from delaybox.otel.environment import HTTP, PACKAGES, Signal, protocol_of
from delaybox.otel.queue import THREADS
from delaybox.processes import counters

if TYPE_CHECKING:
    from opentelemetry.sdk._logs.export import LogRecordExporter
    from opentelemetry.sdk.metrics.export import MetricExporter
    from opentelemetry.sdk.trace.export import SpanExporter

END_S: Final = 1.5
"""How long the end of a process waits for a collector."""
_SERVICE: Final = "OTEL_SERVICE_NAME"
_RESOURCE: Final = "OTEL_RESOURCE_ATTRIBUTES"
_EXPORTERS: Final[Mapping[Signal, str]] = {
    "traces": "trace_exporter:OTLPSpanExporter",
    "metrics": "metric_exporter:OTLPMetricExporter",
    "logs": "_log_exporter:OTLPLogExporter",
}


@overload
def exporter(signal: Literal["traces"], endpoint: str, protocol: str = "") -> SpanExporter: ...
@overload
def exporter(signal: Literal["metrics"], endpoint: str, protocol: str = "") -> MetricExporter: ...
@overload
def exporter(signal: Literal["logs"], endpoint: str, protocol: str = "") -> LogRecordExporter: ...
def exporter(signal: Signal, endpoint: str, protocol: str = "") -> Any:
    """OpenTelemetry's own exporter of a signal. ``endpoint``: of the collector, without the path of a signal; "": as
    the environment says; ``protocol``: likewise. ConfigError for a protocol that is not there."""
    protocol = protocol_of(os.environ, signal, protocol)
    module, _, name = _EXPORTERS[signal].partition(":")
    made = getattr(import_module(f"{PACKAGES[protocol]}.{module}"), name)
    complaints.begin()
    if endpoint and protocol == HTTP:
        endpoint = f"{endpoint.rstrip('/')}/v1/{signal}"
    return made(endpoint=endpoint or None)


def resource(facts: Mapping[str, str]) -> Resource:
    """Who sends: the service as the environment names it, else ``delaybox``, with these attributes."""
    named = _SERVICE in os.environ or "service.name=" in os.environ.get(_RESOURCE, "")
    # Not by setting the variable: the rest of a user's program would send under this name, too.
    return Resource.create(dict(facts) if named else {"service.name": "delaybox", **facts})


def counter(signal: Literal["spans", "metrics", "logs"]) -> Callable[[int], None]:
    """Counts what is dropped, where this process shows metrics: a worker by itself needs no package for them."""
    if not ("delaybox.metrics" in sys.modules or os.environ.get(counters.VARIABLE)):
        return lambda n: None
    from delaybox.metrics import otel_dropped

    return lambda n: otel_dropped(signal, n)


class _Complaints(logging.Handler):
    """What exporters log of a collector that they cannot reach, again and again: it is kept, for the one warning that
    `SendQueue` gives. What they log elsewhere than on our threads is another program's, and goes its way."""

    _LOGGER: Final = "opentelemetry.exporter"

    def __init__(self) -> None:
        super().__init__()
        self._first: dict[int, str] = {}

    def begin(self) -> None:
        """Twice is harmless."""
        logger = logging.getLogger(self._LOGGER)
        logger.addHandler(self)
        logger.propagate = False

    def emit(self, record: logging.LogRecord) -> None:
        if str(record.threadName).startswith(THREADS):
            # What comes behind it only says that it was tried again, and in the end no more.
            self._first.setdefault(threading.get_ident(), record.getMessage())
        elif (above := logging.getLogger(self._LOGGER).parent) is not None:
            above.callHandlers(record)

    def first(self) -> str:
        """The first one of this thread since the last call; "" for none."""
        return self._first.pop(threading.get_ident(), "")


complaints: Final = _Complaints()
