"""Shows all that is counted in Prometheus's form. It has no metric of its own: those stand beside it, by their subject.

The processes of a node share one directory (environment ``PROMETHEUS_MULTIPROC_DIR``, set before this module is
imported) and any of them renders the sum. Without the directory each process counts for itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    generate_latest,
    values,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from delaybox.metrics.parts import ALL, MetricPart, OnePart
from delaybox.processes.openmetrics import WithoutCreated, exposed

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
DIRECTORY_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
NAME_VARIABLE: Final = "DELAYBOX_COUNTED_AS"
DELIVERY_BUCKETS_MS: Final[tuple[float, ...]] = (1, 2, 4, 8, 15, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000)
if os.environ.get(DIRECTORY_VARIABLE) and (_name := os.environ.get(NAME_VARIABLE)):
    # Instead of the process id. Only one process at a time has this name, so it goes on where the last one ended.
    values.ValueClass = values.MultiProcessValue(lambda: _name)  # type: ignore[no-untyped-call]
REGISTRY = CollectorRegistry()


def render(more: Collector | None = None) -> bytes:
    """Everything in Prometheus's text format, summed over the processes that share the directory; and ``more``."""
    return generate_latest(_merged(more))


def render_as(accept: str, more: Collector | None = None, part: MetricPart = ALL) -> tuple[bytes, str]:
    """As `render`, with the content type. ``accept``: the scraper's header; OpenMetrics, with examples, if it asks for
    that. ``part``: what it asks for of them."""
    return exposed(accept, _merged(more), None if part == ALL else partial(OnePart, part=part))


def collected(more: Collector | None = None) -> Iterator[Metric]:
    """What `render` shows, family by family."""
    return iter(_merged(more).collect())


def _merged(more: Collector | None) -> CollectorRegistry:
    merged = CollectorRegistry()
    directory = os.environ.get(DIRECTORY_VARIABLE)
    if not directory or not Path(directory).is_dir():
        merged.register(WithoutCreated(REGISTRY))
    else:
        MultiProcessCollector(merged, path=directory)  # type: ignore[no-untyped-call]
    if more is not None:
        merged.register(more)
    return merged
