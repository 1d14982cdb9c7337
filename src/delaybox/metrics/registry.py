"""Where everything that is counted stands, and how it is shown.

The processes of a node share one directory (environment ``PROMETHEUS_MULTIPROC_DIR``, set before this module is
imported) and any of them renders the sum. Without the directory each process counts for itself.
"""

from __future__ import annotations

import os
import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    disable_created_metrics,
    generate_latest,
    values,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
DIRECTORY_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
NAME_VARIABLE: Final = "DELAYBOX_COUNTED_AS"
DELIVERY_BUCKETS_MS: Final[tuple[float, ...]] = (1, 2, 4, 8, 15, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000)
if os.environ.get(DIRECTORY_VARIABLE) and (_name := os.environ.get(NAME_VARIABLE)):
    # Instead of the process id. Only one process at a time has this name, so it goes on where the last one ended.
    values.ValueClass = values.MultiProcessValue(lambda: _name)  # type: ignore[no-untyped-call]
disable_created_metrics()  # type: ignore[no-untyped-call]
REGISTRY = CollectorRegistry()


_examples: dict[tuple[str, frozenset[tuple[str, str]]], Exemplar] = {}
"""By the name and labels of a bucket. The folder that processes share has no place for them, so each shows its own."""


def example(name: str, labels: dict[str, str], bounds: Sequence[float], value: float, traceparent: str) -> None:
    """Keeps a value of a histogram, with the trace that it belongs to, as the example of its bucket."""
    at = bisect_left(bounds, value)
    le = floatToGoString(bounds[at] if at < len(bounds) else float("inf"))  # type: ignore[no-untyped-call]
    _, trace_id, span_id, _ = traceparent.split("-", 3)
    key = (f"{name}_bucket", frozenset({**labels, "le": le}.items()))
    _examples[key] = Exemplar({"trace_id": trace_id, "span_id": span_id}, value, time.time())


class _WithExamples(Collector):
    """What another collector collects, with the examples of this process."""

    def __init__(self, inner: Collector) -> None:
        self._inner = inner

    def collect(self) -> Iterator[Metric]:
        for metric in self._inner.collect():
            if metric.type == "histogram" and _examples:
                metric.samples = [
                    one if (found := _examples.get((one.name, frozenset(one.labels.items())))) is None
                    else one._replace(exemplar=found)
                    for one in metric.samples
                ]  # fmt: skip
            yield metric


def render(more: Collector | None = None) -> bytes:
    """Everything in Prometheus's text format, summed over the processes that share the directory; and ``more``."""
    return generate_latest(_merged(more))


def render_as(accept: str, more: Collector | None = None) -> tuple[bytes, str]:
    """As `render`, with the content type. ``accept``: the scraper's header; OpenMetrics, with examples, if it asks for
    that."""
    if "application/openmetrics-text" not in accept:
        return render(more), CONTENT_TYPE
    text: bytes = openmetrics.generate_latest(_WithExamples(_merged(more)))  # type: ignore[no-untyped-call]
    return text, openmetrics.CONTENT_TYPE_LATEST


def collected(more: Collector | None = None) -> Iterator[Metric]:
    """What `render` shows, family by family."""
    return iter(_merged(more).collect())


def _merged(more: Collector | None) -> CollectorRegistry:
    merged = CollectorRegistry()
    directory = os.environ.get(DIRECTORY_VARIABLE)
    if not directory or not Path(directory).is_dir():
        merged.register(REGISTRY)
    else:
        MultiProcessCollector(merged, path=directory)  # type: ignore[no-untyped-call]
    if more is not None:
        merged.register(more)
    return merged
