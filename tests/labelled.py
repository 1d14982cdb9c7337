"""Stores whose tasks are indexed by labels and by functions."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from delaybox.core.task import NewTask, Submitted
from delaybox.engine.labeller import Labeller
from delaybox.engine.ownership import Ownership
from delaybox.service import Service
from delaybox.store import keys, labels
from delaybox.store.fsck import fsck
from delaybox.store.servers import Servers
from delaybox.store.store import ClaimLimits, Store

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
        await labels.declare(store, names, functions=True)
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
