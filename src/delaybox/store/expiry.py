"""When leases, results, dead letters and quarantined records end, per partition: read without scripts, as that is
cheaper."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from delaybox.store import keys
from delaybox.store.servers import Command, milliseconds
from delaybox.store.store import Store

_AT_ONCE = 64
"""Partitions read in one round trip."""


@dataclass(frozen=True, slots=True)
class Ends:
    """Of one partition, ms by Redis's clock; -1 where there is none.

    ``lease``: the first expiry, ``reaped``: when a reaper looked last, ``grace``: until when nothing is reaped.
    """

    lease: int
    reaped: int
    grace: int


@dataclass(frozen=True, slots=True)
class Ages:
    """Of one partition, ms by Redis's clock; -1 where there is none.

    ``result``: until when the first need be kept, ``dead`` and ``quarantined``: since when the oldest lies there.
    """

    result: int
    dead: int
    quarantined: int


async def ends(store: Store, partitions: Sequence[int]) -> tuple[int, dict[int, Ends]]:
    """Redis's clock (ms) before the first look, and the figures of these partitions. StoreUnavailable."""

    def asked(tag: str) -> list[Command]:
        return [_first(keys.leases(tag)), ("HMGET", keys.clock(tag), "reaped", "grace")]

    now, rows = await _asked(store, partitions, asked)
    return now, {
        p: Ends(_score(lease), *(-1 if at is None else int(at) for at in noted))
        for p, (lease, noted) in zip(partitions, rows, strict=True)
    }


async def ages(store: Store, partitions: Sequence[int]) -> tuple[int, dict[int, Ages]]:
    """As `ends`, for results, dead letters and quarantined records, which are deleted after a time."""

    def asked(tag: str) -> list[Command]:
        return [_first(key(tag)) for key in (keys.results_at, keys.dead_at, keys.quarantine_at)]

    now, rows = await _asked(store, partitions, asked)
    return now, {p: Ages(*map(_score, row)) for p, row in zip(partitions, rows, strict=True)}


async def _asked(
    store: Store, partitions: Sequence[int], of: Callable[[str], list[Command]]
) -> tuple[int, list[list[Any]]]:
    """Redis's clock (ms) before the first look, and for each partition the replies to the commands that ``of``
    makes."""
    now = 0
    found: list[list[Any]] = []
    for at in range(0, len(partitions), _AT_ONCE):
        asked = [of(store.tags[p]) for p in partitions[at : at + _AT_ONCE]]
        clock, *replies = await store.servers.ask_many([("TIME",), *(command for each in asked for command in each)])
        now = now or milliseconds(clock)
        width = len(asked[0])
        found += [replies[i : i + width] for i in range(0, len(replies), width)]
    return now, found


def _first(key: str) -> Command:
    return ("ZRANGE", key, 0, 0, "WITHSCORES")


def _score(reply: Any) -> int:
    return int(reply[0][1]) if reply else -1
