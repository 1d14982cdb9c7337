"""The leases that an engine holds, and how they are kept alive while their tasks run."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from delaybox import failpoints, metrics
from delaybox.core.delivery import Delivery
from delaybox.store.store import MAX_ITEMS, Store

log = logging.getLogger("delaybox.engine")


class HeldLeases:
    """How many deliveries of each lease are under way."""

    def __init__(self, store: Store, lease_ms: int) -> None:
        self._store = store
        self._lease_ms = lease_ms
        self._leases: dict[tuple[int, bytes], int] = {}
        self._suspects: set[tuple[int, bytes]] = set()

    def any_of(self, partition: int) -> bool:
        """Whether tasks of this partition are under way."""
        return any(p == partition for p, _ in self._leases)

    def add(self, partition: int, lease_id: bytes, count: int) -> None:
        """A lease was taken that holds so many tasks."""
        self._leases[partition, lease_id] = count

    def drop(self, deliveries: Sequence[Delivery]) -> None:
        """These are settled."""
        partition, lease_id, count = 0, b"", 0
        for d in deliveries:
            # Mostly all are of one claim, which has one object for its lease.
            if d.lease_id is not lease_id:
                self._less(partition, lease_id, count)
                partition, lease_id, count = d.partition, d.lease_id, 0
            count += 1
        self._less(partition, lease_id, count)

    def _less(self, partition: int, lease_id: bytes, count: int) -> None:
        left = self._leases.get((partition, lease_id))
        if left is not None:
            if left <= count:
                del self._leases[partition, lease_id]
            else:
                self._leases[partition, lease_id] = left - count

    async def extend(self, shard: int | None) -> None:
        """Extends all that still have work. ``shard``: only those at the server of this number."""
        by: dict[int, list[bytes]] = {}
        shards = self._store.shards.of
        for partition, lease_id in self._leases:
            if shard is None or shards[partition] == shard:
                by.setdefault(partition, []).append(lease_id)
        groups = [
            (partition, lease_ids[at : at + MAX_ITEMS])
            for partition, lease_ids in by.items()
            for at in range(0, len(lease_ids), MAX_ITEMS)
        ]
        if not groups:
            return
        failpoints.hit("before_extend")
        # All in one round trip, because after an outage there is only one lease's time for it.
        replies = await self._store.runner.run_many(
            [self._store.extend_call(partition, lease_ids, self._lease_ms) for partition, lease_ids in groups]
        )
        failpoints.hit("after_extend_reply")
        problem: BaseException | None = None
        suspects = {key for key in self._suspects if key[0] not in by}
        gone = 0
        for (partition, lease_ids), reply in zip(groups, replies, strict=True):
            if isinstance(reply, BaseException):
                suspects |= self._suspects & {(partition, lease_id) for lease_id in lease_ids}
                problem = reply
                continue
            # A lease may be gone because its last ack was just carried out and the reply is on its way. So a lease is
            # only suspect when it is missing once, and lost when it is missing twice.
            for key in {(partition, lease_id) for lease_id in reply} & self._leases.keys():
                if key in self._suspects:
                    del self._leases[key]
                    gone += 1
                else:
                    suspects.add(key)
        self._suspects = suspects
        if gone:
            metrics.lease_lost(gone)
            log.warning("%d leases expired before their tasks were done; those tasks run again elsewhere", gone)
        if problem is not None:
            raise problem


async def lost_meanwhile(store: Store, partition: int, lease_id: bytes, lease_ms: int) -> bool:
    """Whether a claim whose reply came very late has lost its lease: its tasks come back to whoever claims next. One
    that lives is extended. StoreUnavailable.

    The store decides: it may have carried the claim out late, or spare leases for a while after an outage.
    """
    if not await store.extend(partition, [lease_id], lease_ms):
        return False
    metrics.claim_too_late()
    words = "a claim's reply came after its lease of %d ms was over, because this process or the store stood still"
    log.warning(words + "; its tasks run elsewhere", lease_ms)
    return True
