"""What partitions remember of lanes that have tasks with a fairness key."""

from __future__ import annotations

from collections.abc import Sequence

from delaybox.core.errors import PartAway
from delaybox.store import keys
from delaybox.store.loader import ScriptCall
from delaybox.store.looks import reachable
from delaybox.store.servers import Command
from delaybox.store.store import Store

_COUNT = 250
_AGE_MS = 60_000
"""A lane is remembered for so long after the last such task was due, because the next one would be its again."""


async def with_lanes(store: Store, partitions: Sequence[int]) -> list[int]:
    """The partitions that remember any lane; without those on their way to another server. StoreUnavailable."""

    def asked(tag: str) -> list[Command]:
        return [("HEXISTS", keys.clock(tag), "fair")]

    _, rows = await reachable(store, partitions, asked)
    return [p for p, row in zip(partitions, rows, strict=True) if not isinstance(row, PartAway) and row[0]]


async def forget_lanes(store: Store, partition: int, cursor: bytes = b"0") -> tuple[bytes, int]:
    """Looks at some lanes and forgets those that have no such tasks any more. Where to go on (b"0": all were looked
    at), and how many are forgotten. StoreUnavailable."""
    call = ScriptCall("forget_lanes", store.tags[partition], [cursor, _COUNT, _AGE_MS])
    after, gone = await store.runner.run(call)
    return after, gone
