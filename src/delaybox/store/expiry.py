"""When leases, results, dead letters and quarantined records end, per partition: read without scripts, as that is
cheaper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from delaybox.core.errors import PartAway
from delaybox.store import keys
from delaybox.store.looks import first, reachable, score
from delaybox.store.servers import Command
from delaybox.store.store import Store


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
    ``ended``, ``failed``: the last entry of the oldest hash of ended tasks, and of failed ones.
    """

    result: int
    dead: int
    quarantined: int
    ended: int
    failed: int


async def ends(store: Store, partitions: Sequence[int]) -> tuple[int, dict[int, Ends]]:
    """Redis's clock (ms) before the first look, and the figures of these partitions, without those that are on their
    way to another server. StoreUnavailable."""

    def asked(tag: str) -> list[Command]:
        return [first(keys.leases(tag)), ("HMGET", keys.clock(tag), "reaped", "grace")]

    now, rows = await reachable(store, partitions, asked)
    found: dict[int, Ends] = {}
    for p, row in zip(partitions, rows, strict=True):
        if not isinstance(row, PartAway):
            lease, noted = row
            found[p] = Ends(score(lease), *(-1 if at is None else int(at) for at in noted))
    return now, found


async def ages(store: Store, partitions: Sequence[int]) -> tuple[int, dict[int, Ages]]:
    """As `ends`, for results, dead letters and quarantined records, which are deleted after a time."""

    def asked(tag: str) -> list[Command]:
        own = [first(key(tag)) for key in (keys.results_at, keys.dead_at, keys.quarantine_at)]
        return [*own, *(first(keys.history_at(tag, family)) for family in "sf")]

    now, rows = await reachable(store, partitions, asked)
    found = zip(partitions, rows, strict=True)
    return now, {p: Ages(*map(score, row)) for p, row in found if not isinstance(row, PartAway)}
