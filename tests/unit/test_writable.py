"""Whether the servers of a store would take a new task, and have it all."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from delaybox.core.errors import StoreLost
from delaybox.core.partition import Shape
from delaybox.store.loader import ScriptCall
from delaybox.store.presence import Presence
from delaybox.store.writable import writable

META = {b"format": b"1", b"partitions": b"4", b"bucket_ms": b"60000", b"id": b"mine", b"marked": b"1"}


class Cluster:
    """Servers with a partition each, as far as `writable` knows them. ``lost``: the one that has lost its data."""

    prefix = "delaybox"
    store_id = "mine"

    def __init__(self, lost: int) -> None:
        self.lost = lost
        self.partitions = 4
        self.tags = [str(p) for p in range(self.partitions)]
        self.shards = SimpleNamespace(group=lambda of: {p: [p] for p in of})
        self.runner = self
        self.presence = Presence(self, self.prefix, Shape("mine", 4, 60_000))  # type: ignore[arg-type]

    async def run_many(self, calls: Sequence[ScriptCall]) -> list[Any]:
        return [[1_000, b"" if int(call.tag) == self.lost else b"mine"] for call in calls]

    async def ask(self, *command: Any) -> Any:
        return META

    def present(self) -> None:
        if self.presence.refusal is not None:
            raise self.presence.refusal


@pytest.mark.parametrize("lost", range(4))
async def test_a_server_that_lost_its_part_is_noticed_wherever_it_stands(lost: int) -> None:
    with pytest.raises(StoreLost, match="a part of the store"):
        await writable(Cluster(lost))  # type: ignore[arg-type]


async def test_the_other_servers_of_one_that_lost_its_part_go_on() -> None:
    """Nothing else looks at more than partition 0, so what a probe of readiness finds would come and go."""
    cluster = Cluster(3)
    with pytest.raises(StoreLost):
        await writable(cluster)  # type: ignore[arg-type]
    assert cluster.presence.refusal is None


async def test_a_whole_store_is_writable() -> None:
    assert await writable(Cluster(-1)) == (1_000, ())  # type: ignore[arg-type]
