"""Due WORKER tasks that nobody claimed: reads how many there are with plain commands, and makes them ready."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from delaybox.store import keys
from delaybox.store.loader import ScriptCall
from delaybox.store.servers import Command, milliseconds
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
    commands: list[Command] = [("TIME",)]
    for p in partitions:
        tag = store.tags[p]
        commands += [("ZRANGE", key, 0, 0, "WITHSCORES") for key in keys.nears(tag)[4:]]
        commands.append(("EXISTS", *(keys.active(tag, "w", critical=critical) for critical in (True, False))))
    time, *replies = await store.servers.ask_many(commands)
    return milliseconds(time), [_left(replies[at : at + 5]) for at in range(0, len(replies), 5)]


def _left(replies: Sequence[Any]) -> Left:
    dues = [int(float(head[0][1] if isinstance(head[0], list) else head[1])) for head in replies[:4] if head]
    return Left(min(dues, default=-1), bool(replies[4]))


async def promote(store: Store, partition: int, *, late_ms: int) -> Promoted:
    """Makes up to MAX_ITEMS tasks ready that are late by this much, and calls members that may serve them."""
    _, moved, first, _ = await store.runner.run(ScriptCall("promote", store.tags[partition], (late_ms, MAX_ITEMS)))
    return Promoted(moved, first)
