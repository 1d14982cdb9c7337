"""What a scrape asks for of a node's metrics: its own, those of the whole store, and the node's name as a label.

Every node shows the figures of the whole store, and counts for itself. Where scrapes of one address are answered by
several nodes in turn, a node's counters must carry its name: without it each change from one node to the other looks
like a restart, and sums come out far too large.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

NODE: Final = "node"
"""The label with the node's id."""
OF_STORE: Final = frozenset({
    "pending_tasks", "ready_tasks", "in_flight_tasks", "dead_tasks", "quarantined_tasks", "task_counts_estimated",
    "forecast_due_tasks", "needed_members", "running_members", "unserved_kinds", "store_file_ok", "store_replicas",
    "store_memory_bytes", "store_memory_ratio",
})  # fmt: skip
"""Metrics of the whole store, without the first part of their names; those of queues are such too."""
_FIRST: Final = "delaybox_"
_OF_QUEUES: Final = f"{_FIRST}queue_"


@dataclass(frozen=True, slots=True)
class MetricPart:
    """``of``: the figures of the node or of the store alone; "": both. ``node``: the id that the node's own figures get
    as a label; "": none."""

    of: Literal["", "node", "store"] = ""
    node: str = ""


ALL: Final = MetricPart()


def of_store(name: str) -> bool:
    """Whether every node shows the same for this family of metrics, because it is the whole store's."""
    return name.removeprefix(_FIRST) in OF_STORE or name.startswith(_OF_QUEUES)


class OnePart(Collector):
    """Of what another collector collects, this part."""

    def __init__(self, inner: Collector, part: MetricPart) -> None:
        self._inner = inner
        self._part = part

    def collect(self) -> Iterator[Metric]:
        """Family by family."""
        wanted, node = self._part.of, self._part.node
        for family in self._inner.collect():
            shared = of_store(family.name)
            if wanted and (wanted == "store") is not shared:
                continue
            if node and not shared:
                family.samples = [one._replace(labels={NODE: node, **one.labels}) for one in family.samples]
            yield family
