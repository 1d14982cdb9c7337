"""For how long who was called to a partition goes on to look there."""

from __future__ import annotations

from delaybox.engine.asks import UNTIL_CALLED
from delaybox.store.store import Claimed

STAY_MS = 1_000.0
"""A member without room learns of nothing that comes due, so what it has no room for would be late by the 100 ms after
which the owner of the partition calls others. Whoever came once looks there as long as it finds something."""
THEIRS_MS = 5.0
"""What whoever claims there as a rule has not taken after this time, it has no room for."""


class Stays:
    """Of one tracker, by partition."""

    def __init__(self) -> None:
        self._until: dict[int, tuple[float, float]] = {}

    def begin(self, partition: int, now_ms: float, stay_ms: float) -> None:
        """It was called there, and stays for so long."""
        self._until[partition] = now_ms + stay_ms, stay_ms

    def on(self, partition: int, now_ms: float) -> bool:
        """Whether it stays there."""
        return self._by_clock(self._until.get(partition, (0.0, 0.0))[0], now_ms) > now_ms

    def _by_clock(self, until: float, now_ms: float) -> float:
        """0 where the server's clock was set back since: the stay would last for as long as that step."""
        return until if until <= now_ms + 2 * STAY_MS else 0.0

    def look(self, partition: int, claimed: Claimed, due_ms: float) -> float:
        """When to look again where the taker was called, and has taken what was there: when others should have taken
        what is due next."""
        until, stay_ms = self._until.get(partition, (0.0, 0.0))
        if claimed.leased and until:
            until = claimed.now_ms + stay_ms
            self._until[partition] = until, stay_ms
        return due_ms + THEIRS_MS if due_ms <= self._by_clock(until, claimed.now_ms) else UNTIL_CALLED
