"""Which buckets hold tasks, in order of time."""

from __future__ import annotations

from collections.abc import AsyncIterator

from delaybox.store import keys
from delaybox.store.servers import Command
from delaybox.store.store import Store

_AT_ONCE = 50
"""Buckets of one partition read in one round trip."""


async def of_partition(store: Store, partition: int) -> AsyncIterator[int]:
    """Numbers of a partition's buckets, read some at a time: one that is made meanwhile may be missing."""
    after = -1
    while True:
        found = (await store.servers.ask_many([_some(store, partition, after + 1, "+inf")]))[0]
        for number in found:
            yield int(number)
        if len(found) < _AT_ONCE:
            return
        after = int(found[-1])


async def between(store: Store, first: int, last: int) -> AsyncIterator[tuple[int, int]]:
    """(number, partition) of the buckets from first to last of all partitions, read some at a time."""
    at = first
    while at <= last:
        replies = await store.servers.ask_many([_some(store, p, at, last) for p in range(store.partitions)])
        # A partition that sent as many as it may can hold more right after its last one. So only the time up to the
        # earliest of these last ones is complete.
        full = [int(numbers[-1]) for numbers in replies if len(numbers) == _AT_ONCE]
        edge = min(full) if full else None
        found = [(int(n), p) for p, numbers in enumerate(replies) for n in numbers if edge is None or int(n) <= edge]
        for entry in sorted(found):
            yield entry
        if edge is None:
            return
        at = edge + 1


def _some(store: Store, partition: int, first: int, last: int | str) -> Command:
    return ("ZRANGE", keys.buckets(store.tags[partition]), first, last, "BYSCORE", "LIMIT", 0, _AT_ONCE)
