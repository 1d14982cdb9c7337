"""Indexes what was stored before a label was named, partition by partition; until then look-ups by it scan."""

from __future__ import annotations

from collections.abc import AsyncIterator

from delaybox.engine.loops import Walk
from delaybox.engine.ownership import Ownership
from delaybox.store import buckets, keys, label_index, leases
from delaybox.store.label_lists import Known
from delaybox.store.record import read_dead_raw
from delaybox.store.scanning import hash_pages
from delaybox.store.store import Store

_CHUNK = 250
_IDLE_S = 2.0
_PAUSE_S = 0.01
_MOST_LEASES = 20_000


class Labeller:
    """One step = one chunk of records. A partition is complete after two walks: what the first one did not see, because
    it left a lease for home meanwhile, the second one does."""

    def __init__(self, store: Store, ownership: Ownership) -> None:
        self._store = store
        self._ownership = ownership
        self._walk = Walk(self._round)

    async def step(self) -> float:
        """For `Loop`."""
        if not await self._walk.step():
            return _IDLE_S
        return _PAUSE_S

    async def _round(self) -> AsyncIterator[None]:
        store = self._store
        named = await label_index.declared(store)
        if not named:
            return
        now = await store.ping()
        # By then every writer knows the label, so whatever comes after the walk is indexed when it is stored.
        names = frozenset(name for name, since in named.items() if since + label_index.SETTLED_MS <= now)
        kept = sorted(self._ownership.kept)
        for p, done in zip(kept, await label_index.complete(store, kept), strict=True):
            if names <= done:
                continue
            for _ in range(2):
                known = Known()
                async for _ in known.read(store, p):
                    yield
                async for found in self._records(p):
                    await label_index.index(store, p, found, names - done, known)
                    yield
            await label_index.completed(store, p, names | done)

    async def _records(self, p: int) -> AsyncIterator[dict[bytes, bytes]]:
        """Every record of a partition, id -> record, a chunk at a time."""
        servers, tag = self._store.servers, self._store.tags[p]
        async for number in buckets.of_partition(self._store, p):
            async for page in hash_pages(servers, keys.bucket(tag, number), _CHUNK):
                yield dict(page)
        for lease_id in await leases.of_partition(self._store, p, _MOST_LEASES):
            async for page in hash_pages(servers, keys.lease(tag, lease_id), _CHUNK):
                yield dict(page)
        async for page in hash_pages(servers, keys.dead(tag), _CHUNK):
            yield {task_id: read_dead_raw(value) for task_id, value in page}
