"""Redis's clock as this process sees it between round trips. For punctuality only; scripts read the real one."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

_FORGET_MS = 10_000.0
_SLACK_MS = 0.02
"""How much the two clocks may drift apart, with a wide margin for the time that a bound is kept."""


def local_ms() -> float:
    """This process's monotonic clock in ms."""
    return time.monotonic_ns() / 1e6


class RedisClock:
    """Bounds the offset between Redis's clock and ours from replies that carry Redis's time in whole ms.

    A reply that says ``now`` was made between sending and receiving, so the offset lies in
    [now - received, now + 1 - sent); the narrowest such range of the last 10 s is kept.
    """

    def __init__(self) -> None:
        self._low = -1e18
        self._high = 1e18
        self._since = -1e18
        self._next_low = -1e18
        self._next_high = 1e18

    def observe(self, sent: float, received: float, now: int) -> None:
        """Takes one reply: local times (ms) around it, and Redis's time in it."""
        low, high = now - received, now + 1 - sent
        if low > self._high + 1 or high < self._low - 1:
            # A clock was set, so the old bounds do not hold any more.
            self._low, self._high = self._next_low, self._next_high = low, high
            self._since = received
            return
        if received - self._since > _FORGET_MS:
            self._low, self._high = self._next_low, self._next_high
            self._next_low, self._next_high = low, high
            self._since = received
        self._low, self._high = max(self._low, low), min(self._high, high)
        self._next_low, self._next_high = max(self._next_low, low), min(self._next_high, high)

    def now_ms(self) -> float:
        """Redis's time now, to a fraction of a ms; local wall clock before the first reply."""
        offset = (self._low + self._high) / 2
        if self._low < -1e17:
            return time.time() * 1000
        return local_ms() + offset

    def local_at(self, redis_ms: float) -> float:
        """The local moment (ms) at which Redis's clock shows ``redis_ms``."""
        if self._low < -1e17:
            return redis_ms - self.now_ms() + local_ms()
        # The same for the same moment, while the bounds are: `kernel_timer` goes by that.
        return redis_ms - (self._low + self._high) / 2


class Clocks:
    """One `RedisClock` for each server. ``shards``: the number of its server for each partition, as it is now."""

    def __init__(self, shards: Callable[[], Sequence[int]] = lambda: (0,)) -> None:
        self.shards = shards
        self._clocks: dict[int, RedisClock] = {}

    def at(self, shard: int) -> RedisClock:
        """The clock of one server."""
        clock = self._clocks.get(shard)
        if clock is None:
            clock = self._clocks[shard] = RedisClock()
        return clock

    def of(self, partition: int) -> RedisClock:
        """The clock of the server that has a partition."""
        return self.at(self.shards()[partition])

    def now_ms(self, partition: int) -> int:
        """The time at the server that has a partition."""
        return int(self.of(partition).now_ms())
