"""Takes work back from leases that expired, and deletes dead letters that grew too old."""

from __future__ import annotations

import logging
from collections.abc import Callable

from delaybox import metrics
from delaybox.engine.clock import local_ms
from delaybox.engine.options import EngineOptions
from delaybox.store.expiry import ends
from delaybox.store.store import LONGEST_LEASES, Store

log = logging.getLogger("delaybox.engine")


class Reaper:
    """One step = a look at all partitions in one round trip, then one script after the other where something is over.

    Most partitions have nothing to reap most of the time: a script for each of them twice a second was more than half
    of what an idle node did. ``clock``: a steady one, in ms.
    """

    def __init__(self, store: Store, options: EngineOptions, clock: Callable[[], float] = local_ms) -> None:
        self._store = store
        self._options = options
        self._clock = clock
        self._seen: tuple[float, int] | None = None

    async def step(self) -> float:
        """For `Loop`."""
        o = self._options
        asked = self._clock()
        now, partitions = await ends(self._store)
        expected = self._expected_now(asked)
        jumped = expected > 0 and now - expected > o.lease_ms
        longest = now + LONGEST_LEASES * o.lease_ms
        for p, end in enumerate(partitions):
            set_back, over = end.last_lease > longest, 0 <= end.lease <= now or 0 <= end.result <= now
            if over or set_back or (jumped and end.lease >= 0):
                await self._reap(p)
            if o.dead_age_ms and 0 <= end.dead < now - o.dead_age_ms:
                await self._store.discard(p, died_before_ms=now - o.dead_age_ms)
        # Only now: a set clock is told to every partition that has leases.
        self._seen = (asked, now)
        return o.reap_ms / 1000

    async def _reap(self, partition: int) -> None:
        o = self._options
        while True:
            r = await self._store.reap(
                partition,
                lease_ms=o.lease_ms,
                losses_cap=o.losses_cap,
                dead_cap=o.dead_cap,
                expected_now_ms=self._expected_now(self._clock()),
            )
            if r.leases:
                metrics.lease_lost(r.leases)
                log.warning("%d leases expired: %d tasks run again, %d dead-lettered", r.leases, r.back, r.dead)
            if r.dead:
                metrics.dead_lettered(r.dead)
            if r.stamped:
                log.warning("Redis's clock was set: %d leases were given a new expiry", r.stamped)
            if not r.leases or not 0 <= r.next_expiry_ms <= r.now_ms:
                return

    def _expected_now(self, local: float) -> int:
        """What Redis's clock should say when ours says ``local``; 0 while that is unknown."""
        if self._seen is None:
            return 0
        before, redis = self._seen
        return int(redis + local - before)
