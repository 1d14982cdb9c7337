"""Whether and when a failed delivery is tried again. Pure: the random draw is an argument."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from delaybox.core.errors import InvalidTask
from delaybox.core.limits import MAX_ATTEMPTS, MAX_FACTOR

LOSSES_CAP = 3
"""A task that was lost this many times with the process that ran it is dead-lettered: a WORKER task with its worker,
others with their node. Tasks that nodes only carry (PUB_SUB, WORKER) are dead-lettered after 20 lost nodes
(scripts/lib/loss.lua)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Exponential back-off. ``jitter`` is the share of the delay that is drawn at random (1 = full jitter)."""

    max_attempts: int = 5
    initial_ms: int = 1_000
    factor: float = 2.0
    max_ms: int = 3_600_000
    jitter: float = 1.0

    def again(self, attempt: int) -> bool:
        """Whether a further attempt follows failed attempt number ``attempt`` (1 is the first)."""
        return attempt < self.max_attempts

    def delay_ms(self, attempt: int, draw: float) -> int:
        """Milliseconds to wait after failed attempt number ``attempt`` (1 is the first); ``draw`` in [0, 1)."""
        # The exponent is capped: 2.0 ** 1100 overflows a float, and max_ms wins long before.
        grown = self.initial_ms * self.factor ** min(attempt - 1, 64)
        ceiling = min(float(self.max_ms), grown)
        fixed = ceiling * (1.0 - self.jitter)
        return int(fixed + (ceiling - fixed) * draw)


DEFAULT_RETRY = RetryPolicy()
NO_RETRY = RetryPolicy(max_attempts=1)


class RetryFields(NamedTuple):
    """The names that a front end uses for the parts of a policy, for its refusals."""

    attempts: str
    initial: str
    factor: str
    maximum: str
    jitter: str


def checked_policy(
    fields: RetryFields,
    *,
    attempts: int | None = None,
    initial_ms: int | None = None,
    factor: float | None = None,
    max_ms: int | None = None,
    jitter: float | None = None,
) -> RetryPolicy:
    """The policy that a caller asks for, None being the default, by the rules of every front end. InvalidTask.

    A wait that is not given fits the other one: the first is at most the longest.
    """
    attempts = DEFAULT_RETRY.max_attempts if attempts is None else attempts
    if not 1 <= attempts <= MAX_ATTEMPTS:
        raise InvalidTask(
            fields.attempts, f"{fields.attempts} {attempts} is not in range; give 1 (no retry) to {MAX_ATTEMPTS}"
        )
    longest = max(initial_ms or 0, DEFAULT_RETRY.max_ms) if max_ms is None else max_ms
    initial = min(DEFAULT_RETRY.initial_ms, longest) if initial_ms is None else initial_ms
    if initial > longest:
        raise InvalidTask(
            fields.initial,
            f"{fields.initial} ({initial} ms) is more than {fields.maximum} ({longest} ms); lower it, or raise "
            f"{fields.maximum}",
        )
    factor = DEFAULT_RETRY.factor if factor is None else factor
    if not 1 <= factor <= MAX_FACTOR:
        raise InvalidTask(fields.factor, f"{fields.factor} {factor:g} is not in range; give 1 to {MAX_FACTOR}")
    jitter = DEFAULT_RETRY.jitter if jitter is None else jitter
    if not 0 <= jitter <= 1:
        raise InvalidTask(fields.jitter, f"{fields.jitter} {jitter:g} is not in range; give 0 to 1")
    return RetryPolicy(max_attempts=attempts, initial_ms=initial, factor=factor, max_ms=longest, jitter=jitter)
