"""What becomes of a store on a cluster when slots move, and when a primary is killed or replaced."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from delaybox.api.readiness import Probe
from delaybox.core.errors import DelayBoxError
from delaybox.core.task import NewTask, TaskType
from delaybox.service import Readiness, Service
from delaybox.store import keys
from delaybox.store.fsck import fsck
from delaybox.store.servers import Servers
from delaybox.store.slots import slot_of
from delaybox.store.store import Store
from tests.cluster import RealCluster, spread
from tests.engines import Recorder, running, until
from tests.spent import Spent, undisturbed

PARTITIONS = 16


class Load:
    """Callers that schedule tasks with keys, in every partition, and a target that gets them."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.service = Service()
        self.service.open(store)
        self.target = Recorder()
        self.stored: dict[str, int] = {}
        self.refused: list[tuple[int, str]] = []
        self.took: list[tuple[float, int, float]] = []
        """When, in which partition, and how long the caller waited (s)."""
        self._over = False
        self._callers: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Load:
        self._callers = [asyncio.create_task(self._call(p)) for p in range(self.store.partitions)]
        await until(lambda: len(set(self.stored.values())) == self.store.partitions)
        return self

    async def __aexit__(self, *_: Any) -> None:
        self._over = True
        await asyncio.gather(*self._callers)
        await self.service.close()

    async def _call(self, p: int) -> None:
        n = 0
        while not self._over:
            n += 1
            key = f"{p}-{n}"
            while self.store.partition_of(key.encode()) != p:
                key += "'"
            began = time.monotonic()
            # Which labels are indexed, and functions' own queues, are read for them from keys of their own.
            new = NewTask(
                type=TaskType.SHELL_CMD, delay_ms=30, idempotency_key=key, labels={"a": "b"}, queue_unstated=True
            )
            try:
                task = await self.service.submit(new)
                self.stored[task.task_id] = p
                self.took.append((began, p, time.monotonic() - began))
            except DelayBoxError as error:
                self.refused.append((p, str(error)))
            await asyncio.sleep(0.02)

    def fired(self, partition: int) -> int:
        return sum(d.partition == partition for _, d in self.target.got)

    async def all_fired(self) -> None:
        """Every task that a caller was told of was carried out."""
        await until(lambda: self.stored.keys() <= {d.id for _, d in self.target.got})


@pytest.fixture
def timeout_s() -> float:
    """After which a server that does not answer is given up. As long as this where all servers are well: what the
    machine holds up is not refused, and runs once."""
    return 30.0


@pytest.fixture
async def load(cluster: RealCluster, prefix: str, timeout_s: float) -> AsyncIterator[Load]:
    servers = Servers.connect(cluster.settings, timeout_s=timeout_s)
    store = await Store.open(servers, prefix=spread(prefix), partitions=PARTITIONS)
    made = Load(store)
    lease_ms = int(1_500 * timeout_s)
    async with running(store, {TaskType.SHELL_CMD: made.target}, channel="", lease_ms=lease_ms):
        yield made
    assert (await fsck(store)).problems == []
    await store.close()


async def test_a_slot_moves_key_by_key_under_load(cluster: RealCluster, load: Load) -> None:
    tag = load.store.tags[0]
    source = cluster.primary_of(tag)
    target = cluster.other_than(source)
    async with load:
        began = time.monotonic()
        for step in cluster.move_slot(slot_of(tag), source, target):
            # Callers meet the slot in every state; a script that ran while it is parted would lose tasks.
            await asyncio.sleep(0.03 if step == "key" else 0.2)
        ended = time.monotonic()
        fired = load.fired(0)
        await until(lambda: load.fired(0) > fired)
        others = [took for at, p, took in load.took if p and began < at < ended]
        assert load.refused == [] and others
    await load.all_fired()
    assert len(load.target.got) == len(load.stored), "nothing ran twice"
    assert load.store.servers.primaries()[0].slots != 0
    for _ in cluster.move_slot(slot_of(tag), target, source):
        pass
    await cluster.soon(lambda: cluster.primary_of(tag) is source)


async def test_slots_move_at_once_and_primaries_change_roles(cluster: RealCluster, load: Load) -> None:
    """As Valkey 9 moves slots, and as an operator fails over before an upgrade: nobody notices."""
    tag = load.store.tags[1]
    source = cluster.primary_of(tag)
    target = cluster.other_than(source)
    numbers = list(load.store.shards.of)
    async with load:
        slot = slot_of(tag)
        for there, here in ((source, target), (target, source)):
            assert await asyncio.to_thread(cluster.migrate_slot, slot, there, here), "a server that cannot"
        replica = cluster.replica_of(source)
        await asyncio.to_thread(cluster.promote, replica)
        fired = load.fired(1)
        await until(lambda: load.fired(1) > fired)
        assert load.refused == []
        await asyncio.to_thread(cluster.whole)
        await asyncio.to_thread(cluster.promote, source)
        await asyncio.to_thread(cluster.whole)
        # A redirection told of them before the map of slots did. What works for a server goes on for its heir.
        await until(lambda: load.store.shards.of == numbers)
    await load.all_fired()


@pytest.mark.parametrize("timeout_s", [2.0])
@pytest.mark.parametrize("has", ["the first partition", "the functions' queues"])
async def test_a_primary_that_is_killed_disturbs_its_own_partitions_alone(
    cluster: RealCluster, load: Load, has: str
) -> None:
    victim = cluster.primary_of(load.store.tags[0] if "partition" in has else keys.functions(load.store.prefix))
    replica = cluster.replica_of(victim)
    mine = {p for p, tag in enumerate(load.store.tags) if cluster.primary_of(tag) is victim}
    await until(lambda: _is_ready(load.service))
    async with load:
        os.kill(replica.pid, signal.SIGSTOP)
        victim.kill()
        # While nobody takes its place, the node is ready for what the other servers take, and names what is wrong.
        found = await undisturbed(load.service.check)
        assert found.ok, found
        assert "one of 3 servers takes no tasks: " in found.reason

        async def alone_is_away() -> bool:
            counts = await load.service.counts_there()
            away = [server for server, away in load.service.servers_away(counts).items() if away]
            return set(counts.away) == mine and away == [f"127.0.0.1:{victim.port}"]

        # A server that does not answer within a quarter of a second counts as away, too.
        await until(alone_is_away)
        # The others go on meanwhile: each partition of theirs takes and carries out task after task.
        others = set(range(PARTITIONS)) - mine
        before = {p: load.fired(p) for p in others}
        await until(lambda: all(load.fired(p) >= before[p] + 5 for p in others))
        os.kill(replica.pid, signal.SIGCONT)
        await cluster.soon(lambda: cluster.primary_of(load.store.tags[min(mine)]) is replica)
        promoted = Spent(lambda: [server.pid for server in cluster.servers])
        fired = {p: load.fired(p) for p in mine}
        await until(lambda: all(load.fired(p) > fired[p] for p in mine))
        # Two seconds are promised; a busy machine gets some more.
        assert promoted.s() < 8.0
        assert {p for p, _ in load.refused} <= mine
    victim.start()
    await asyncio.to_thread(cluster.whole)
    await asyncio.to_thread(cluster.promote, victim)
    await asyncio.to_thread(cluster.whole)


@pytest.mark.parametrize("timeout_s", [2.0])
@pytest.mark.parametrize("has", ["the first partition", "the heartbeats"])
async def test_while_a_primary_hangs_probes_are_answered_in_time_and_name_it(
    cluster: RealCluster, load: Load, has: str
) -> None:
    """It takes connections and answers nothing, which only time tells."""
    store = load.store
    victim = cluster.primary_of(store.tags[0] if "partition" in has else keys.nodes(store.prefix))
    stopped = (cluster.replica_of(victim), victim)
    service = Service(node_id="test")
    service.open(store)
    probe = Probe(service)

    async def asked() -> Readiness:
        probe._until = 0.0
        return await probe.ask()

    await until(lambda: _is_ready(service))
    for server in stopped:
        os.kill(server.pid, signal.SIGSTOP)
    try:
        give_up = time.monotonic() + 4.0
        while time.monotonic() < give_up:
            found = await undisturbed(asked)
            assert found.ok, found
            assert f"one of 3 servers takes no tasks: the server 127.0.0.1:{victim.port} " in found.reason, found
    finally:
        for server in stopped:
            os.kill(server.pid, signal.SIGCONT)
    await until(lambda: _is_ready(service))
    await asyncio.to_thread(cluster.whole)
    if cluster.role(victim) != "master":
        await asyncio.to_thread(cluster.promote, victim)
        await asyncio.to_thread(cluster.whole)
    await service.close()


async def _is_ready(service: Service) -> bool:
    return await service.check() == Readiness(True)
