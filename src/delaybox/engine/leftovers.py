"""Finds WORKER and HTTP tasks that nobody claimed in time, makes them ready, and calls members that may serve them.
Calls those again that carry out commands and webhooks, while any of these stand ready."""

from __future__ import annotations

import asyncio
import contextlib
import time

from delaybox.core.task import TaskType
from delaybox.engine.clock_estimate import RedisClock
from delaybox.engine.ownership import Ownership
from delaybox.processes.waking import rest_s
from delaybox.store.leftovers import NOTHING, call_again, left, promote
from delaybox.store.store import Store

LATE_MS = 100
"""A WORKER task that is late by this much is not only on its way to a claim."""
HOOK_LATE_MS = 500
"""The same of an HTTP task: its process was killed, or has no room for long, and from ready sets lanes take turns. A
burst that is sent within this time stays where it is, because a claim from ready sets costs more."""
CALL_AGAIN_S = 1.0
"""Ready work that nobody takes is announced again after this time, because a message can be lost."""
_POLL_S = 1.0
_EVERY_MS = 20.0
"""Pause between two looks, so that one covers what several messages announced: that much later is no harm here."""


class Leftovers:
    """One step = wait until something may be late, read the heads of the indexes, promote where something is.

    The owner of a partition does this with plain reads. So idle members need not look themselves, and cost no script.
    """

    def __init__(self, store: Store, ownership: Ownership, clock: RedisClock) -> None:
        self._store = store
        self._ownership = ownership
        self._clock = clock
        self._at: dict[int, float] = {}
        self._called: dict[int, float] = {}
        self._nothing: set[int] = set()
        """Partitions in which the last look found nothing at all."""
        self._earlier = asyncio.Event()
        self._asleep_until = 0.0
        self._looked = 0.0
        ownership.follow(lambda _: self._earlier.set())

    def kick(self, partition: int | None, due_ms: float) -> None:
        """Something is due at ``due_ms``. None: the server was away, so anything may be due."""
        at = due_ms + LATE_MS
        if partition is None:
            self._nothing.clear()
        else:
            self._nothing.discard(partition)
        for p in self._at if partition is None else (partition,):
            self._at[p] = min(self._at.get(p, 0.0), at)
        if at < self._asleep_until:
            # Most messages announce what is due now, while the look for an earlier one is still to come.
            self._earlier.set()

    async def step(self) -> float:
        """For `Loop`."""
        now = self._clock.now_ms()
        # None is later than a poll from now, unless the clock was set back.
        self._at = {p: min(self._at.get(p, now), now + 1000 * _POLL_S) for p in self._ownership.kept}
        nearest = max(min(self._at.values(), default=now + 1000 * _POLL_S), min(self._looked, now) + _EVERY_MS)
        if nearest > now:
            self._asleep_until = nearest
            self._earlier.clear()
            # It need not be exact to the millisecond, because the tasks it looks for are late already.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._earlier.wait(), (nearest - now) / 1000)
            self._asleep_until = 0.0
            now = self._clock.now_ms()
        due = [p for p, at in self._at.items() if at <= now and p in self._ownership.kept]
        if due:
            self._looked = now
            # Before the look, or what is announced meanwhile would be forgotten.
            self._at |= dict.fromkeys(due, now + 1000 * rest_s(_POLL_S))
            try:
                now_ms, found = await left(self._store, due, maybe_nothing=self._nothing.issuperset(due))
            except BaseException:
                self._at |= dict.fromkeys(due, now)
                raise
            self._nothing.difference_update(due)
            self._nothing.update(p for p, one in zip(due, found, strict=True) if one == NOTHING)
            for p, one in zip(due, found, strict=True):
                if one is None:
                    continue  # it is on its way to another server
                first, hook = one.first_ms, one.first_hook_ms
                hooks_late = 0 <= hook <= now_ms - HOOK_LATE_MS
                if hooks_late:
                    hook = await self._promote(p, HOOK_LATE_MS, TaskType.HTTP.value)
                if 0 <= first <= now_ms - LATE_MS or (one.ready and self._may_call(p)):
                    self._called[p] = time.monotonic()
                    first = await self._promote(p, LATE_MS, TaskType.WORKER.value)
                elif one.for_nodes and not hooks_late and self._may_call(p):
                    self._called[p] = time.monotonic()
                    await call_again(self._store, p)
                for at, late_ms in ((first, LATE_MS), (hook, HOOK_LATE_MS)):
                    if at >= 0:
                        self._at[p] = min(self._at[p], max(at + late_ms, now_ms + 1.0))
        return 0.0

    def _may_call(self, p: int) -> bool:
        return time.monotonic() - self._called.get(p, -1e9) >= CALL_AGAIN_S

    async def _promote(self, p: int, late_ms: int, letter: str) -> int:
        while True:
            answer = await promote(self._store, p, late_ms=late_ms, letter=letter)
            if not answer.more:
                return answer.first_ms
