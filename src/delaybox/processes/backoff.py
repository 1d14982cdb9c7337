"""How long to wait before something that ended is started again."""

from __future__ import annotations

import random
from collections.abc import Callable


class Backoff:
    """Pauses that double from ``first_s`` to ``longest_s`` seconds, each shortened by up to a half by chance.

    So many that ended together do not come back together. What has lived for ``steady_s`` begins with the first again.
    """

    def __init__(
        self,
        *,
        first_s: float,
        longest_s: float,
        steady_s: float,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._first_s = self._next_s = first_s
        self._longest_s = longest_s
        self._steady_s = steady_s
        self._chance = chance

    def pause_s(self, lived_s: float = 0.0) -> float:
        """The pause after a life of ``lived_s`` seconds; 0 for a start that failed."""
        if lived_s >= self._steady_s:
            self._next_s = self._first_s
        pause_s = self._next_s
        self._next_s = min(pause_s * 2, self._longest_s)
        return pause_s * (1 - self._chance() / 2)
