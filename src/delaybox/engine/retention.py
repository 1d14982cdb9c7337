"""Deletes what is kept only for a time: results, history, dead letters, quarantined records, dead nodes' heartbeats,
and what is remembered of lanes that had tasks with a fairness key."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable

from delaybox.core.errors import PartAway
from delaybox.engine.options import EngineOptions
from delaybox.engine.ownership import Ownership
from delaybox.store import fairness, history, nodes, quarantine
from delaybox.store.expiry import Ages, ages
from delaybox.store.store import MAX_ITEMS, Store

log = logging.getLogger("delaybox.engine")

_PAUSE_S = 1.0
_STEP_S = 0.2
"""Longest time of one step; the next one goes on with what is left."""
_SHARE = 0.5
"""Share of time that deleting may take: a call of 500 holds the server for about half a millisecond."""
_SWEEP_S = 2.0
_FORGET_S = 20.0
"""How often lanes are forgotten."""
_GONE_MS = 10_000
_GONE_LEASES = 5
"""Heartbeats of dead nodes are kept this many leases: by them the reaper sees whether most nodes went away at once."""


class Retention:
    """One step = a look at all partitions in one round trip, then deletions in calls of bounded size."""

    def __init__(self, store: Store, options: EngineOptions, ownership: Ownership | None = None) -> None:
        self._store = store
        self._ownership = ownership or Ownership(store.partitions)
        self._options = options
        self._swept = self._forgot = -1e9
        self._turn = 0

    async def step(self) -> float:
        """For `Loop`."""
        loop = asyncio.get_running_loop()
        kept = sorted(self._ownership.kept)
        now, oldest = await ages(self._store, kept)
        give_up = loop.time() + _STEP_S
        # Each step begins at another partition, or the last ones would never get their turn in a flood.
        self._turn += 1
        more = False
        for i in range(len(kept)):
            p = kept[(self._turn + i) % len(kept)]
            # One that is on its way to another server, which may take minutes, holds up no other.
            if p in oldest:
                with contextlib.suppress(PartAway):
                    more = await self._partition(p, oldest[p], now, give_up) or more
        if 0 in kept and time.monotonic() - self._swept >= _SWEEP_S:
            self._swept = time.monotonic()
            await self._sweep(now)
        if time.monotonic() - self._forgot >= _FORGET_S:
            self._forgot = time.monotonic()
            for p in await fairness.with_lanes(self._store, kept):
                with contextlib.suppress(PartAway):
                    await self._forget_lanes(p)
        return 0.0 if more else _PAUSE_S

    async def _partition(self, p: int, oldest: Ages, now: int, give_up: float) -> bool:
        """Deletes in one partition. True: the time was over before everything was deleted."""
        o = self._options
        more = False
        if 0 <= oldest.result <= now:
            more = await _all(lambda: self._store.expire(p), give_up)
        if o.dead_age_ms and 0 <= oldest.dead < now - o.dead_age_ms:
            before = now - o.dead_age_ms
            more = await _all(lambda: self._store.discard(p, died_before_ms=before), give_up) or more
        if o.quarantine_age_ms and 0 <= oldest.quarantined < now - o.quarantine_age_ms:
            until = now - o.quarantine_age_ms
            more = await _all(lambda: quarantine.evict_older(self._store, p, until), give_up) or more
        if o.history.keep_ms:
            old = now - o.history.keep_ms
            failed = now - max(o.history.keep_ms, o.history.keep_failed_ms)
            if 0 <= oldest.ended < old or 0 <= oldest.failed < failed:
                await history.fade(self._store, p, o.history)
        return more

    async def _forget_lanes(self, p: int) -> None:
        cursor = b""
        while cursor != b"0":
            cursor, _ = await fairness.forget_lanes(self._store, p, cursor or b"0")

    async def _sweep(self, now: int) -> None:
        """Deletes old heartbeats: such nodes are dead. One that was only suspended is listed again with its next
        heartbeat."""
        after = max(_GONE_MS, _GONE_LEASES * self._options.lease_ms)
        gone = await nodes.forget(self._store, now, after)
        if gone:
            log.warning("%d members sent no heartbeat for %d s and are off the list", gone, after // 1000)


async def _all(delete: Callable[[], Awaitable[int]], give_up: float) -> bool:
    """Calls again while a call deletes as many as it may. True: the time was over before."""
    loop = asyncio.get_running_loop()
    while True:
        started = loop.time()
        if await delete() < MAX_ITEMS:
            return False
        if loop.time() >= give_up:
            return True
        await asyncio.sleep((loop.time() - started) * (1 - _SHARE) / _SHARE)
