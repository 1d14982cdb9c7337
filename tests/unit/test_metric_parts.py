"""What a scrape gets that asks for a part of a node's metrics."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest
from prometheus_client.registry import Collector

from delaybox.metrics.parts import OF_STORE, MetricPart, OnePart, of_store
from delaybox.processes.openmetrics import WithoutCreated

OPERATIONS = Path(__file__).parents[2] / "docs/operations.md"


class Counted(Collector):
    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        Counter("delaybox_fired_tasks", "Fired.", ["type"], registry=self._registry).labels("http").inc(3)
        Histogram("delaybox_lateness_seconds", "Late.", buckets=(1,), registry=self._registry).observe(0.5)
        Gauge("delaybox_ready_tasks", "Ready.", registry=self._registry).set(7)
        Gauge("delaybox_queue_ready_tasks", "Ready.", ["queue"], registry=self._registry).labels("mail").set(7)

    def collect(self) -> Iterator[Metric]:
        return WithoutCreated(self._registry).collect()


def lines(part: MetricPart) -> list[str]:
    registry = CollectorRegistry()
    registry.register(OnePart(Counted(), part))
    return [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]


def test_the_nodes_own_figures_carry_its_name_and_the_stores_do_not() -> None:
    assert lines(MetricPart(node="n-1")) == [
        'delaybox_fired_tasks_total{node="n-1",type="http"} 3.0',
        'delaybox_lateness_seconds_bucket{le="1.0",node="n-1"} 1.0',
        'delaybox_lateness_seconds_bucket{le="+Inf",node="n-1"} 1.0',
        'delaybox_lateness_seconds_count{node="n-1"} 1.0',
        'delaybox_lateness_seconds_sum{node="n-1"} 0.5',
        "delaybox_ready_tasks 7.0",
        'delaybox_queue_ready_tasks{queue="mail"} 7.0',
    ]


def test_either_part_can_be_asked_for_alone() -> None:
    own, shared, both = lines(MetricPart("node")), lines(MetricPart("store")), lines(MetricPart())
    assert shared == ["delaybox_ready_tasks 7.0", 'delaybox_queue_ready_tasks{queue="mail"} 7.0']
    assert own + shared == both


def test_every_metric_of_the_store_is_a_documented_gauge() -> None:
    """So that one that is renamed does not lose its part."""
    gauges = set(re.findall(r"^\| `(delaybox_\w+)` \| gauge ", OPERATIONS.read_text(), re.MULTILINE))
    assert {f"delaybox_{name}" for name in OF_STORE} <= gauges
    assert not of_store("delaybox_store_up") and not of_store("delaybox_clock_offset_seconds"), "as the node sees it"
