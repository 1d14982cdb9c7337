"""Takes work back from leases that expired, and deletes dead letters that grew too old."""

from __future__ import annotations

import logging

from delaybox import metrics
from delaybox.engine.clock import local_ms
from delaybox.engine.options import EngineOptions
from delaybox.store.store import Store

log = logging.getLogger("delaybox.engine")


class Reaper:
    """One step = one partition, so that reaping never holds the server for long; a round takes ``reap_ms``."""

    def __init__(self, store: Store, options: EngineOptions) -> None:
        self._store = store
        self._options = options
        self._partition = 0
        self._seen: tuple[float, int] | None = None

    async def step(self) -> float:
        """For `Loop`."""
        o = self._options
        r = await self._store.reap(
            self._partition,
            lease_ms=o.lease_ms,
            losses_cap=o.losses_cap,
            dead_cap=o.dead_cap,
            expected_now_ms=self._expected_now(),
        )
        self._seen = (local_ms(), r.now_ms)
        if r.leases:
            metrics.lease_lost(r.leases)
            log.warning("%d leases expired: %d tasks run again, %d dead-lettered", r.leases, r.back, r.dead)
        if r.dead:
            metrics.dead_lettered(r.dead)
        if r.stamped:
            log.warning("Redis's clock was set: %d leases were given a new expiry", r.stamped)
        if r.leases and 0 <= r.next_expiry_ms <= r.now_ms:
            return 0.0
        if o.dead_age_ms:
            await self._store.discard(self._partition, died_before_ms=r.now_ms - o.dead_age_ms)
        self._partition = (self._partition + 1) % self._store.partitions
        return o.reap_ms / 1000 / self._store.partitions

    def _expected_now(self) -> int:
        if self._seen is None:
            return 0
        local, redis = self._seen
        return int(redis + local_ms() - local)
