"""Several values at once for a histogram, for which prometheus-client has no call."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter as Counted
from collections.abc import Sequence

from prometheus_client import Histogram


def observe_several(histogram: Histogram, bounds: Sequence[float], values: Sequence[float]) -> None:
    """As `Histogram.observe` of each value. ``bounds``: those of the histogram, in its unit."""
    # One step for each bucket: a step costs more than finding the bucket of a value.
    for at, count in Counted(bisect_left(bounds, one) for one in values).items():
        histogram._buckets[at].inc(count)
    histogram._sum.inc(sum(values))
