"""Which of a worker's messages are confirmed to it: those whose outcomes are stored.

What is confirmed a worker keeps no longer. So a node that is killed after it handled a report, and before it stored
the outcome, loses nothing: the worker brings the report to another node.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol


class OutcomeStore(Protocol):
    """How far the outcomes that were reported are stored; in a node it is the engine's `Stored`."""

    @property
    def mark(self) -> int:
        """What was reported up to now is stored when `is_stored` holds for this number."""

    def is_stored(self, mark: int) -> bool:
        """Whether what was reported before ``mark`` was taken is stored."""

    async def wait(self, mark: int, *, within_s: float) -> None:
        """Returns when it is stored, and at the latest after ``within_s``."""


class Confirmations:
    """The messages of one session. ``handled``: the highest number of those that were handled."""

    def __init__(self, outcomes: OutcomeStore) -> None:
        self.handled = 0
        self._outcomes = outcomes
        self._waiting: deque[tuple[int, int]] = deque()

    def add(self, number: int) -> None:
        """A message was handled, and the outcomes in it were reported."""
        self.handled = number
        mark = self._outcomes.mark
        if not self._outcomes.is_stored(mark):
            if self._waiting and self._waiting[-1][1] == mark:
                return  # they are stored together, and confirmed together
            self._waiting.append((number, mark))

    @property
    def confirmed(self) -> int:
        """The highest number up to which all outcomes are stored."""
        waiting = self._waiting
        while waiting and self._outcomes.is_stored(waiting[0][1]):
            waiting.popleft()
        return waiting[0][0] - 1 if waiting else self.handled

    async def wait(self, *, within_s: float) -> None:
        """Returns when everything that was handled is confirmed, and at the latest after ``within_s``."""
        if self._waiting:
            await self._outcomes.wait(self._waiting[-1][1], within_s=within_s)
