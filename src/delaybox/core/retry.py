"""When a failed delivery is tried again. Pure: the random draw is an argument."""

from __future__ import annotations

from dataclasses import dataclass

LOSSES_CAP = 3
"""A task that lost its node this many times is dead-lettered ("lost with its node"); a PUB_SUB task, which cannot
be what killed it, after 20 (scripts/lib/loss.lua)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Exponential back-off. ``jitter`` is the share of the delay that is drawn at random (1 = full jitter)."""

    max_attempts: int = 5
    initial_ms: int = 1_000
    factor: float = 2.0
    max_ms: int = 3_600_000
    jitter: float = 1.0

    def delay_ms(self, attempt: int, draw: float) -> int:
        """Milliseconds to wait after failed attempt number ``attempt`` (1 is the first); ``draw`` in [0, 1)."""
        # The exponent is capped: 2.0 ** 1100 overflows a float, and max_ms wins long before.
        grown = self.initial_ms * self.factor ** min(attempt - 1, 64)
        ceiling = min(float(self.max_ms), grown)
        fixed = ceiling * (1.0 - self.jitter)
        return int(fixed + (ceiling - fixed) * draw)


DEFAULT_RETRY = RetryPolicy()
NO_RETRY = RetryPolicy(max_attempts=1)
