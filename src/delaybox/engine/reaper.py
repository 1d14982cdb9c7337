"""Takes work back from leases that expired, and dead letters that grew too old."""

from __future__ import annotations

import logging

from delaybox import metrics
from delaybox.engine.clock import local_ms
from delaybox.engine.options import EngineOptions
from delaybox.store.loader import Call
from delaybox.store.store import IDEM_TTL_MS, Reaped, Store

log = logging.getLogger("delaybox.engine")

_LONGEST_LEASES = 4
"""A lease further ahead than this many of our own leases cannot be honest: the clock stepped back (rule 11)."""


class Reaper:
    """One step = one round trip that reaps every partition."""

    def __init__(self, store: Store, options: EngineOptions) -> None:
        self._store = store
        self._options = options
        self._last: tuple[float, int] | None = None

    async def step(self) -> float:
        """For `Loop`."""
        jumped = await self._jumped()
        o = self._options
        longest = o.lease_ms if jumped else o.lease_ms * _LONGEST_LEASES
        args = (
            self._store.bucket_ms, longest, o.losses_cap, self._store.wake_channel, o.dead_cap, IDEM_TTL_MS, int(jumped)
        )  # fmt: skip
        again = False
        for reply in await self._store.runner.run_many([Call("reap", tag, args) for tag in self._store.tags]):
            if isinstance(reply, BaseException):
                raise reply
            r = Reaped(*reply)
            if r.leases:
                metrics.lease_lost(r.leases)
                log.warning("%d leases expired: %d tasks run again, %d dead-lettered", r.leases, r.back, r.dead)
            if r.dead:
                metrics.dead_lettered(r.dead)
            if r.stamped:
                log.warning("Redis's clock was set: %d leases were given a new expiry", r.stamped)
            again = again or r.leases >= 100 or r.back + r.dead >= 400
        if o.dead_age_ms and self._last is not None:
            for p in range(self._store.partitions):
                await self._store.discard(p, died_before_ms=self._last[1] - o.dead_age_ms)
        return 0.0 if again else o.reap_ms / 1000

    async def _jumped(self) -> bool:
        """Whether Redis's clock ran ahead of ours by more than a lease since the last step."""
        now = await self._store.ping()
        local = local_ms()
        last, self._last = self._last, (local, now)
        if last is None:
            return False
        return (now - last[1]) - (local - last[0]) > self._options.lease_ms
