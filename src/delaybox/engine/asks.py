"""What a round of claims asks each partition for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from delaybox.core.task import TaskType
from delaybox.engine.catchup import OVERDUE_MS, CatchUp
from delaybox.store.store import ClaimLimits


class Ask(NamedTuple):
    """One claim from one partition. ``share``: the overdue tasks it may take; 0 where they are not counted."""

    partition: int
    limits: ClaimLimits
    share: int = 0


def asks_of(due: Sequence[int], limits: ClaimLimits, lanes_at: Callable[[int], tuple[bytes, ...]]) -> list[Ask]:
    """One claim from each partition, for the lanes that are claimed there."""
    by_lanes: dict[tuple[bytes, ...], ClaimLimits] = {}
    asks: list[Ask] = []
    for p in due:
        lanes = lanes_at(p)
        own = by_lanes.get(lanes)
        if own is None:
            own = by_lanes[lanes] = replace(limits, lanes=lanes) if lanes else limits
        asks.append(Ask(p, own))
    return asks


def ramped(catch_up: CatchUp, due: Sequence[int], limits: ClaimLimits) -> list[Ask]:
    """Limits for a partition with a backlog: first fresh tasks, then as many overdue ones as the rate allows."""
    shares = catch_up.shares(due)
    # Both claims may lease, so they share the slots; a single slot goes to whichever finds a task first.
    half = limits.slots // 2 or limits.slots
    fresh = replace(limits, fresh_ms=OVERDUE_MS, slots=half)
    asks: list[Ask] = []
    for p in due:
        asks.append(Ask(p, fresh if catch_up.behind(p) else limits))
        if share := min(shares.get(p, 0), limits.items):
            asks.append(Ask(p, replace(limits, items=share, slots=half), share))
    return asks


def without_messages(ask: Ask) -> Ask:
    """The same claim, which leases no PUB_SUB tasks."""
    return ask._replace(limits=replace(ask.limits, types=ask.limits.types.replace(TaskType.PUB_SUB.value, "")))
