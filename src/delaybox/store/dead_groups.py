"""The newest dead letters by what ended them: heads and reasons alone, read in bounded steps."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable, Sequence
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
        letters, read = await _letters(store, found[at : at + _AT_ONCE])
        out += letters
        size += read
        if size > _MOST_BYTES:
            break
    return out, sum(replies[store.partitions :])


async def of_partition(store: Store, partition: int) -> AsyncIterator[list[DeadLetter]]:
    """All of one partition, newest first, some hundreds a step. Those that go meanwhile may keep some from being seen.
    StoreUnavailable."""
    first = 0
    while True:
        asked = ("ZRANGE", keys.dead_at(store.tags[partition]), first, first + _AT_ONCE - 1, "REV", "WITHSCORES")
        reply = await store.servers.ask(*asked)
        if not reply:
            return
        letters, _ = await _letters(store, [(int(at), task_id) for task_id, at in reply])
        yield letters
        first += len(reply)


async def _letters(store: Store, found: Sequence[tuple[int, bytes]]) -> tuple[list[DeadLetter], int]:
    """Those of (when it died, id), and how many bytes were read."""
    out: list[DeadLetter] = []
    size = 0
    values = await _values(store, [task_id for _, task_id in found])
    for (died, task_id), value in zip(found, values, strict=True):
        if value is None:
            continue  # replayed or discarded since
        size += len(value)
        with contextlib.suppress(UnreadableRecord):
            _, reason, record = read_dead(task_id, value)
            out.append(DeadLetter(task_id, died, record.lane, reason))
    return out, size


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
