"""What this node has done so far, summed over its processes, read once a second.

Prometheus's own reader renders everything in 10 ms and more; this one reads the two kinds of files in which these
counters are.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path

from prometheus_client.mmap_dict import MmapedDict

from delaybox import metrics

_LATENESS = "delaybox_lateness_seconds_bucket"
_WANTED = {"delaybox_scheduled_tasks_total": "scheduled", "delaybox_fired_tasks_total": "fired"}


class NodeTotals:
    """Since the node's start. ``late``: by upper bound in seconds, how many fired so late and not within the bound
    below."""

    __slots__ = ("fired", "late", "scheduled")

    def __init__(self, scheduled: float, fired: float, late: Mapping[float, float]) -> None:
        self.scheduled = scheduled
        self.fired = fired
        self.late = late

    def late_ms(self, share: float, since: NodeTotals) -> float | None:
        """So many of 1 fired at most so late since then (ms), between two bounds as if spread evenly; None: nothing
        fired."""
        counts = sorted((bound, count - since.late.get(bound, 0.0)) for bound, count in self.late.items())
        total = sum(count for _, count in counts)
        if total <= 0:
            return None
        low, left = 0.0, share * total
        for bound, count in counts:
            if count >= left:
                found = low if bound == float("inf") else low + (bound - low) * left / max(count, 1.0)
                return round(found * 1000, 3)
            left -= count
            low = bound
        return round(low * 1000, 3)


def totals() -> NodeTotals:
    """As they are now. OSError where a process of the node is just starting or ending."""
    sums: dict[str, float] = defaultdict(float)
    late: dict[float, float] = defaultdict(float)
    for key, value in _values():
        name, bound = _meaning(key)
        if name == _LATENESS:
            late[bound] += value
        elif name:
            sums[name] += value
    return NodeTotals(sums["scheduled"], sums["fired"], late)


def _values() -> Iterator[tuple[str, float]]:
    folder = os.environ.get(metrics.DIRECTORY_VARIABLE)
    if not folder:
        return
    for kind in ("counter", "histogram"):
        for path in Path(folder).glob(f"{kind}_*.db"):
            for key, value, _, _ in MmapedDict.read_all_values_from_file(str(path)):  # type: ignore[no-untyped-call]
                yield key, value


@lru_cache(maxsize=4_096)
def _meaning(key: str) -> tuple[str, float]:
    """(what it counts, the upper bound of a bucket); "" for what is not looked at."""
    _, name, labels, _ = json.loads(key)
    if name == _LATENESS:
        return name, float(labels["le"])
    return _WANTED.get(name, ""), 0.0
