"""How many tasks are in each state, over all partitions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from delaybox.core.errors import StoreLost, StoreUnavailable
from delaybox.store.apart import Apart
from delaybox.store.loader import ScriptCall
from delaybox.store.replies import Counts
from delaybox.store.store import Store


@dataclass(frozen=True, slots=True)
class StoreCounts:
    """Sums over all partitions. ``estimated``: pending or ready is an estimate, because counting all would take too
    long; ``many_lanes``: ready is. ``away``: partitions that are not counted, because their servers do not answer."""

    pending: int
    ready: int
    in_flight: int
    dead: int
    quarantined: int
    estimated: bool = False
    many_lanes: bool = False
    away: tuple[int, ...] = ()


async def counts_of(store: Store) -> StoreCounts:
    """What the partitions count, added up. StoreUnavailable."""
    return _sum(await store.counts())


async def counts_there(store: Store, apart: Apart) -> StoreCounts:
    """As `counts_of`, of the servers that answer. StoreUnavailable where none does."""
    calls = [(p, ScriptCall("counts", tag, ())) for p, tag in enumerate(store.tags)]
    found: list[Counts] = []
    away: list[int] = []
    for p, reply in enumerate(await apart.send(store.runner.run_many, calls)):
        if not isinstance(reply, BaseException):
            found.append(Counts(*reply))
        elif isinstance(reply, StoreUnavailable) and not isinstance(reply, StoreLost) and len(away) < len(calls) - 1:
            away.append(p)
        else:
            raise reply
    return _sum(found, tuple(away))


def _sum(all_: Sequence[Counts], away: tuple[int, ...] = ()) -> StoreCounts:
    return StoreCounts(
        sum(c.pending for c in all_),
        sum(c.due for c in all_),
        sum(c.in_flight for c in all_),
        sum(c.dead for c in all_),
        sum(c.quarantined for c in all_),
        any(c.pending_guessed or c.due_guessed for c in all_),
        any(c.due_guessed for c in all_),
        away,
    )
