"""Leases: their ids, which scripts/lib/lease.lua reads as well, which of them there are, and how tasks move between
them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

from delaybox.store import keys
from delaybox.store.loader import ScriptCall
from delaybox.store.store import MAX_ITEMS, Store

_LONGEST_MS = 2**32 - 1
_OF_WORKER = b"wrkr"


def new_lease(lease_ms: int, *, of_worker: bool = False) -> bytes:
    """An id for a new lease: its length (u32, ms) and 16 bytes, random but for the last four of a worker's own lease.

    So the length belongs to the lease, and no node judges it by a setting of its own. ``of_worker``: who holds it runs
    its tasks itself, so that they are charged with the loss of a worker when it expires.
    """
    length = min(lease_ms, _LONGEST_MS).to_bytes(4, "big")
    return length + (os.urandom(12) + _OF_WORKER if of_worker else os.urandom(16))


class Adopted(NamedTuple):
    """What became of tasks that were to move to another lease. Those in neither list were lost: others have them."""

    leased: list[bytes]
    """Flat: id, record, id, record. They lie in the new lease now."""
    ended: list[bytes]
    """Ids of tasks that have ended."""


async def adopt(
    store: Store, partition: int, old_lease: bytes, new_lease: bytes, task_ids: Sequence[bytes], *, lease_ms: int
) -> Adopted:
    """Moves tasks from one lease to another, charging nothing; the holder of the old one is stale from then on.

    The same call again does no harm. ``lease_ms``: for lease ids that do not carry their length. StoreUnavailable: it
    is not known whether they were moved.
    """
    found = Adopted([], [])
    for at in range(0, len(task_ids), MAX_ITEMS):
        args = (old_lease, new_lease, lease_ms, store.bucket_ms, *task_ids[at : at + MAX_ITEMS])
        leased, ended = await store.runner.run(ScriptCall("adopt", store.tags[partition], args))
        found.leased.extend(leased)
        found.ended.extend(ended)
    return found


async def of_partition(store: Store, partition: int, most: int) -> list[bytes]:
    """Ids of the leases that expire first, ``most`` of them. StoreUnavailable."""
    found: list[bytes] = await store.servers.ask("ZRANGE", keys.leases(store.tags[partition]), 0, most - 1)
    return found
