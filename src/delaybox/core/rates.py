"""How often something happened lately, by key. Times are arguments: seconds of any clock that only goes forward."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping

WINDOW_S = 60.0
_SLOT_S = 5.0


class Rates:
    """Counts a second over the last minute; over the time since ``started_s`` while that is shorter."""

    def __init__(self, started_s: float) -> None:
        self._started_s = started_s
        self._slots: deque[tuple[float, Counter[bytes]]] = deque()

    def add(self, keys: Iterable[bytes] | Mapping[bytes, int], now_s: float) -> None:
        """One more of each, or as many as the mapping says."""
        if not self._slots or now_s >= self._slots[-1][0] + _SLOT_S:
            self._forget(now_s)
            self._slots.append((now_s, Counter()))
        self._slots[-1][1].update(keys)

    def per_second(self, now_s: float) -> dict[bytes, float]:
        """Rates by key, without keys for which nothing happened in the last minute."""
        self._forget(now_s)
        sums: Counter[bytes] = Counter()
        for _, counts in self._slots:
            sums.update(counts)
        over = min(max(now_s - self._started_s, 1.0), WINDOW_S)
        return {key: round(count / over, 3) for key, count in sums.items()}

    def _forget(self, now_s: float) -> None:
        while self._slots and self._slots[0][0] <= now_s - WINDOW_S:
            self._slots.popleft()
