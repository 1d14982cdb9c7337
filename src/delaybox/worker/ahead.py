"""Tasks at hand beyond the places: how many a session asked for, and how many are worth it by what runs took lately.

Between the end of one task and the begin of the next lie a report, a claim and two messages: some 5 ms. That is nothing
beside a second, and most of the time where a function takes a millisecond.
"""

from __future__ import annotations

from collections import deque
from typing import Final

HOLD_S: Final = 0.1
"""What waits for a place is handed back when no run has ended for so long."""
_AHEAD_S: Final = 0.05
"""So much work waits for each place. Meanwhile others that are idle could run it, and what is critical does not pass
it."""
_MOST: Final = 64
_RUNS: Final = 16
_FIRST_RUNS: Final = 4


class AskedAhead:
    """How many tasks beyond its credit a session has asked its node for. ``most``: so many may still arrive."""

    __slots__ = ("most", "now")

    def __init__(self) -> None:
        self.now = self.most = 0

    def ask(self, count: int) -> None:
        """The node learns of it with the next message."""
        self.now = count
        self.most = max(self.most, count)

    def forget(self) -> None:
        """The node has, too."""
        self.now = self.most = 0


class RunPace:
    """How long the last runs took."""

    def __init__(self) -> None:
        self._runs: deque[float] = deque(maxlen=_RUNS)

    def ended(self, seconds: float) -> None:
        """A run has ended by itself."""
        self._runs.append(seconds)

    def slow(self) -> None:
        """A run takes long."""
        self._runs.clear()

    @property
    def ahead(self) -> int:
        """Tasks that are to wait for each place."""
        runs = self._runs
        if len(runs) < _FIRST_RUNS or max(runs) > HOLD_S:
            return 0
        mean = max(sum(runs) / len(runs), 1e-6)
        return 0 if mean > _AHEAD_S else min(_MOST, max(1, round(_AHEAD_S / mean)))
