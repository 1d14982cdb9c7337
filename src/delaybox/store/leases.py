"""Leases: their ids, which scripts/lib/lease.lua reads as well, and which of them there are."""

from __future__ import annotations

import os

from delaybox.store import keys
from delaybox.store.store import Store

_LONGEST_MS = 2**32 - 1


def new_lease(lease_ms: int) -> bytes:
    """An id for a new lease: its length (u32, ms) and 16 random bytes.

    So the length belongs to the lease, and no node judges it by a setting of its own.
    """
    return min(lease_ms, _LONGEST_MS).to_bytes(4, "big") + os.urandom(16)


async def of_partition(store: Store, partition: int, most: int) -> list[bytes]:
    """Ids of the leases that expire first, ``most`` of them. StoreUnavailable."""
    found: list[bytes] = await store.servers.ask("ZRANGE", keys.leases(store.tags[partition]), 0, most - 1)
    return found
