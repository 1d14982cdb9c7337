"""A node's /metrics as numbers. Pure."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

_LINE = re.compile(r"(delaybox_\w+)(?:\{(.*)\})? ([^ ]+)(?: -?\d+)?")
_BUCKET = re.compile(r'le="([^"]+)"')
_LATENESS = "delaybox_lateness_seconds_bucket"


@dataclass(frozen=True, slots=True)
class Numbers:
    """Sums over all labels, and the lateness histogram: upper bound in seconds → how many at most so late."""

    values: Mapping[str, float]
    lateness: Mapping[float, float] = field(default_factory=dict)

    def get(self, name: str) -> int:
        """A metric's sum, without ``delaybox_`` in front; 0 where the node does not have it."""
        return int(self.values.get(f"delaybox_{name}", 0))

    def late_s(self, share: float, since: Numbers | None = None) -> float | None:
        """So many of 1 fired at most so late (seconds); None when nothing fired. Between bounds as if spread evenly.

        ``since``: only what fired after those numbers were read.
        """
        before = since.lateness if since else {}
        counts = sorted((bound, count - before.get(bound, 0)) for bound, count in self.lateness.items())
        total = counts[-1][1] if counts else 0
        if total <= 0:
            return None
        wanted = share * total
        low, below = 0.0, 0.0
        for bound, count in counts:
            if count >= wanted:
                if bound == float("inf"):
                    return low
                return low + (bound - low) * (wanted - below) / max(count - below, 1)
            low, below = bound, count
        return low


def parse(text: str) -> Numbers:
    """From Prometheus's text; lines that are none of ours are passed over."""
    sums: dict[str, float] = defaultdict(float)
    lateness: dict[float, float] = defaultdict(float)
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        if match is None:
            continue
        name, labels, value = match.groups()
        try:
            number = float(value)
        except ValueError:
            continue
        if name == _LATENESS and (bound := _BUCKET.search(labels or "")):
            lateness[float(bound[1])] += number
        elif not name.endswith("_bucket"):
            sums[name] += number
    return Numbers(dict(sums), dict(lateness))
