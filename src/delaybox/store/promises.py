"""Reads the promises of owners: when they look next at their partitions. A read costs the server hardly anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from delaybox.core.errors import PartAway
from delaybox.store import keys
from delaybox.store.looks import reachable
from delaybox.store.store import Store

_FIELDS = ("wake", "looked", "gap", "looker")


@dataclass(frozen=True, slots=True)
class Promise:
    """The promise for one partition, ms by Redis's clock.

    ``until_ms``: when the next look is due. ``late_ms``: how late the last look was for the promise before. ``looker``:
    the member that looked last, at ``looked_ms``.
    """

    until_ms: int
    late_ms: int
    looker: str
    looked_ms: int


async def promises(store: Store, partitions: Sequence[int]) -> tuple[int, list[Promise | None]]:
    """Redis's clock (ms), and the promise of each partition; None for one that is on its way to another server.
    StoreUnavailable."""
    now, rows = await reachable(store, partitions, lambda tag: [("HMGET", keys.clock(tag), *_FIELDS)])
    return now, [None if isinstance(row, PartAway) else _read(*row[0]) for row in rows]


def _read(wake: bytes | None, looked: bytes | None, late: bytes | None, looker: bytes | None) -> Promise:
    looked_ms = int(float(looked or 0))
    return Promise(
        max(int(float(wake or 0)), looked_ms),
        int(float(late or 0)),
        (looker or b"").decode(errors="replace"),
        looked_ms,
    )
