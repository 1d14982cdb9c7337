"""Reads a live store task by task, for an export, and stores what was exported into this one or another."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from msgspec.structs import replace

from delaybox.core import ids
from delaybox.core.partition import of_key
from delaybox.core.task import TaskType
from delaybox.store import keys
from delaybox.store.loader import ScriptCall
from delaybox.store.record import (
    ONCE,
    PERMIT,
    SUPERSEDED,
    Record,
    UnreadableRecord,
    extension_entries,
    extension_of,
    id_of_key,
    is_newer,
    read,
    read_dead_raw,
    rewrite,
)
from delaybox.store.replies import Found
from delaybox.store.scanning import hash_pages, zset_members
from delaybox.store.servers import Command
from delaybox.store.store import Store

PAGE: Final = 500
BODIES: Final = 16
"""Tasks whose bodies lie apart that are read in one round trip: a body has up to some MiB."""
MOST_ITEMS: Final = 100
"""Tasks in one call of `import`, at most."""
REMEMBERED_MS: Final = 30 * 24 * 3_600_000
"""How long a partition knows how far it has an export."""


@dataclass(frozen=True, slots=True)
class StoredTask:
    """A task as it lies in the store. ``value``: its record or dead letter; ``print``: behind its idempotency key."""

    task_id: bytes
    value: bytes
    record: Record
    body: bytes = b""
    print: bytes = b""


@dataclass(slots=True)
class Passed:
    """What was passed over. ``newer``: written by a newer version; ``bad``: cannot be read."""

    newer: int = 0
    bad: int = 0


# -- reading ------------------------------------------------------------------------------------------------------


async def buckets(store: Store, partition: int) -> list[int]:
    """The numbers of a partition's buckets that hold something, in order. StoreUnavailable."""
    return [int(n) for n in await store.servers.ask("ZRANGE", keys.buckets(store.tags[partition]), 0, -1)]


async def waiting(store: Store, partition: int, bucket: int, passed: Passed) -> AsyncIterator[list[StoredTask]]:
    """The tasks of one bucket, some at a time."""
    key = keys.bucket(store.tags[partition], bucket)
    async for page in hash_pages(store.servers, key, PAGE):
        # An empty field is a pointer to a task that lies in another bucket.
        yield await _whole(store, partition, [(task_id, raw) for task_id, raw in page if raw], passed)


async def leased(store: Store, partition: int, passed: Passed) -> AsyncIterator[list[StoredTask]]:
    """The tasks that are handed out now, as they are put back when their lease expires, but nothing charged.

    Without those that are never put back: handed out at most once, or replaced by another while they run.
    """
    tag = store.tags[partition]
    leases = [lease_id async for lease_id in zset_members(store.servers, keys.leases(tag), PAGE)]
    for lease_id in leases:
        async for page in hash_pages(store.servers, keys.lease(tag, lease_id), PAGE):
            found = await _whole(store, partition, page, passed)
            yield [put_back(one) for one in found if not _never_again(one.record)]


async def dead(store: Store, partition: int, passed: Passed) -> AsyncIterator[list[StoredTask]]:
    """The dead letters, some at a time."""
    async for page in hash_pages(store.servers, keys.dead(store.tags[partition]), PAGE):
        yield await _whole(store, partition, page, passed, of_dead=True)


async def ended_keys(store: Store) -> AsyncIterator[list[tuple[bytes, bytes, int]]]:
    """(idempotency key, entry, ms of the server's clock until which it lives) of tasks that have ended."""
    tags = {tag.encode() for tag in store.tags}
    async for found in store.servers.keys_like(keys.pattern(store.prefix), 2 * PAGE):
        parts = [(key, keys.parts(key)) for key in found]
        mine = [(key, rest) for key, (tag, kind, rest) in parts if kind == b"idem" and tag in tags]
        asks: list[Command] = []
        for key, _ in mine:
            asks += [("PEXPIRETIME", key), ("GET", key)]
        replies = await store.servers.ask_many(asks)
        entries = zip(mine, replies[0::2], replies[1::2], strict=True)
        yield [(rest, entry, until) for (_, rest), until, entry in entries if entry and until > 0]


async def _whole(
    store: Store, partition: int, page: Sequence[tuple[bytes, bytes]], passed: Passed, *, of_dead: bool = False
) -> list[StoredTask]:
    """Adds what lies apart: bodies, and fingerprints of idempotency keys."""
    found: list[StoredTask] = []
    apart: list[bytes] = []
    for task_id, value in page:
        raw = read_dead_raw(value) if of_dead else value
        if is_newer(raw):
            passed.newer += 1
            continue
        try:
            record = read(task_id, raw)
        except UnreadableRecord:
            passed.bad += 1
            continue
        if record.stub:
            apart.append(task_id)
        else:
            found.append(StoredTask(task_id, value, record))
    for at in range(0, len(apart), BODIES):
        found += await _with_bodies(store, partition, apart[at : at + BODIES], of_dead=of_dead)
    return await _with_prints(store, partition, found)


async def _with_bodies(store: Store, partition: int, task_ids: Sequence[bytes], *, of_dead: bool) -> list[StoredTask]:
    """Record and body of one moment, where they lie by now. Of the dead only what still is."""
    tag = store.tags[partition]
    replies = await store.runner.run_many([ScriptCall("get", tag, (i, store.bucket_ms)) for i in task_ids])
    kept: list[StoredTask] = []
    for task_id, reply in zip(task_ids, replies, strict=True):
        if isinstance(reply, BaseException):
            raise reply
        now = Found(reply[0]) if len(reply) == 1 else Found(reply[0], reply[1].decode(), *reply[2:])
        if (now.place == "dead") is not of_dead or now.place not in ("home", "lease", "dead"):
            continue  # it has ended, or stands elsewhere by now, where it is read as well
        raw = read_dead_raw(now.value) if of_dead else now.value
        try:
            record = read(task_id, raw)
        except UnreadableRecord:
            continue
        if now.place != "lease":
            kept.append(StoredTask(task_id, now.value, record, now.body if record.stub else b""))
        elif not _never_again(record):
            kept.append(put_back(StoredTask(task_id, now.value, record, now.body if record.stub else b"")))
    return kept


async def _with_prints(store: Store, partition: int, found: list[StoredTask]) -> list[StoredTask]:
    keyed = [i for i, one in enumerate(found) if one.record.key is not None]
    if not keyed:
        return found
    tag = store.tags[partition]
    entries = await store.servers.ask("MGET", *[keys.idem(tag, found[i].record.key or b"") for i in keyed])
    for i, entry in zip(keyed, entries, strict=True):
        one = found[i]
        if entry and id_of_key(entry) == one.task_id:
            found[i] = StoredTask(one.task_id, one.value, one.record, one.body, entry[ids.ID_BYTES :])
    return found


def _never_again(record: Record) -> bool:
    entries = extension_entries(record.extension)
    return SUPERSEDED in entries or ONCE in entries


def put_back(one: StoredTask) -> StoredTask:
    """A task that is leased, as one that waits."""
    entries = extension_entries(one.record.extension)
    if entries.pop(PERMIT, None) is None:
        return one
    record = replace(one.record, extension=extension_of(entries))
    body = one.body if record.stub else record.body
    raw, _ = rewrite(record, body=body, due_ms=record.due_ms, priority=record.priority)
    return StoredTask(one.task_id, raw, record, one.body, one.print)


# -- storing ------------------------------------------------------------------------------------------------------


def home(task_id: bytes, record: Record, before: int, now: int) -> bytes:
    """The id that a task has in a store of ``now`` partitions, where its own had ``before``; both are powers of two.

    The same number: the same id. Else the partition in it changes: an idempotency key decides it, PUB_SUB tasks
    without one keep theirs as far as there is one (those of one message key stay together), others are spread.
    """
    p = ids.partition(task_id)
    if before == now:
        return task_id
    if record.key is not None:
        p = of_key(record.key, now)
    elif now < before or record.lane[:1] == TaskType.PUB_SUB.value.encode():
        p &= now - 1
    else:
        p |= of_key(task_id, now) & ~(before - 1)
    return task_id[:6] + (0x8000 | p).to_bytes(2, "big") + task_id[8:]


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to store. ``kind``: p a task that waits, d a dead letter, k the key of a task that has ended.
    ``before``: the id that the task had in the store that was exported."""

    line: int
    kind: str
    task_id: bytes
    value: bytes
    body: bytes = b""
    print: bytes = b""
    before: bytes = b""

    @property
    def args(self) -> tuple[Any, ...]:
        return self.line, self.kind, self.task_id, self.value, self.body, self.print


async def covered(store: Store, export: str) -> list[int]:
    """For each partition the line up to which it has an export; 0: nothing of it. StoreUnavailable."""
    asks: list[Command] = [("GET", keys.imported(tag, export)) for tag in store.tags]
    return [int(reply or 0) for reply in await store.servers.ask_many(asks)]


async def bring(store: Store, export: str, groups: dict[int, list[Item]], up_to: int) -> dict[int, list[str]]:
    """Stores items of several partitions in one round trip; for each partition what became of them: stored, known,
    ended, taken or bad. ``up_to``: the last line that these and those before them cover.

    Harmless when repeated. StoreUnavailable; StoreFull.
    """
    calls = []
    for p, items in groups.items():
        head = (store.store_id, store.bucket_ms, store.wakes[p], export, up_to, REMEMBERED_MS)
        calls.append(ScriptCall("import", store.tags[p], [*head, *(arg for item in items for arg in item.args)]))
    words: dict[int, list[str]] = {}
    for p, reply in zip(groups, await store.run_new(calls), strict=True):
        if isinstance(reply, BaseException):
            raise reply
        words[p] = [word.decode() for word in reply]
    return words
