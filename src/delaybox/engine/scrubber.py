"""Walks over all records, slowly and for ever, and asserts the hint of each, so that a lost hint comes back (rule 6).

After a fail-over or a restart, when the server may have lost its last writes, it hurries through once.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence

from delaybox.core.errors import PartAway
from delaybox.engine.loops import Walk
from delaybox.engine.ownership import Ownership
from delaybox.store import buckets, groups, label_entries, label_index, label_lists, leases, scrubbed
from delaybox.store.store import MAX_ITEMS, Store

log = logging.getLogger("delaybox.engine")

_CHUNK = 250
_LOOK_S = 5.0
"""How often it is looked whether the server is another one."""
_PAUSE_S = 0.1
_REST_S = 10.0
"""Between two rounds."""
_TOGETHER = 50
"""In a hurry: buckets that are looked at together. Those with few records share round trips, of as many records as one
script may look at."""
_LEASES_AT_ONCE = 100
_MOST_LEASES = 20_000
"""Most leases of one partition in one round."""


class Scrubber:
    """One step = one chunk of one bucket; buckets in order of time, partition after partition."""

    def __init__(self, store: Store, ownership: Ownership | None = None) -> None:
        self._store = store
        self._ownership = ownership or Ownership(store.partitions)
        self._walk = Walk(lambda: self._round(self._in_turn(range(self._store.partitions))))
        self._chunk = _CHUNK
        self._hurries = False
        self._look_at = 0.0
        self.rounds = 0
        self._at = 0
        self._first = 0

    async def step(self) -> float:
        """For `Loop`."""
        began = time.monotonic()
        if not self._hurries and began >= self._look_at:
            self._look_at = began + _LOOK_S
            await self._look()
        try:
            more = await self._walk.step()
        except BaseException:
            # The next walk begins behind this partition: what is wrong here, or a blip of the server every hour, must
            # not keep it from all that come later.
            self._first = self._at + 1
            self._ended()
            raise
        if not more:
            self.rounds += 1
            return _PAUSE_S if self._ended() else _REST_S
        # In a hurry half of the time is the server's for others.
        return min(time.monotonic() - began, _PAUSE_S) if self._hurries else _PAUSE_S

    def _in_turn(self, partitions: Sequence[int]) -> list[int]:
        return sorted(partitions, key=lambda p: (p - self._first) % self._store.partitions)

    def _ended(self) -> bool:
        """A walk is over; whether it was one in a hurry."""
        self._chunk = _CHUNK
        hurried, self._hurries = self._hurries, False
        return hurried

    async def _look(self) -> None:
        """Begins to hurry where a server is another one than when all of its partitions were looked through last."""
        late: dict[int, bytes] = {}
        for kept in self._store.shards.group(sorted(self._ownership.kept)).values():
            try:
                run = await scrubbed.run_id(self._store, kept[0])
                if run:
                    late.update(dict.fromkeys(await scrubbed.lacking(self._store, kept, run), run))
            except PartAway:
                # Its server is away for a moment; the next look comes back to it.
                continue
        if late:
            self._walk.take(self._hurried(late))
            self._hurries, self._chunk = True, MAX_ITEMS

    async def _hurried(self, late: Mapping[int, bytes]) -> AsyncIterator[None]:
        """``late``: partitions, each with the run id of its server."""
        began = time.monotonic()
        for p in self._in_turn(list(late)):
            async for _ in self._round((p,)):
                yield
            if p in self._ownership.kept:
                await scrubbed.note(self._store, p, late[p])
        took_s = time.monotonic() - began
        if took_s > 1.0:
            log.info(
                "the server was restarted or replaced: all records of %d partitions were looked through in %.0f s",
                len(late),
                took_s,
            )

    async def _round(self, partitions: Sequence[int]) -> AsyncIterator[None]:
        labelled = await label_index.declared(self._store)
        for first in range(0, len(partitions), _TOGETHER):
            # Most of what there may be is not there in most stores, and in an idle one nothing at all.
            some = [p for p in partitions[first : first + _TOGETHER] if p in self._ownership.kept]
            for p, held in zip(some, await scrubbed.held(self._store, some), strict=True):
                if p not in self._ownership.kept:
                    continue
                self._at = p
                if held.home:
                    async for _ in self._buckets(p):
                        yield
                if held.leased:
                    async for _ in self._leases(p):
                        yield
                if held.groups:
                    async for _ in self._groups(p):
                        yield
                if labelled:
                    async for _ in self._labels(p):
                        yield

    async def _buckets(self, p: int) -> AsyncIterator[None]:
        batch: list[int] = []
        async for number in buckets.of_partition(self._store, p):
            batch.append(number)
            if len(batch) == (_TOGETHER if self._hurries else 1):
                async for _ in self._index(p, batch):
                    yield
                batch = []
        async for _ in self._index(p, batch):
            yield

    async def _index(self, p: int, numbers: Sequence[int]) -> AsyncIterator[None]:
        """Asserts the hints of some buckets. Where tasks lie thin over months there is a bucket for each, and as many
        round trips would take longer than all records of dense minutes."""
        sizes = await scrubbed.sizes(self._store, p, numbers) if len(numbers) > 1 else []
        left = [(number, b"0") for number in numbers[len(sizes) :]]
        together: list[int] = []
        records = 0
        for number, size in [*zip(numbers, sizes, strict=False), (-1, MAX_ITEMS)]:
            if together and records + size > MAX_ITEMS:
                left += await scrubbed.index(self._store, p, together, count=self._chunk)
                yield
                together, records = [], 0
            if size > MAX_ITEMS // 2:
                left += [(number, b"0")] if number >= 0 else []
            else:
                together.append(number)
                records += size
        for number, cursor in left:
            while True:
                cursor, _, _ = await self._store.index(p, number, cursor, count=self._chunk)
                yield
                if cursor == b"0":
                    break

    async def _groups(self, p: int) -> AsyncIterator[None]:
        """Drops entries of groups whose tasks are gone, as when a node of an earlier version carried them out. What a
        group lacks comes back by the walk over the buckets."""
        after, left = b"", True
        while left:
            after, _, _ = await groups.regroup(self._store, p, after, count=self._chunk)
            yield
            left = bool(after)

    async def _labels(self, p: int) -> AsyncIterator[None]:
        """As `_groups`, of the index of labels."""
        for first in range(0, label_entries.SETS, _CHUNK):
            for number in await label_index.sets(self._store, p, first, _CHUNK):
                cursor = b"0"
                while True:
                    cursor, seen, _ = await label_index.dangling(self._store, p, number, cursor, count=_CHUNK)
                    if seen >= _CHUNK or number % 16 == 0:
                        yield
                    if cursor == b"0":
                        break
            yield
        async for _ in label_lists.look_through(self._store, p, every=True):
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
