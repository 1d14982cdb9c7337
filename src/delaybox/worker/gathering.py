"""How long the ends of tasks wait for others before one message reports them all. Pure.

A message costs a worker and its node about as much as 20 tasks. Of 200 places in which functions take 50 ms four come
free in a millisecond, so messages that follow one another within a millisecond cost more than the tasks themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

LEAST_S: Final = 0.001
"""Least time between two messages while tasks are under way."""
MOST_S: Final = 0.005
"""Longest time that places stay free because their tasks' ends wait."""
QUEUED_S: Final = 0.04
"""The same while tasks that have not begun are at hand, so that no place waits for it."""
BUSY: Final = 1_000.0
"""Ends a second. Below it each of them is reported as soon as `LEAST_S` allows, where no task waits for its turn."""
_WINDOW_S: Final = 0.05
_WAY_S: Final = 0.01
_WAY_EACH_S: Final = 20e-6
"""From a message to the tasks that come for its ends, where all are busy: once, and for each of them. Meanwhile those
that are at hand begin."""
_IDLE: Final = 10
"""One of so many places may be free because its task's end waits."""
MOST_ENDS: Final = 500
"""More do not wait for others: a message is a small part of what they cost, and who hears of thousands at once claims
as many in their place, while the worker runs out of tasks."""


class Gathering:
    """The pace of the messages of one stream. ``now``: a clock in seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._sent_at = -math.inf
        self._ends = 0.0
        """Those of the last moments; older ones count less."""

    def sent(self, ends: int) -> None:
        """A message went out that reports so many ends."""
        now = self._now()
        self._ends = self._ends * math.exp((self._sent_at - now) / _WINDOW_S) + ends
        self._sent_at = now

    @property
    def busy(self) -> bool:
        """Whether about `BUSY` ends a second were reported lately."""
        return self._ends * math.exp((self._sent_at - self._now()) / _WINDOW_S) >= BUSY * _WINDOW_S

    def left_s(self, queued: int) -> float:
        """How long the next message may still wait. ``queued``: tasks at hand that have not begun."""
        if not queued and not self.busy:
            return 0.0
        return self._sent_at + (QUEUED_S if queued else MOST_S) - self._now()

    def enough(self, ends: int, queued: int, places: int) -> int:
        """With how many ends a message goes out, where ``ends`` wait now: a part of the places, and as many as there
        are tasks that have not begun, or more where these last until others come."""
        lately = self._ends * math.exp((self._sent_at - self._now()) / _WINDOW_S) + ends
        needed = math.ceil(lately / _WINDOW_S * (_WAY_S + ends * _WAY_EACH_S))
        return max(1, min(max(places // _IDLE, (ends + queued) // 2, ends + queued - needed), MOST_ENDS))
