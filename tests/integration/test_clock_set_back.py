"""A server's clock that is set back by an hour: who looks now and then goes on, and not when the hour is over."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis

from delaybox.core.task import NewTask, TaskType
from delaybox.engine.clock_estimate import RedisClock
from delaybox.engine.due_tracker import Tracker
from delaybox.engine.leftovers import Leftovers
from delaybox.engine.options import EngineOptions
from delaybox.engine.ownership import Ownership
from delaybox.store import keys
from delaybox.store.record import draft
from delaybox.store.servers import Servers
from delaybox.store.store import Batch, Store
from tests.integration.test_hand_over import Clumsy
from tests.lab import Lab
from tests.waiting import PATIENCE_S

HOUR_MS = 3_600_000
STEPS = 20


@pytest.fixture
async def lab(client: Redis, prefix: str) -> Lab:
    return await Lab.open(client, prefix, partitions=2)


async def test_every_partition_is_looked_at(lab: Lab) -> None:
    """A message that is lost costs one poll, also then."""
    tracker = Tracker(lab.store, Clumsy(), EngineOptions(node_id="test", channel="", poll_ms=20), RedisClock())
    await tracker.step()
    # The last look at this one was a little later than at the other.
    tracker._look[1] += 100
    await lab.move(-HOUR_MS)

    async def looked() -> int:
        return int(await lab.store.servers.ask("HGET", keys.clock(lab.store.tags[1]), "looked"))

    for _ in range(STEPS):
        await tracker.step()
        if await looked() <= lab.now:
            break
    assert await looked() <= lab.now
    tracker.close()


async def test_what_nobody_claimed_becomes_ready(client: Redis, prefix: str) -> None:
    store = await Store.open(Servers(client), prefix=prefix, partitions=1)
    await store.schedule([Batch(0, [draft(NewTask(type=TaskType.WORKER, name="f"))])])
    leftovers = Leftovers(store, Ownership(1), RedisClock())
    # When it was to look next, by the clock as it was.
    leftovers._at = {0: await store.ping() + HOUR_MS}
    async with asyncio.timeout(PATIENCE_S):
        await leftovers.step()
    assert await client.exists(keys.active(store.tags[0], "w", critical=False))


async def test_a_pause_is_no_clock_that_was_set_back(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often it polls: what could not be claimed is left alone for a moment."""
    tracker = Tracker(lab.store, Clumsy(), EngineOptions(node_id="test", channel="", poll_ms=1), RedisClock())
    claimed: list[list[int]] = []

    async def claim(due: list[int], *_: object) -> None:
        claimed.append(due)

    async def wait(_: float) -> None: ...

    monkeypatch.setattr(tracker, "_claim", claim)
    monkeypatch.setattr(tracker._timer, "wait", wait)
    monkeypatch.setattr(tracker._clock, "now_ms", lambda: 1_000_000.0)
    tracker._look = [1_000_020.0, 1_000_050.0]
    await tracker.step()
    assert claimed == []
    tracker._look = [1_000_020.0, 1_000_000.0 + HOUR_MS]
    await tracker.step()
    assert claimed == [[1]]
    tracker.close()
