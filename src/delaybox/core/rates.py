"""How often something happened lately, by key. Times are arguments: seconds of any clock that only goes forward."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterable, Mapping

WINDOW_S = 60.0
_SLOT_S = 5.0
_MOST_KEYS = 5_000
"""Keys that are counted in each part of the window, up to twice as many for a moment. The busiest ones stay."""
_FADED = 0.001
"""A rate below this is no rate any more."""


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
        counts = self._slots[-1][1]
        if isinstance(keys, dict):
            # `Counter.update` takes twice as long for the one or two keys that there mostly are.
            for key, count in keys.items():
                counts[key] += count
        else:
            counts.update(keys)
        if len(counts) > 2 * _MOST_KEYS:
            # Queues may be named after jobs. Whoever asks adds all of a minute up, twice a second.
            self._slots[-1] = self._slots[-1][0], Counter(dict(counts.most_common(_MOST_KEYS)))

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


class FadingRates:
    """Counts a second by key, the latest ones most: each count fades to a third in ``fade_s``. At most ``most`` keys;
    counts of further ones are left out."""

    def __init__(self, started_s: float, *, fade_s: float = 10.0, most: int = 1_000) -> None:
        self._started_s = started_s
        self._fade_s = fade_s
        self._most = most
        self._sums: dict[bytes, tuple[float, float]] = {}

    def add(self, key: bytes, count: float, now_s: float) -> None:
        """So many more."""
        at, held = self._sums.get(key, (now_s, 0.0))
        if held or len(self._sums) < self._most:
            self._sums[key] = (now_s, held * math.exp((at - now_s) / self._fade_s) + count)

    def per_second(self, now_s: float) -> dict[bytes, float]:
        """Rates by key; those that have faded away are forgotten."""
        # Of a young one the time before its start is left out, in which nothing could happen.
        over = self._fade_s * (1.0 - math.exp(-max(now_s - self._started_s, 1.0) / self._fade_s))
        found = {key: held * math.exp((at - now_s) / self._fade_s) / over for key, (at, held) in self._sums.items()}
        self._sums = {key: self._sums[key] for key, rate in found.items() if rate >= _FADED}
        return {key: round(found[key], 3) for key in self._sums}


class Means:
    """The mean of what was measured lately, by key; of ``most`` keys, those that were measured last."""

    def __init__(self, *, share: float = 0.05, most: int = 1_000) -> None:
        self._share = share
        self._most = most
        self._known: dict[bytes, tuple[int, float]] = {}

    def add(self, key: bytes, measured: float) -> None:
        """One measurement. The first ones count the same, later ones ``share`` each."""
        n, mean = self._known.pop(key, (0, 0.0))
        self._known[key] = (n + 1, mean + (measured - mean) * max(self._share, 1 / (n + 1)))
        if len(self._known) > self._most:
            del self._known[next(iter(self._known))]

    def all(self) -> dict[bytes, float]:
        """Means by key."""
        return {key: round(mean, 3) for key, (_, mean) in self._known.items()}
