"""Several values at once for a histogram, for which prometheus-client has no call."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence

from prometheus_client import Histogram


def observe_several(
    histogram: Histogram, bounds: Sequence[float], values: Iterable[float], *, per_unit: float = 1.0
) -> None:
    """As `Histogram.observe` of each value. ``bounds``: those of the histogram but infinity. ``per_unit``: how many of
    the unit of bounds and values make one of the histogram's."""
    ordered = sorted(values)
    if not ordered:
        return
    # One step for each bucket: a step takes longer than finding the values of a bucket.
    counters, done = histogram._buckets, 0
    for at, bound in enumerate(bounds):
        upto = bisect_right(ordered, bound, done)
        if upto > done:
            counters[at].inc(upto - done)
            done = upto
            if done == len(ordered):
                break
    else:
        counters[-1].inc(len(ordered) - done)
    histogram._sum.inc(sum(ordered) / per_unit)
