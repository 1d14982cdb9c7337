"""What is counted of telemetry that is sent to a collector."""

from __future__ import annotations

from typing import Literal

from prometheus_client import Counter

from delaybox.metrics.exposition import REGISTRY

_dropped = Counter(
    "delaybox_otel_dropped_items",
    "Spans, log records and metrics for a collector of OpenTelemetry that were dropped: it was away or refused them.",
    ["signal"],
    registry=REGISTRY,
)


def otel_dropped(signal: Literal["spans", "logs", "metrics"], n: int) -> None:
    """``n`` items were not sent."""
    _dropped.labels(signal).inc(n)
