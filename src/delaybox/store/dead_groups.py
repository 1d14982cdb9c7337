"""The newest dead letters by what ended them: heads and reasons alone, read in bounded steps."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import NamedTuple

from delaybox.core import ids
from delaybox.store import keys
from delaybox.store.record import Record, UnreadableRecord, read_dead
from delaybox.store.store import Store

MOST = 5_000
"""Dead letters looked at."""
_MOST_BYTES = 32 * 1024 * 1024
_AT_ONCE = 250
"""Read in one round trip, of all partitions together."""


class DeadLetter(NamedTuple):
    """What a group needs of one. ``died_ms``: when it became one."""

    task_id: bytes
    died_ms: int
    lane: bytes
    reason: str


async def newest(store: Store) -> tuple[list[DeadLetter], int]:
    """(the newest dead letters, newest first; how many there are in all). StoreUnavailable."""
    each = -(-MOST // store.partitions)
    asked = [("ZRANGE", keys.dead_at(tag), 0, each - 1, "REV", "WITHSCORES") for tag in store.tags]
    replies = await store.servers.ask_many(asked + [("ZCARD", keys.dead_at(tag)) for tag in store.tags])
    found: list[tuple[int, bytes]] = []
    for reply in replies[: store.partitions]:
        found += [(int(at), task_id) for task_id, at in reply]
    found.sort(reverse=True)
    out: list[DeadLetter] = []
    size = 0
    for at in range(0, len(found), _AT_ONCE):
        some = found[at : at + _AT_ONCE]
        values = await _values(store, [task_id for _, task_id in some])
        for (died, task_id), value in zip(some, values, strict=True):
            if value is None:
                continue  # replayed or discarded since
            size += len(value)
            try:
                _, reason, record = read_dead(task_id, value)
            except UnreadableRecord:
                continue
            out.append(DeadLetter(task_id, died, record.lane, reason))
        if size > _MOST_BYTES:
            break
    return out, sum(replies[store.partitions :])


async def latest(store: Store, partition: int, count: int) -> list[tuple[Record, str]]:
    """The last ``count`` dead letters of a partition, each with its reason. StoreUnavailable."""
    tag = store.tags[partition]
    found = await store.servers.ask("ZRANGE", keys.dead_at(tag), 0, min(count, _AT_ONCE) - 1, "REV")
    out: list[tuple[Record, str]] = []
    for task_id, value in zip(found, await _values(store, found), strict=True):
        with contextlib.suppress(UnreadableRecord):
            if value is not None:
                _, reason, record = read_dead(task_id, value)
                out.append((record, reason))
    return out


async def _values(store: Store, task_ids: Iterable[bytes]) -> list[bytes | None]:
    asked = [("HGET", keys.dead(store.tags[ids.partition(one) % store.partitions]), one) for one in task_ids]
    return list(await store.servers.ask_many(asked))
