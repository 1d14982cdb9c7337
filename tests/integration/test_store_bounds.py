"""What readers ask of thin and of crowded stores costs little, and says what it is."""

from __future__ import annotations

import os
from typing import Any

import pytest
from redis.asyncio import Redis

from delaybox.core.errors import InvalidTask
from delaybox.core.query import TaskQuery
from delaybox.core.task import NewTask, TaskType
from delaybox.service import Service
from delaybox.store import keys
from delaybox.store.record import draft
from delaybox.store.servers import Servers
from delaybox.store.store import Batch, ClaimLimits, Store

MINUTE = 60_000
THIN = 2_400


@pytest.fixture
async def thin(client: Redis, prefix: str) -> Store:
    """A store of two partitions with one task in each of very many minutes."""
    store = await Store.open(Servers(client), prefix=prefix, partitions=2)
    now = await store.ping()
    for p in range(2):
        for at in range(0, THIN, 400):
            drafts = [draft(NewTask(due_ms=now + (10 + 2 * i + p) * MINUTE)) for i in range(at, at + 400)]
            (answers,) = await store.schedule([Batch(p, drafts)])
            assert not isinstance(answers, BaseException)
    return store


async def test_counts_of_a_thin_store_are_quick_and_called_estimates(thin: Store, client: Redis) -> None:
    counts = await thin.counts()
    assert all(c.pending_guessed for c in counts)
    assert sum(c.pending for c in counts) == 2 * THIN, "even ones are estimated well"
    assert (await Service(thin).counts()).estimated
    await thin.servers.ask("CONFIG", "RESETSTAT")
    await thin.counts()
    stats: Any = await client.info("commandstats")
    # Every bucket of every partition was asked for its size.
    assert stats["cmdstat_hlen"]["calls"] <= 2 * 110


async def test_due_tasks_of_many_lanes_are_all_counted(client: Redis, prefix: str) -> None:
    store = await Store.open(Servers(client), prefix=prefix, partitions=1)
    for at in range(0, 600, 300):
        drafts = [draft(NewTask(type=TaskType.WORKER, name=f"f{i}")) for i in range(at, at + 300)]
        await store.schedule([Batch(0, drafts)])
    # A claim that serves none of it makes it ready, lane by lane.
    while (await store.claim(0, os.urandom(20), ClaimLimits(slots=1, types="w", lanes=(b"wx:f",)))).promoted:
        pass
    (counts,) = await store.counts()
    assert counts.due == 600
    assert counts.due_guessed


async def test_tasks_in_flight_of_many_leases_are_counted(client: Redis, prefix: str) -> None:
    store = await Store.open(Servers(client), prefix=prefix, partitions=1)
    await store.schedule([Batch(0, [draft(NewTask(type=TaskType.WORKER, name="f")) for _ in range(240)])])
    for _ in range(120):
        await store.claim(0, os.urandom(20), ClaimLimits(slots=2, types="w", items=2))
    assert (await store.counts())[0].in_flight == 240
    (queue,) = await Service(store).queues()
    assert (queue.in_flight, queue.complete) == (240, False)


async def test_pages_of_a_thin_store_take_few_round_trips(thin: Store, client: Redis) -> None:
    service = Service(thin)
    await thin.servers.ask("CONFIG", "RESETSTAT")
    first = await service.list_pending(limit=1_000, skip=0)
    last = await service.list_pending(limit=1_000, skip=2 * THIN - 500)
    stats: Any = await client.info("commandstats")
    assert [len(first), len(last)] == [1_000, 500]
    dues = [view.due_ms for view in first]
    assert dues == sorted(dues)
    assert last[0].due_ms > first[-1].due_ms
    # One read for each minute shown, and none for those that are passed over.
    assert stats["cmdstat_hscan"]["calls"] < 2 * 1_700
    with pytest.raises(InvalidTask, match="GET /v1/tasks"):
        await service.list_pending(limit=1_000, skip=99_001)


async def test_the_pages_of_both_lists_show_the_same(thin: Store, client: Redis) -> None:
    service = Service(thin)
    by_offset: list[str] = []
    for page in range(5):
        by_offset += [view.task_id for view in await service.list_pending(limit=1_000, skip=1_000 * page)]
    by_cursor: list[str] = []
    cursor = ""
    while True:
        found = await service.list_tasks(TaskQuery(), cursor=cursor, limit=700)
        by_cursor += [view.task_id for view in found.items]
        cursor = found.cursor
        if not cursor:
            break
    assert by_offset == by_cursor
    assert len(set(by_offset)) == 2 * THIN


async def test_running_tasks_are_listed_whatever_the_number_of_leases(client: Redis, prefix: str) -> None:
    store = await Store.open(Servers(client), prefix=prefix, partitions=1)
    await store.schedule([Batch(0, [draft(NewTask(type=TaskType.WORKER, name="f")) for _ in range(130)])])
    for _ in range(65):
        await store.claim(0, os.urandom(20), ClaimLimits(slots=2, types="w", items=2))
    service = Service(store)
    shown: list[str] = []
    cursor = ""
    while True:
        found = await service.list_tasks(TaskQuery(), cursor=cursor, limit=7)
        shown += [view.task_id for view in found.items]
        cursor = found.cursor
        if not cursor:
            break
    assert len(shown) == len(set(shown)) == 130
    assert await client.hlen(keys.leased(store.tags[0])) == 130


async def test_pages_of_changing_length_show_each_task_of_a_crowded_minute_once(client: Redis, prefix: str) -> None:
    """What a scan of a hash brings depends on how much is asked for; gRPC asks for less where tasks are large."""
    store = await Store.open(Servers(client), prefix=prefix, partitions=1)
    due = await store.ping() + 60 * MINUTE
    for _ in range(8):
        await store.schedule([Batch(0, [draft(NewTask(due_ms=due)) for _ in range(400)])])
    service, seen, cursor, limits = Service(store), [], "", [300, 20, 1_000, 7, 130]
    while True:
        limits = [*limits[1:], limits[0]]
        page = await service.list_tasks(TaskQuery(), cursor=cursor, limit=limits[0])
        seen += [task.task_id for task in page.items]
        if not (cursor := page.cursor):
            break
    assert len(seen) == len(set(seen)) == 3_200
