"""How many messages may be on their way to the brokers at once: as many as they confirm within a second or so. Pure."""

from __future__ import annotations

MOST = 50_000
LEAST = 250
SLOW_S = 1.0
"""A confirmation that takes longer than this is too slow: more urgent messages would wait behind those under way."""
_FAST_S = SLOW_S / 4


class SendWindow:
    """``size`` halves when confirmations take long, and grows by a quarter when they do not."""

    def __init__(self) -> None:
        self.size = MOST
        self.on_way = 0
        self._halved_s = float("-inf")

    @property
    def room(self) -> int:
        """How many more messages may be sent."""
        return max(0, self.size - self.on_way)

    def confirmed(self, began_s: float, took_s: float, on_way: int) -> None:
        """Messages handed over at ``began_s`` (any clock) took so long; ``on_way`` in all were on their way then."""
        if took_s > SLOW_S:
            # Messages that were sent before the last cut say nothing about the present size.
            if began_s >= self._halved_s:
                self._halved_s = began_s + took_s
                self.size = max(LEAST, min(self.size, on_way) // 2)
        elif took_s < _FAST_S:
            self.size = min(MOST, self.size + max(LEAST, self.size // 4))
