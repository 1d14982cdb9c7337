"""How many tasks are in each state, over all partitions."""

from __future__ import annotations

from dataclasses import dataclass

from delaybox.store.store import Store


@dataclass(frozen=True, slots=True)
class StoreCounts:
    """Sums over all partitions. ``estimated``: pending or ready is an estimate, because counting all would take too
    long; ``many_lanes``: ready is."""

    pending: int
    ready: int
    in_flight: int
    dead: int
    quarantined: int
    estimated: bool = False
    many_lanes: bool = False


async def counts_of(store: Store) -> StoreCounts:
    """What the partitions count, added up."""
    all_ = await store.counts()
    return StoreCounts(
        sum(c.pending for c in all_),
        sum(c.due for c in all_),
        sum(c.in_flight for c in all_),
        sum(c.dead for c in all_),
        sum(c.quarantined for c in all_),
        any(c.pending_guessed or c.due_guessed for c in all_),
        any(c.due_guessed for c in all_),
    )
