"""Due tasks that nobody claimed: reads with plain commands whether there are any, and makes those for workers ready."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from delaybox.core.errors import PartAway
from delaybox.core.task import TaskType
from delaybox.store import keys
from delaybox.store.loader import ScriptCall
from delaybox.store.looks import first, look, reachable, score
from delaybox.store.servers import Command
from delaybox.store.store import MAX_ITEMS, Store

CARRIED_OUT = (TaskType.SHELL_CMD.value, TaskType.HTTP.value)
"""Letters of the types for which nodes have processes that claim what time keepers made ready."""
_LANES = 8
"""Lanes with ready work that are read of one partition and class; who runs others is called when these are gone."""
_ID_BYTES = 16


@dataclass(frozen=True, slots=True)
class Left:
    """The state of one partition. ``first_ms``: when the first WORKER task in its near indexes is due; -1: none.
    ``ready``: whether some are in ready sets. ``for_nodes``: whether tasks are that processes of nodes carry out.
    ``first_hook_ms``: as ``first_ms``, of HTTP tasks."""

    first_ms: int
    ready: bool
    for_nodes: bool
    first_hook_ms: int


@dataclass(frozen=True, slots=True)
class Unclaimed:
    """WORKER tasks that wait in a partition. ``ready``: the first of the lanes that have ready sets. ``near``: when the
    first task in each near index is due, and its lane."""

    ready: tuple[bytes, ...]
    near: tuple[tuple[int, bytes], ...]

    def lanes(self, due_ms: int) -> frozenset[bytes]:
        """Lanes in which tasks may wait that were due by then: when a ready one was due is not known."""
        return frozenset(self.ready) | {lane for due, lane in self.near if due <= due_ms}


@dataclass(frozen=True, slots=True)
class Promoted:
    """``moved``: how many became ready. ``first_ms``: when the first of that type is due that is left; -1: none.
    ``more``: that one is as late."""

    moved: int
    first_ms: int
    more: bool


NOTHING = Left(-1, ready=False, for_nodes=False, first_hook_ms=-1)


async def left(
    store: Store, partitions: Sequence[int], *, maybe_nothing: bool = False
) -> tuple[int, list[Left | None]]:
    """Redis's clock (ms), and the state of each partition; None for one that is on its way to another server.
    ``maybe_nothing``: there was nothing in any of them a while ago, so it is asked first whether there is.
    StoreUnavailable."""
    if maybe_nothing:
        now, rows = await reachable(store, partitions, lambda tag: [("EXISTS", *_keys(tag))])
        if all(row == [0] for row in rows):
            return now, [NOTHING] * len(rows)

    def asked(tag: str) -> list[Command]:
        return [("EXISTS", *_active(tag, "w")), ("EXISTS", *_carried_out(tag)), *map(first, keys.nears(tag)[4:])]

    now, rows = await reachable(store, partitions, asked)
    return now, [None if isinstance(row, PartAway) else _left(*row) for row in rows]


def _active(tag: str, letter: str) -> list[str]:
    return [keys.active(tag, letter, critical=critical) for critical in (True, False)]


def _carried_out(tag: str) -> list[str]:
    return [key for letter in CARRIED_OUT for key in _active(tag, letter)]


def _keys(tag: str) -> list[str]:
    return [*_active(tag, "w"), *_carried_out(tag), *keys.nears(tag)[4:]]


async def unclaimed(store: Store, partitions: Sequence[int]) -> tuple[int, list[Unclaimed]]:
    """Redis's clock (ms), and what waits in each partition. StoreUnavailable."""

    def asked(tag: str) -> list[Command]:
        active = [keys.active(tag, TaskType.WORKER.value, critical=critical) for critical in (True, False)]
        return [*(("ZRANGE", key, 0, _LANES - 1) for key in active), *map(first, keys.nears(tag)[4:8])]

    def read(critical: Any, others: Any, *heads: Any) -> Unclaimed:
        near = [(score(head), head[0][0][_ID_BYTES:]) for head in heads if head]
        return Unclaimed((*critical, *others), tuple(near))

    now, rows = await look(store, partitions, asked)
    return now, [read(*row) for row in rows]


def _left(*replies: Any) -> Left:
    ready, for_nodes, *heads = replies
    return Left(_earliest(heads[:4]), bool(ready), bool(for_nodes), _earliest(heads[4:]))


def _earliest(heads: Sequence[Any]) -> int:
    return min((due for due in map(score, heads) if due >= 0), default=-1)


async def call_again(store: Store, partition: int) -> None:
    """Announces once more that work for processes of nodes is ready, as the claim did that made it ready."""
    tag = store.tags[partition]
    await store.servers.notify(keys.ready_channel(tag), tag)


async def promote(store: Store, partition: int, *, late_ms: int, letter: str = TaskType.WORKER.value) -> Promoted:
    """Makes up to MAX_ITEMS WORKER tasks of 64 lanes ready that are late by this much, and calls members for them.
    ``letter``: of the type, where it is HTTP tasks."""
    args = (late_ms, MAX_ITEMS, store.bucket_ms, letter)
    now_ms, moved, first, _ = await store.runner.run(ScriptCall("leftovers", store.tags[partition], args))
    return Promoted(moved, first, more=moved > 0 and 0 <= first <= now_ms - late_ms)
