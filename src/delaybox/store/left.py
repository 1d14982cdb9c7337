"""Due WORKER tasks that nobody claimed: reads how many there are with plain commands, and makes them ready."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from delaybox.store import keys
from delaybox.store.loader import ScriptCall
from delaybox.store.looks import first, look, score
from delaybox.store.servers import Command
from delaybox.store.store import MAX_ITEMS, Store


@dataclass(frozen=True, slots=True)
class Left:
    """The state of one partition. ``first_ms``: when the first WORKER task in its near indexes is due; -1: none.
    ``ready``: whether some are in ready sets."""

    first_ms: int
    ready: bool


@dataclass(frozen=True, slots=True)
class Promoted:
    """``moved``: how many became ready. ``first_ms``: as in `Left`, for the rest."""

    moved: int
    first_ms: int


async def left(store: Store, partitions: Sequence[int]) -> tuple[int, list[Left]]:
    """Redis's clock (ms), and the state of each partition. StoreUnavailable."""

    def asked(tag: str) -> list[Command]:
        active = (keys.active(tag, "w", critical=critical) for critical in (True, False))
        return [*map(first, keys.nears(tag)[4:]), ("EXISTS", *active)]

    now, rows = await look(store, partitions, asked)
    return now, [_left(*row) for row in rows]


def _left(*replies: Any) -> Left:
    *heads, ready = replies
    return Left(min((due for due in map(score, heads) if due >= 0), default=-1), bool(ready))


async def promote(store: Store, partition: int, *, late_ms: int) -> Promoted:
    """Makes up to MAX_ITEMS tasks ready that are late by this much, and calls members that may serve them."""
    _, moved, first, _ = await store.runner.run(ScriptCall("promote", store.tags[partition], (late_ms, MAX_ITEMS)))
    return Promoted(moved, first)
