"""Groups: the tasks of one name, found by the index of groups of each partition, in time that grows with the group.

An entry of the index is a hint. Whether a task belongs to the group is decided by its record, when it is read and again
by the script that changes it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

from delaybox.core import ids
from delaybox.core.partition import of_id
from delaybox.store import keys
from delaybox.store.loader import ScriptCall
from delaybox.store.looks import look
from delaybox.store.record import Record, UnreadableRecord, group_member, read
from delaybox.store.servers import Command
from delaybox.store.store import Store

PAGE = 500
"""Most entries that are read in one round trip."""
_NEVER = b"\xff" * 17
"""Behind every id."""


class GroupedTask(NamedTuple):
    """A task that an index names. ``leased``: it runs."""

    record: Record
    leased: bool


async def places(store: Store, group: str, start: int = 0) -> list[int]:
    """The partitions from ``start`` on in which a group has tasks. StoreUnavailable."""
    first, last = b"[" + group_member(group, b""), b"[" + group_member(group, _NEVER)
    partitions = range(start, store.partitions)

    def asked(tag: str) -> list[Command]:
        return [("ZRANGE", keys.groups(tag), first, last, "BYLEX", "LIMIT", 0, 1)]

    _, found = await look(store, partitions, asked)
    return [p for p, (some,) in zip(partitions, found, strict=True) if some]


async def members(store: Store, partition: int, group: str, after: bytes = b"") -> AsyncIterator[list[GroupedTask]]:
    """The tasks of a group in one partition that wait or run, in the order of their ids, behind the id ``after``.

    Dead letters are left out. A page may be empty. StoreUnavailable.
    """
    index = keys.groups(store.tags[partition])
    last = b"[" + group_member(group, _NEVER)
    while True:
        first = b"(" + group_member(group, after)
        found: list[bytes] = await store.servers.ask("ZRANGE", index, first, last, "BYLEX", "LIMIT", 0, PAGE)
        task_ids = [member[-ids.ID_BYTES :] for member in found]
        yield [member for member in await read_members(store, task_ids) if member.record.group == group]
        if len(found) < PAGE:
            return
        after = task_ids[-1]


async def read_members(store: Store, task_ids: Sequence[bytes]) -> list[GroupedTask]:
    """Those of some tasks that wait or run. StoreUnavailable."""

    def tag(task_id: bytes) -> str:
        return store.tags[of_id(task_id, store.partitions)]

    at_home = await store.servers.ask_many(
        [("HGET", keys.bucket(tag(task_id), ids.bucket(task_id, store.bucket_ms)), task_id) for task_id in task_ids]
    )
    elsewhere = [task_id for task_id, raw in zip(task_ids, at_home, strict=True) if not raw]
    leases = await store.servers.ask_many([("HGET", keys.leased(tag(task_id)), task_id) for task_id in elsewhere])
    running = [(task_id, lease) for task_id, lease in zip(elsewhere, leases, strict=True) if lease is not None]
    held = await store.servers.ask_many(
        [("HGET", keys.lease(tag(task_id), lease), task_id) for task_id, lease in running]
    )
    in_lease = dict(zip([task_id for task_id, _ in running], held, strict=True))
    out: list[GroupedTask] = []
    for task_id, raw in zip(task_ids, at_home, strict=True):
        there = raw or in_lease.get(task_id)
        try:
            if there:
                out.append(GroupedTask(read(task_id, there), not raw))
        except UnreadableRecord:
            continue
    return out


async def regroup(store: Store, partition: int, after: bytes, *, count: int = 250) -> tuple[bytes, int, int]:
    """Drops entries whose tasks are gone: (the entry to go on behind, b"" at the end; entries seen; dropped)."""
    call = ScriptCall("regroup", store.tags[partition], (store.bucket_ms, after, count))
    reply = await store.runner.run(call)
    return reply[0], reply[1], reply[2]
