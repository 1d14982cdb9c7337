"""Moves each partition's horizon ahead of time: every bucket is indexed into near before its tasks are due."""

from __future__ import annotations

import asyncio

from delaybox.core.errors import PartAway, StoreUnavailable
from delaybox.engine.clock_estimate import RedisClock
from delaybox.engine.options import EngineOptions
from delaybox.store.store import Store

_CHUNK = 250
_US_A_FIELD = 20.0
"""Time to index a field. It took 2.9 to 5.8 us of server time; the lead of a large bucket allows for a busy server."""
_SHARE = 0.3
"""Share of time that indexing may take while nothing is urgent: each chunk holds the server for about 1 ms."""
_REST_S, _SHORT_REST_S = 0.5, 0.25
_LONG_MS = 1_000.0
"""Between two looks at a partition: then the longer rest will do."""
_APART_S = 1.0
"""When it looks again at a partition in which it failed: each look may wait until that is back, and so may all
others."""


class Expander:
    """One step = look at every partition and index at most one chunk of each.

    The scan's cursor is kept here and nowhere else (rule 4): after a restart of either side a bucket starts at 0 again,
    because the server's hash seed changes. Doing a chunk twice is harmless. Cursors hold only for the server on which
    they were made: the scripts check that, and `kick` is called when it may be another one.
    """

    def __init__(self, store: Store, options: EngineOptions, clock: RedisClock) -> None:
        self._store = store
        self._options = options
        self._clock = clock
        self._cursors: dict[int, tuple[int, bytes]] = {}
        self._done = dict.fromkeys(range(store.partitions), -1)
        self._look = [0.0] * store.partitions
        self._look_ms = [0.0] * store.partitions
        self._kept = frozenset(range(store.partitions))
        # The horizon also moves over empty time, so the next look comes well before the horizon is reached.
        self._pause_ms = min(store.bucket_ms, options.lead_ms) / 4

    def keep(self, partitions: frozenset[int]) -> None:
        """Looks at these only, from now on. The cursors of the others are kept, or a bucket of a million would never
        end while owners change."""
        for p in partitions - self._kept:
            self._look[p] = 0.0
        self._kept = partitions

    def kick(self) -> None:
        """The server was away and may have come back with an earlier state, so every partition is looked at again."""
        self._cursors.clear()
        self._look = [0.0] * self._store.partitions

    async def step(self) -> float:
        """For `Loop`."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        problem: Exception | None = None
        try:
            busy = False
            for p in sorted(self._kept):
                try:
                    busy = await self._advance(p, loop.time()) or busy
                except Exception as error:
                    if isinstance(error, StoreUnavailable) and not isinstance(error, PartAway):
                        raise
                    # It moves to another server, where a scan begins anew, or something is wrong with it alone. The
                    # others go on.
                    self._cursors.pop(p, None)
                    self._look[p], self._look_ms[p] = loop.time() + _APART_S, self._clock.now_ms() + 1000 * _APART_S
                    problem = error
        except BaseException:
            self.kick()
            raise
        if problem is not None:
            raise problem
        if not busy:
            return _REST_S if self._pause_ms >= _LONG_MS else _SHORT_REST_S
        return (loop.time() - started) * (1 - _SHARE) / _SHARE

    async def _advance(self, p: int, now_s: float) -> bool:
        at = self._cursors.get(p)
        if at is None:
            # By both clocks: if Redis's clock is set ahead, what was far away is due at once.
            if now_s < self._look[p] and self._clock.now_ms() < self._look_ms[p]:
                return False
            lead = self._options.lead_ms
            horizon = await self._store.expand(p, lead_ms=lead, done=self._done[p])
            # Reported once only, because it would be wrong for a server that is set back to an earlier state later.
            self._done[p] = -1
            if horizon.bucket < 0 and horizon.fields:
                # The next bucket is large: it needs a longer lead than others.
                extra = int(horizon.fields * self._store.partitions * _US_A_FIELD / 1000)
                if horizon.look_ms - extra <= horizon.now_ms:
                    horizon = await self._store.expand(p, lead_ms=lead + extra)
            if horizon.bucket < 0:
                self._look[p], self._look_ms[p] = now_s + self._pause_ms / 1000, horizon.now_ms + self._pause_ms
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
