"""Reads the rules of queues again when they change, and keeps the copies in this engine's partitions up to date."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace

from delaybox.core.errors import PartAway
from delaybox.core.queue import LiveRules
from delaybox.engine.ownership import Ownership
from delaybox.service.served import Served, living
from delaybox.store import ramps, rules
from delaybox.store.rules import StoredRules
from delaybox.store.store import Store

log = logging.getLogger("delaybox.engine")

_LEAST_MS, _MOST_MS = 1_000, 60_000
_UNSERVED_MS = 600_000
"""So long after a pause tasks that nobody serves make its ramp longer: workers may be on their way. A task with a
misspelt label would keep its queue at the resume rate for ever."""
_EVERY_S = 0.5
"""With it a change is in force everywhere within a second."""
_CHECKS = 12
"""Every so many looks a time keeper also looks at copies that should be complete."""


class RuleReader:
    """One step = look at the version, read the rules where it changed, copy them where a partition of ours is behind.

    ``keeps``: this engine is a time keeper.
    """

    def __init__(self, store: Store, live: LiveRules, ownership: Ownership, *, keeps: bool) -> None:
        self._store = store
        self._live = live
        self._ownership = ownership
        self._keeps = keeps
        self._read: Mapping[str, StoredRules] = {}
        self._kept: frozenset[int] = frozenset()
        self._looks = 0
        self._away = False
        """Whether a partition could not be looked at the last time."""
        self.taken_ms = 0
        """When it took the version that it has, by Redis's clock."""

    async def _end_ramps(self) -> bool:
        """Where what waited during a pause has begun, the queue's rules hold alone again. Whether any changed."""
        ramped = [(queue, one) for queue, one in self._read.items() if one.rules.ramp is not None]
        if not ramped or 0 not in self._ownership.kept:
            return False
        now, stored, changed = await self._store.ping(), self._live.stored, False
        served: Served | None = None
        for queue, one in ramped:
            before = one.rules.ramp
            if before is None or before.until_ms > now:
                continue
            own = replace(one.rules, ramp=None)
            counts: Callable[[bytes], bool] = ramps.every_lane
            try:
                if now - before.since_ms >= _UNSERVED_MS:
                    served = served or Served.by(await living(self._store))
                    counts = served.has
                after = await ramps.ramp(self._store, stored, queue, own, before.since_ms, now, counts)
            except PartAway:
                # It is not known what is left, or who serves it. The ramp goes on until it is; other rules are copied
                # meanwhile.
                continue
            if after is not None:
                after = replace(after, until_ms=max(after.until_ms, now + _longer_ms(now - after.since_ms)))
            new = rules.encode(replace(own, ramp=after), one.newer)
            word, _ = await rules.change(self._store, [(queue, one.raw, new)])
            changed = changed or word == "stored"
        return changed

    async def step(self) -> float:
        """For `Loop`."""
        changed = await rules.version(self._store) != self._live.version
        if changed:
            number, self._read = await rules.every(self._store, self._read)
            self._live.take(number, {queue: one.rules for queue, one in self._read.items()})
            self.taken_ms = self._store.now_ms()
        if self._keeps and await self._end_ramps():
            return 0.0
        self._looks += 1
        kept = frozenset(self._ownership.kept)
        if self._keeps and (changed or kept != self._kept or self._away or self._looks % _CHECKS == 0):
            number = self._live.version
            found = await rules.copies(self._store, kept, number)
            self._away = bool(found.away)
            if found.newest > number and found.newest > await rules.version(self._store):
                # The server of the rules lost the last change in a fail-over, and partitions at others go by it: a
                # version above that one has all go by what is stored.
                log.warning("the last change of queue rules was lost with its server: what is stored is in force again")
                await rules.change(self._store, [], above=found.newest)
                return 0.0
            if found.behind:
                await rules.copy(self._store, found.behind, number, rules.codes(self._live.stored))
            self._kept = kept
        return _EVERY_S


def _longer_ms(lasted_ms: int) -> int:
    """By how much a ramp is made longer at least: each time is a new version of the rules, which all processes read and
    all partitions copy, and what is left may be a single task that nobody takes."""
    return min(max(lasted_ms // 10, _LEAST_MS), _MOST_MS)
