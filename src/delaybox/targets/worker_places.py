"""Places of one worker's session that its credit does not know of: a worker counts tasks, and some take several
places, others none yet."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

MAX_AHEAD: Final = 1_000
"""Most tasks that wait at one worker."""


class Beyond:
    """``extra``: places that tasks in hand take beyond one each. ``saved``: free places that are kept for a task that
    takes several. ``most``: the most places that the session gave so far, as its gateway saw it. ``ahead``: tasks that
    the worker wants to have at hand beyond its places."""

    __slots__ = ("_costs", "ahead", "extra", "most", "saved")

    def __init__(self) -> None:
        self._costs: dict[int, int] = {}
        self.ahead = 0
        self.extra = 0
        self.saved = 0
        self.most = 0

    def charge(self, sequences: Iterable[int], cost: int) -> None:
        """These tasks take so many places each."""
        if cost > 1:
            for sequence in sequences:
                self._costs[sequence] = cost
                self.extra += cost - 1

    def paid(self, sequence: int) -> None:
        """This task takes no place any more."""
        if self._costs:
            self.extra -= self._costs.pop(sequence, 1) - 1

    def all_paid(self, sequences: Iterable[int]) -> None:
        """These tasks take no places any more. Mostly none of them took more than one, and nothing is to be done."""
        if self._costs:
            for sequence in sequences:
                self.paid(sequence)
