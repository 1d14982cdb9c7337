"""What a round of claims asks each partition for, and promises: when it looks there again."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from delaybox.core.task import TaskType
from delaybox.engine.catchup import OVERDUE_MS, CatchUp
from delaybox.engine.options import EngineOptions
from delaybox.engine.taker import Taker
from delaybox.store.loader import ScriptCall
from delaybox.store.store import MAX_ITEMS, ClaimLimits, Store

UNTIL_CALLED: Final = 1e300
"""When a partition is looked at in which nothing is known to be due."""
FAR_MS: Final = 10**12
"""The promise of a taker that waits to be called: it does not look, so whatever is due must be announced."""
_ITEMS_IN_PLACE: Final = 150
"""Tasks of a claim that fires in place. Publishing costs twice as much as leasing, and a bucket of a million is cold
memory: 250 took 4.4 ms."""
ITEMS: Final = 250
"""Tasks of any other claim: half of what a script may take, for the same reason."""
ROUND: Final = 1_000
"""Tasks of one round when many are due: about 10 ms of the server's time, during which all others wait."""
_FEW: Final = 64
"""Least number of tasks that a claim asks for, because each claim has a cost of its own."""


class Ask(NamedTuple):
    """One claim from one partition. ``share``: the overdue tasks it may take; 0 where they are not counted."""

    partition: int
    limits: ClaimLimits
    share: int = 0


class Limits:
    """What rounds ask of each partition. What was asked last is kept: to make it again took a sixth of the time that a
    round for a lone task takes before and after its reply."""

    def __init__(self, options: EngineOptions, taker: Taker) -> None:
        self._options = options
        self._taker = taker
        self._of: tuple[int, int, int, bytes, str, str] | None = None
        self._last: ClaimLimits

    def of(self, partitions: int, slots: int, poll_ms: int, plan: bytes) -> ClaimLimits:
        """Of a round in so many partitions, which share the free slots."""
        o, types = self._options, self._taker.types
        names = self._taker.names() if o.channel else ""
        of = (partitions, slots, poll_ms, plan, types, names)
        if of != self._of:
            share = slots if not slots else max(1, slots // partitions)
            # While many are due at once it is not known which have much work. Those that do come again, and then fewer
            # together.
            most = min(_ITEMS_IN_PLACE if o.channel else ITEMS, max(_FEW, ROUND // partitions))
            self._of = of
            self._last = ClaimLimits(
                slots=min(share, MAX_ITEMS), types=types, channel=o.channel, stream=o.stream, lease_ms=o.lease_ms,
                poll_ms=poll_ms, items=most, guest=not o.clock, looker=o.node_id if o.clock else "", plan=plan,
                names=names,
            )  # fmt: skip
        return self._last


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
    shares = catch_up.shares(due, limits.items)
    # Both claims may lease, so they share the slots; a single slot goes to whichever finds a task first.
    half = limits.slots // 2 or limits.slots
    fresh = replace(limits, fresh_ms=OVERDUE_MS, slots=half)
    asks: list[Ask] = []
    for p in due:
        asks.append(Ask(p, fresh if catch_up.behind(p) else limits))
        if share := shares.get(p):
            asks.append(Ask(p, replace(limits, items=share, slots=half), share))
    return asks


def calls_of(store: Store, asks: Sequence[Ask], leases: Sequence[bytes], deep: Collection[int]) -> list[ScriptCall]:
    """The claims under these leases. ``deep``: partitions in which much waits; elsewhere a short script takes what came
    due if that is a few tasks, and one run of it fires in place what came due in all partitions.

    Not for a share of what is overdue: it would take the first few of that, and whoever leaves some of its share passes
    for one that has no more (`CatchUp.took`)."""
    calls: list[ScriptCall] = []
    for ask, lease_id in zip(asks, leases, strict=True):
        call, limits = store.claim_call(ask.partition, lease_id, ask.limits), ask.limits
        some = limits.items > 1 and (limits.slots > 1 or bool(limits.channel))
        if some and limits.plan in (b"", b"s") and not ask.share and ask.partition not in deep:
            call = call._replace(few=True, together=bool(limits.channel and not limits.stream))
        calls.append(call)
    return calls


def due_and_next(look: Sequence[float], now_ms: float) -> tuple[bool, float]:
    """Whether any partition is to be looked at now, and when the next one is after that."""
    some, nearest = False, UNTIL_CALLED
    for at in look:
        if at <= now_ms:
            some = True
        elif at < nearest:
            nearest = at
    return some, nearest


def without_messages(ask: Ask) -> Ask:
    """The same claim, which leases no PUB_SUB tasks."""
    return ask._replace(limits=replace(ask.limits, types=ask.limits.types.replace(TaskType.PUB_SUB.value, "")))


def promised(now_ms: int, next_due_ms: int, poll_ms: int, *, when_ready: bool = False) -> float:
    """When to look again after a claim that found this. It promised to look within ``poll_ms``, so what is due after
    that was not announced. ``when_ready``: what is due later is made ready and announced by others."""
    look = UNTIL_CALLED if poll_ms == FAR_MS else float(now_ms + poll_ms)
    soon = 0 <= next_due_ms < look and (next_due_ms <= now_ms or not when_ready)
    return float(next_due_ms) if soon else look
