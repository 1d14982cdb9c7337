"""Rounds of claims: those that overlap, for which a tracker does not wait itself, and where each of them claims."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from heapq import nsmallest

from delaybox.engine.asks import ITEMS
from delaybox.engine.loops import end
from delaybox.engine.taker import Asked

_DEEP_ROUND = 4
"""Partitions with much work that one round claims from: together about `asks.ROUND` tasks."""


class InTurn:
    """Which of the partitions that are due a round claims from, of one tracker: those that waited longest for it, so
    that all get through their work together. What is left at the end in a few of them leaves no round beside another.

    ``under_way``: the partitions with a claim under way.
    """

    def __init__(self, asked: Asked, under_way: Collection[int]) -> None:
        self._asked = asked
        self._under_way = under_way
        self._rounds = 0
        self._last: dict[int, int] = {}
        """By partition the round that claimed there last."""

    def of(self, due: list[int], slots: int, deep: bool) -> list[int]:
        """With few slots free only some of them, so that each claim is full. With much work a round takes half of all,
        so that another goes beside it, unless those of other trackers do."""
        most = self._asked.in_full(slots, ITEMS) if slots else len(due)
        if deep:
            most = min(most, _DEEP_ROUND)
            if self._asked.trackers == 1:
                most = min(most, (len(due) + len(self._under_way) + 1) // 2)
        if most >= len(due):
            return due
        self._rounds += 1
        chosen = nsmallest(most, due, key=self._claimed_last)
        self._last |= dict.fromkeys(chosen, self._rounds)
        return chosen

    def _claimed_last(self, partition: int) -> int:
        return self._last.get(partition, 0)


class Rounds:
    """Rounds of one tracker. ``asked``: shared with the taker's other trackers; ``over``: called when one has ended."""

    def __init__(self, asked: Asked, over: Callable[[], None]) -> None:
        self._asked = asked
        self._over = over
        self._under_way: set[asyncio.Task[None]] = set()
        self._trouble: BaseException | None = None

    def __bool__(self) -> bool:
        return bool(self._under_way)

    @property
    def enough(self) -> bool:
        """Whether no other may begin now."""
        return self._asked.enough(len(self._under_way))

    def begin(self, claim: Callable[[], Awaitable[None]]) -> None:
        """Begins one, which claims as soon as the event loop comes to it."""
        self._under_way.add(asyncio.create_task(self._run(claim)))

    async def _run(self, claim: Callable[[], Awaitable[None]]) -> None:
        self._asked.rounds += 1
        try:
            await claim()
        except Exception as error:  # noqa: BLE001 - `check` raises it, for the tracker's `Loop` to say and to back off
            self._trouble = error
        finally:
            # First of all, because what `over` wakes would otherwise still count this round as under way.
            self._under_way.discard(asyncio.current_task())
            self._asked.rounds -= 1
            self._over()

    def check(self) -> None:
        """Raises the error of a round that failed since."""
        if self._trouble is not None:
            problem, self._trouble = self._trouble, None
            raise problem

    async def finish(self, patience_s: float) -> None:
        """Gives rounds under way this long to end by themselves, then cuts them off, which is always harmless."""
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=patience_s)
        for task in list(self._under_way):
            await end(task)
