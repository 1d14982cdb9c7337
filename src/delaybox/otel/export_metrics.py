"""Sends what /metrics shows to a collector by OTLP. Loaded by name where it is on."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Final, cast

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from prometheus_client.metrics_core import Metric as Family

from delaybox.core.errors import ConfigError
from delaybox.otel import otlp
from delaybox.otel.queue import SendQueue

_INTERVAL: Final = "OTEL_METRIC_EXPORT_INTERVAL"
_DEFAULT_MS: Final = "60000"
_LEAST_S: Final = 0.1
_STARTED: Final = "process_start_time_seconds"
_NOT_KNOWN: Final = cast("float", None)
"""For the least and the greatest value of a histogram, which are not counted: OTLP leaves the field out then."""

_Push = Sequence[Family]
_Labels = dict[str, str]


class MetricSender:
    """Sends what is put on a thread of its own. One push waits at most, the newest; the others are dropped and
    counted."""

    def __init__(self, endpoint: str, facts: Mapping[str, str], *, protocol: str = "") -> None:
        """``endpoint``: of the collector; "": as the environment says; ``protocol``: likewise. ``facts``: attributes
        of this process. ConfigError for a protocol or an interval that is not possible."""
        self.every_s = interval_s(os.environ)
        self._exporter: MetricExporter = otlp.exporter("metrics", endpoint, protocol)
        self._resource = otlp.resource(facts)
        self._scope = InstrumentationScope("delaybox", facts.get("service.version"))
        self._began_ns = time.time_ns()
        self._queue: SendQueue[_Push] = SendQueue(
            "metrics", self._send, otlp.counter("metrics"), most=1, pause_s=_LEAST_S, why=otlp.complaints.first,
            keep_newest=True,
        )  # fmt: skip

    def put(self, families: Iterable[Family]) -> None:
        """What Prometheus's collectors show right now. It never waits."""
        self._queue.put(tuple(families))

    def end(self) -> None:
        """Sends what waits, as far as a short time allows."""
        self._queue.end(otlp.END_S)

    def _send(self, pushes: Sequence[_Push]) -> bool:
        return all(self._export(push) for push in pushes)

    def _export(self, push: _Push) -> bool:
        scope = ScopeMetrics(self._scope, as_otlp(push, self._began_ns, time.time_ns()), "")
        data = MetricsData([ResourceMetrics(self._resource, [scope], "")])
        return self._exporter.export(data) is MetricExportResult.SUCCESS


def interval_s(environ: Mapping[str, str]) -> float:
    """The seconds between two pushes; ConfigError where the variable is no number above 0."""
    text = environ.get(_INTERVAL, "").strip() or _DEFAULT_MS
    try:
        found = float(text) / 1_000
    except ValueError:
        found = 0.0
    if not 0 < found < float("inf"):
        raise ConfigError(f"{_INTERVAL} is {text!r}; set it to a number of milliseconds above 0, or leave it out")
    return max(found, _LEAST_S)


def as_otlp(families: Iterable[Family], began_ns: int, now_ns: int) -> list[Metric]:
    """The same by the names of /metrics: counters as cumulative sums, histograms with their buckets, others as gauges.

    Sums began when the node did, if it shows that, else at ``began_ns``.
    """
    shown = list(families)
    for sample in (one for family in shown if family.name == _STARTED for one in family.samples):
        began_ns = int(sample.value * 1e9)
    return [made for family in shown if family.samples and (made := _as_otlp(family, began_ns, now_ns))]


def _as_otlp(family: Family, began_ns: int, now_ns: int) -> Metric | None:
    text, cumulative = family.documentation, AggregationTemporality.CUMULATIVE
    if family.type == "histogram":
        return Metric(family.name, text, "", Histogram(_histograms(family, began_ns, now_ns), cumulative))
    counted = family.type == "counter"
    wanted = f"{family.name.removesuffix('_total')}_total" if counted else family.name
    points = [
        NumberDataPoint(one.labels, began_ns if counted else 0, now_ns, float(one.value))
        for one in family.samples
        if one.name == wanted
    ]
    if not points:
        return None
    return Metric(wanted, text, "", Sum(points, cumulative, is_monotonic=True) if counted else Gauge(points))


def _histograms(family: Family, began_ns: int, now_ns: int) -> list[HistogramDataPoint]:
    sums: dict[frozenset[tuple[str, str]], float] = {}
    buckets: dict[frozenset[tuple[str, str]], list[tuple[float, int]]] = {}
    for sample in family.samples:
        labels = frozenset((name, value) for name, value in sample.labels.items() if name != "le")
        if sample.name == f"{family.name}_bucket":
            buckets.setdefault(labels, []).append((float(sample.labels["le"]), int(sample.value)))
        elif sample.name == f"{family.name}_sum":
            sums[labels] = float(sample.value)
    points = []
    for labels, found in buckets.items():
        found.sort()
        # Prometheus counts what is at most a bound, OTLP what lies between two.
        counts = [after - before for before, after in pairwise([0, *(n for _, n in found)])]
        bounds = [bound for bound, _ in found][:-1]
        total = found[-1][1]
        named: _Labels = dict(labels)
        points.append(
            HistogramDataPoint(
                named, began_ns, now_ns, total, sums.get(labels, 0.0), counts, bounds, _NOT_KNOWN, _NOT_KNOWN
            )
        )
    return points
