"""Walks over all records, slowly and for ever, and asserts the hint of each, so that a lost hint comes back (rule
6)."""

from __future__ import annotations

from collections.abc import AsyncIterator

from delaybox.engine.ownership import Ownership
from delaybox.store import buckets, groups, labels, leases
from delaybox.store.store import Store

_CHUNK = 250
_PAUSE_S = 0.1
_LEASES_AT_ONCE = 100
_MOST_LEASES = 20_000
"""Most leases of one partition in one round."""


class Scrubber:
    """One step = one chunk of one bucket; buckets in order of time, partition after partition."""

    def __init__(self, store: Store, ownership: Ownership | None = None) -> None:
        self._store = store
        self._ownership = ownership or Ownership(store.partitions)
        self._walk: AsyncIterator[None] | None = None
        self.rounds = 0

    async def step(self) -> float:
        """For `Loop`."""
        if self._walk is None:
            self._walk = self._round()
        try:
            await anext(self._walk)
        except StopAsyncIteration:
            self._walk = None
            self.rounds += 1
            return 10.0
        except BaseException:
            self._walk = None
            raise
        return _PAUSE_S

    async def _round(self) -> AsyncIterator[None]:
        for p in range(self._store.partitions):
            if p not in self._ownership.kept:
                continue
            async for number in buckets.of_partition(self._store, p):
                cursor = b"0"
                while True:
                    cursor, _, _ = await self._store.index(p, number, cursor, count=_CHUNK)
                    yield
                    if cursor == b"0":
                        break
            async for _ in self._leases(p):
                yield
            async for _ in self._groups(p):
                yield
            async for _ in self._labels(p):
                yield

    async def _groups(self, p: int) -> AsyncIterator[None]:
        """Drops entries of groups whose tasks are gone, as when a node of an earlier version carried them out. What a
        group lacks comes back by the walk over the buckets."""
        after = b""
        while True:
            after, _, _ = await groups.regroup(self._store, p, after, count=_CHUNK)
            yield
            if not after:
                return

    async def _labels(self, p: int) -> AsyncIterator[None]:
        """As `_groups`, of the index of labels."""
        if not await labels.declared(self._store):
            return
        for first in range(0, labels.SETS, _CHUNK):
            for number in await labels.sets(self._store, p, first, _CHUNK):
                cursor = b"0"
                while True:
                    cursor, seen, _ = await labels.dangling(self._store, p, number, cursor, count=_CHUNK)
                    if seen >= _CHUNK or number % 16 == 0:
                        yield
                    if cursor == b"0":
                        break
            yield

    async def _leases(self, p: int) -> AsyncIterator[None]:
        """Mends the index of leased tasks, both ways, because nodes of an earlier version lease and settle without
        it."""
        cursor = b"0"
        while True:
            cursor, _, _, _ = await self._store.reindex(p, cursor, ())
            yield
            if cursor == b"0":
                break
        lease_ids = await leases.of_partition(self._store, p, _MOST_LEASES)
        while lease_ids:
            _, _, _, looked = await self._store.reindex(p, b"", lease_ids[:_LEASES_AT_ONCE])
            lease_ids = lease_ids[max(looked, 1) :]
            yield
