"""Moves each partition's horizon ahead of time: every bucket is indexed into near before its tasks are due."""

from __future__ import annotations

import asyncio

from delaybox.engine.options import EngineOptions
from delaybox.store.store import Store

_CHUNK = 250
_US_A_FIELD = 20.0
"""Indexing a field took 2.9 to 5.8 us of server time; the lead of a large bucket counts on a busy server."""
_SHARE = 0.3
"""Share of time that indexing may take while nothing is urgent: each chunk holds the server for about 1 ms."""


class Expander:
    """One step = look at every partition and index at most one chunk of each.

    The scan's cursor is kept here and nowhere else (rule 4): after a restart of either side a bucket starts at 0 again,
    because the server's hash seed changes. Doing a chunk twice is harmless.
    """

    def __init__(self, store: Store, options: EngineOptions) -> None:
        self._store = store
        self._options = options
        self._cursors: dict[int, tuple[int, bytes]] = {}
        self._done = dict.fromkeys(range(store.partitions), -1)
        self._look = [0.0] * store.partitions

    async def step(self) -> float:
        """For `Loop`."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            busy = False
            for p in range(self._store.partitions):
                busy = await self._advance(p, loop.time()) or busy
        except BaseException:
            # The server may have restarted meanwhile, and a cursor of before means nothing to it.
            self._cursors.clear()
            raise
        if not busy:
            return 0.25
        return (loop.time() - started) * (1 - _SHARE) / _SHARE

    async def _advance(self, p: int, now_s: float) -> bool:
        at = self._cursors.get(p)
        if at is None:
            if now_s < self._look[p]:
                return False
            lead = self._options.lead_ms
            horizon = await self._store.expand(p, lead_ms=lead, done=self._done[p])
            if horizon.bucket < 0 and horizon.fields:
                # The next bucket is large: it needs a longer lead than others.
                extra = int(horizon.fields * self._store.partitions * _US_A_FIELD / 1000)
                if horizon.look_ms - extra <= horizon.now_ms:
                    horizon = await self._store.expand(p, lead_ms=lead + extra)
            if horizon.bucket < 0:
                # The horizon also moves over empty time, so it is looked at well before it is reached.
                self._look[p] = now_s + min(self._store.bucket_ms, self._options.lead_ms) / 4000
                return False
            at = (horizon.bucket, b"0")
        bucket, cursor = at
        cursor, _, _ = await self._store.index(p, bucket, cursor, count=_CHUNK)
        if cursor == b"0":
            self._cursors.pop(p, None)
            self._done[p] = bucket
            self._look[p] = 0.0
        else:
            self._cursors[p] = (bucket, cursor)
        return True
