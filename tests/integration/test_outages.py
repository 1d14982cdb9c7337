"""What becomes of running tasks when the server, or the nodes that hold them, go away: real SIGKILL, real engines."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest
from redis.asyncio import Redis

from delaybox.core import ids
from delaybox.core.delivery import DONE, Delivery, Report
from delaybox.core.membership import Member
from delaybox.core.task import NewTask, TaskType
from delaybox.store import keys, nodes
from delaybox.store.connect import make_client
from delaybox.store.fsck import fsck
from delaybox.store.leases import new_lease
from delaybox.store.record import draft
from delaybox.store.servers import Servers
from delaybox.store.store import Batch, ClaimLimits, Store
from tests.engines import running, until
from tests.ports import free_port
from tests.servers import RealServer
from tests.yard import Yard, yard

__all__ = ["yard"]  # the fixture

LEASE_MS = 1_200
TASKS = 160
PARTITIONS = 4


class Long:
    """A target whose tasks run until they are released. It counts how often each was started."""

    def __init__(self) -> None:
        self.starts: Counter[bytes] = Counter()
        self.release = asyncio.Event()

    async def deliver(self, batch: Sequence[Delivery], report: Report) -> None:
        self.starts.update(d.task_id for d in batch)
        await self.release.wait()
        report(batch, DONE)


@contextlib.asynccontextmanager
async def opened(server: RealServer, prefix: str) -> AsyncIterator[Store]:
    client = make_client(server.settings, timeout_s=20.0)
    store = await Store.open(Servers(client), prefix=prefix, partitions=PARTITIONS)
    try:
        yield store
    finally:
        await client.aclose()


async def add(store: Store, *tasks: NewTask) -> list[bytes]:
    """In all partitions in turn; the ids."""
    made: list[bytes] = []
    for p in range(PARTITIONS):
        (answers,) = await store.schedule([Batch(p, [draft(t) for t in tasks[p::PARTITIONS]])])
        assert not isinstance(answers, BaseException), answers
        made += [a.task_id for a in answers]
    return made


async def test_healthy_tasks_outlive_a_server_that_was_away_longer_than_their_leases(
    make_server: Callable[..., RealServer], prefix: str
) -> None:
    server = make_server("--appendonly", "yes", "--appendfsync", "always")
    target = Long()
    options = {"lease_ms": LEASE_MS, "heartbeat_ms": LEASE_MS // 3, "reap_ms": 100, "channel": "", "scrub": False}
    async with opened(server, prefix) as one, opened(server, prefix) as two, opened(server, prefix) as three:
        made = await add(one, *[NewTask(type=TaskType.SHELL_CMD)] * TASKS)
        targets: dict[TaskType, Any] = {TaskType.SHELL_CMD: target}
        async with (
            running(one, targets, node_id="one", concurrency=10 * TASKS, **options),
            running(two, targets, node_id="two", concurrency=10 * TASKS, **options),
        ):
            await until(lambda: len(target.starts) == TASKS)
            for _ in range(2):
                server.kill()
                # An outage longer than a lease is what this is about.
                await asyncio.sleep(LEASE_MS / 1000 * 1.3)
                server.start()
                back = await one.ping()
                # The first to look is a node that has just started and knows nothing of an outage.
                async with running(three, {}, node_id="three", **options):

                    async def looked_after_the_grace(back: int = back) -> bool:
                        notes = [await one.servers.ask("HGET", keys.clock(tag), "reaped") for tag in one.tags]
                        return all(int(at or 0) > back + LEASE_MS * 1.3 for at in notes)

                    await until(looked_after_the_grace)
            assert target.starts == dict.fromkeys(made, 1), "a task was started again while it was running"
            target.release.set()

            async def over() -> bool:
                return all(c.in_flight == c.pending == 0 for c in await one.counts())

            await until(over)
            assert sum(c.dead for c in await one.counts()) == 0
        assert (await fsck(one)).problems == []


async def _killed(store: Store, node_id: str, *, seen_ms: int) -> None:
    """What a node that was killed leaves behind."""
    await nodes.beat(store, Member(id=node_id, seen_ms=seen_ms, started_ms=seen_ms - 60_000))


@pytest.mark.parametrize("killed", [2, 3], ids=["two nodes", "the fleet"])
async def test_a_fleet_that_dies_together_makes_no_dead_letters(client: Redis, prefix: str, killed: int) -> None:
    store = await Store.open(Servers(client), prefix=prefix, partitions=PARTITIONS)
    made = await add(store, *[NewTask(type=TaskType.SHELL_CMD)] * PARTITIONS)
    # Each was lost twice before, so the next loss counts.
    for p in range(PARTITIONS):
        for _ in range(2):
            lease_id = os.urandom(16)
            claimed = await store.claim(p, lease_id, ClaimLimits(slots=5, types="s"))
            assert await store.lose(p, lease_id, claimed.leased[::2], losses_cap=3) == ([], 0, 0)
        await store.claim(p, new_lease(1_000), ClaimLimits(slots=5, types="s", lease_ms=1_000))
    now = await store.ping()
    for number in range(killed):
        await _killed(store, f"dead-{number}", seen_ms=now - 2_000 - 100 * number)
    # It took their place, so it says nothing of how many there were.
    async with running(store, {}, lease_ms=1_000, heartbeat_ms=300, reap_ms=50, scrub=False):

        async def reaped() -> bool:
            return all(c.in_flight == 0 for c in await store.counts())

        await until(reaped)
    counts = await store.counts()
    dead = sum(c.dead for c in counts)
    assert (dead, sum(c.pending for c in counts)) == ((0, len(made)) if killed == 3 else (len(made), 0))


async def test_three_node_kills_under_a_living_worker_make_no_dead_letter(yard: Yard) -> None:
    """The worker ran the task to its end each time; that its nodes died is nothing against it."""
    settings = {"port": free_port(), "lease_ms": 1_000, "heartbeat_ms": 300}
    node = await yard.node(**settings)
    await yard.worker(node.address)
    (task_id,) = await yard.hold(keep_result_ms=60_000)

    def times(noted: dict[str, list[int]], count: int) -> bool:
        return len(noted.get(task_id, [])) == count

    async def taken_back() -> bool:
        return (await yard.store.get(ids.parse(task_id))).place == "home"

    for kill in range(1, 4):
        await until(lambda n=kill: times(yard.oracle.begun(), n))  # type: ignore[misc]
        os.kill(node.process.pid, signal.SIGKILL)
        yard.gate.touch()
        await until(lambda n=kill: times(yard.oracle.ended(), n))  # type: ignore[misc]
        if kill < 3:
            yard.gate.unlink()
        # The node stays away for longer than the lease: one that is back before adopts the task, and nothing is lost.
        await until(taken_back)
        node = await yard.node(**settings)
    info = await yard.ends(task_id)
    assert info.losses == 3 and await yard.dead() == {}
    await yard.sound()
