"""How many deliveries an engine carried out lately, and how long they took: for heartbeats and metrics."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from heapq import nlargest
from operator import itemgetter

from delaybox import metrics
from delaybox.core.delivery import Delivery
from delaybox.core.lane import split
from delaybox.core.rates import Means, Rates

_QUEUES_REPORTED = 500
"""A heartbeat names no more queues than this, the busiest."""
_LANES_REPORTED = 200
"""The same of lanes."""
_TIMED_EACH = 4
"""Of so many reports of success one is timed."""


class Tally:
    """Counts what was carried out."""

    def __init__(self) -> None:
        self._fired = Rates(time.monotonic())
        self._took_ms = Means()
        self._reports = 0
        self._uncounted: list[bytes] = []

    def fired(self, lanes: Mapping[bytes, int]) -> None:
        """Counts tasks that the claim script published itself."""
        self._fired.add(lanes, time.monotonic())

    def done(self, fresh: Sequence[Delivery], began: float) -> None:
        """These were reported together as done, by a target that got them at ``began`` (monotonic seconds).

        Reports are settled once a turn of the event loop, because some targets report task by task.
        """
        if not self._uncounted:
            asyncio.get_running_loop().call_soon(self._count)
        self._uncounted += [d.lane for d in fresh]
        self._reports += 1
        if self._reports % _TIMED_EACH == 0:
            # One of those that are reported together stands for all.
            self._took_ms.add(fresh[0].lane, (time.monotonic() - began) * 1_000 / fresh[0].line)

    def fired_per_s(self) -> dict[str, float]:
        """Deliveries that were carried out, a second over the last minute, by type letter and queue."""
        self._count()
        sums: dict[str, float] = {}
        for lane, rate in self._fired.per_second(time.monotonic()).items():
            # Rates are kept for whole queues, whatever function the tasks name.
            key = lane.partition(b":")[0].decode()
            sums[key] = round(sums.get(key, 0.0) + rate, 3)
        return dict(nlargest(_QUEUES_REPORTED, sums.items(), key=itemgetter(1)))

    def service_ms(self) -> dict[str, float]:
        """How long tasks took lately from hand-out to success, by lane; of one that waited there, its part."""
        means = self._took_ms.all()
        lanes = nlargest(_LANES_REPORTED, means, key=means.__getitem__)
        return {lane.decode(): means[lane] for lane in lanes}

    def _count(self) -> None:
        # A lone task is no reason to make counters.
        lanes = Counter(self._uncounted) if len(self._uncounted) > 1 else dict.fromkeys(self._uncounted, 1)
        self._uncounted = []
        self._fired.add(lanes, time.monotonic())
        by_type: dict[str, int] = {}
        for lane, count in lanes.items():
            name = split(lane).type.name
            by_type[name] = by_type.get(name, 0) + count
        for name, count in by_type.items():
            metrics.fired(name, "leased", count)
