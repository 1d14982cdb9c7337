"""Stores whose tasks are indexed by labels and by functions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import pytest
from redis.asyncio import Redis

from delaybox.core import ids
from delaybox.core.query import TaskQuery
from delaybox.core.task import NewTask, Submitted
from delaybox.engine.labeller import Labeller
from delaybox.engine.ownership import Ownership
from delaybox.service import Service
from delaybox.store import keys, label_entries, label_index, label_lists
from delaybox.store.fsck import fsck
from delaybox.store.record import LABELS, read, with_entry
from delaybox.store.servers import Servers
from delaybox.store.store import ClaimLimits, Store
from delaybox.wire import body as wire_body

LEASE = ClaimLimits(slots=100, types="wsp")


@pytest.fixture
async def store(client: Redis, prefix: str) -> AsyncIterator[Store]:
    opened = await Store.open(Servers(client), prefix=prefix, partitions=2)
    yield opened
    assert (await fsck(opened)).problems == []


async def built(store: Store, *names: str, functions: bool = False) -> Service:
    """A service with these labels indexed, in a store that knows them long enough."""
    long_ago = await store.ping() - 60_000
    if functions:
        await label_index.declare(store, names, functions=True)
        await store.servers.ask("HSET", keys.meta(store.prefix), "functions", long_ago)
    for name in names:
        await store.servers.ask("HSET", keys.indexed(store.prefix), name, long_ago)
    labeller = Labeller(store, Ownership(store.partitions))
    while await labeller.step() < 1:
        pass
    return Service(store)


async def submit(service: Service, *tasks: NewTask) -> list[str]:
    answers = await service.submit_many(tasks)
    assert all(isinstance(a, Submitted) for a in answers), answers
    return [a.task_id for a in answers if isinstance(a, Submitted)]


async def into_sets(store: Store, task_ids: Sequence[str], *names: str) -> None:
    """Makes tasks such as are replaced or updated: in sets, as their records say."""
    for task_id in task_ids:
        raw = ids.parse(task_id)
        tag = store.tags[ids.partition(raw)]
        home = keys.bucket(tag, ids.bucket(raw, store.bucket_ms))
        stored = await store.servers.ask("HGET", home, raw)
        message = wire_body.decode(read(raw, stored).body)
        value = label_entries.entry(names, wire_body.pairs(message.labels))
        made = with_entry(stored, LABELS, value)
        await store.servers.ask("HSET", home, raw, made)
        for number, member in label_entries.entries_of(read(raw, made)):
            await store.servers.ask("SADD", keys.label(tag, number), member)


async def without_lists(store: Store) -> None:
    """Forgets what the lists hold."""
    for tag in store.tags:
        await store.servers.ask("DEL", keys.listing(tag), *(keys.listed(tag, n) for n in range(label_entries.LISTS)))


async def found(service: Service, wanted: TaskQuery, *, limit: int = 100) -> list[str]:
    """The ids of all pages of a list, which must not scan."""
    out: list[str] = []
    cursor = ""
    while True:
        page = await service.list_tasks(wanted, cursor=cursor, limit=limit)
        assert not page.scanned
        out += [view.task_id for view in page.items]
        cursor = page.cursor
        if not cursor:
            return sorted(out)


async def entries(store: Store) -> tuple[int, int]:
    """How many entries of lists have not been looked at yet, and how many have."""

    async def count(*lists: str) -> int:
        found_ = [await store.servers.ask("LRANGE", key, 0, -1) for key in lists]
        return sum(len(element) // label_entries.ENTRY for some in found_ for element in some)

    new = await count(*(keys.listing(tag) for tag in store.tags))
    return new, await count(*(keys.listed(tag, n) for tag in store.tags for n in range(label_entries.LISTS)))


async def look_through(store: Store, *, every: bool = False) -> None:
    """Looks through the lists of all partitions."""
    for p in range(store.partitions):
        async for _ in label_lists.look_through(store, p, every=every):
            pass
