"""Whether the servers of a store would take a new task, and have it all."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from delaybox.core.errors import PartAway, StoreLost
from delaybox.core.partition import Shape
from delaybox.store.apart import Apart
from delaybox.store.loader import ScriptCall
from delaybox.store.presence import Presence
from delaybox.store.writable import Writable, writable

PATIENCE_S = 0.05
META = {b"format": b"1", b"partitions": b"4", b"bucket_ms": b"60000", b"id": b"mine", b"marked": b"1"}


class Cluster:
    """Servers with a partition each, as far as `writable` knows them. ``lost``: the one that has lost its data;
    ``hanging``: those that are silent."""

    prefix = "delaybox"
    store_id = "mine"

    def __init__(self, lost: int = -1, hanging: Collection[int] = ()) -> None:
        self.lost = lost
        self.hanging = hanging
        self.asked: list[int] = []
        self.servers = self
        self.partitions = 4
        self.tags = [str(p) for p in range(self.partitions)]
        self.shards = SimpleNamespace(group=lambda of: {p: [p] for p in of}, of=[*range(4)])
        self.apart = Apart(lambda: self.shards.of, patience_s=PATIENCE_S)
        self.runner = self
        self.presence = Presence(self, self.prefix, Shape("mine", 4, 60_000))  # type: ignore[arg-type]

    def primaries(self) -> list[Any]:
        return [SimpleNamespace(address=("host", 7000 + n), shard=n) for n in range(self.partitions)]

    async def run_many(self, calls: Sequence[ScriptCall]) -> list[Any]:
        self.asked += [int(call.tag) for call in calls]
        if any(int(call.tag) in self.hanging for call in calls):
            await asyncio.Event().wait()
        return [[1_000, b"" if int(call.tag) == self.lost else b"mine"] for call in calls]

    async def ask(self, *command: Any) -> Any:
        return META

    def present(self) -> None:
        if self.presence.refusal is not None:
            raise self.presence.refusal


async def look(cluster: Cluster) -> Writable:
    return await writable(cluster, cluster.apart)  # type: ignore[arg-type]


@pytest.mark.parametrize("lost", range(4))
async def test_a_server_that_lost_its_part_is_noticed_wherever_it_stands(lost: int) -> None:
    with pytest.raises(StoreLost, match="a part of the store"):
        await look(Cluster(lost))


async def test_the_other_servers_of_one_that_lost_its_part_go_on() -> None:
    """Nothing else looks at more than partition 0, so what a probe of readiness finds would come and go."""
    cluster = Cluster(3)
    with pytest.raises(StoreLost):
        await look(cluster)
    assert cluster.presence.refusal is None


async def test_a_whole_store_is_writable() -> None:
    assert await look(Cluster(-1)) == (1_000, (), frozenset())


async def test_servers_that_hang_are_named_and_waited_for_once() -> None:
    cluster = Cluster(hanging=(0, 2))
    for _ in range(20):
        found = await look(cluster)
        assert found.refusing == (
            "one of 4 servers takes no tasks: the server host:7000 has not answered within 0.05 s",
            "one of 4 servers takes no tasks: the server host:7002 has not answered within 0.05 s",
        )
        assert (found.now_ms, found.silent) == (1_000, frozenset({0, 2}))
    assert (cluster.asked.count(0), cluster.asked.count(2)) == (1, 1), "nothing more is sent to them"
    assert cluster.asked.count(1) == 20


async def test_where_all_hang_none_takes_tasks() -> None:
    with pytest.raises(PartAway, match="the server host:7000 has not answered"):
        await look(Cluster(hanging=range(4)))
