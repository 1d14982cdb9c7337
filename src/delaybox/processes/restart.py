"""The one rule for starting again what ended: how long to wait, and how the log explains the end."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable

FIRST_S, LONGEST_S, STEADY_S = 0.5, 10.0, 30.0


class RestartBackoff:
    """Pauses that double from ``first_s`` to ``longest_s`` seconds, each shortened at random by up to a half.

    So processes that ended together do not come back together. After a life of ``steady_s`` the first pause is used
    again.
    """

    def __init__(
        self,
        *,
        first_s: float = FIRST_S,
        longest_s: float = LONGEST_S,
        steady_s: float = STEADY_S,
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

    def begin_anew(self) -> None:
        """It works: the next pause is the first again."""
        self._next_s = self._first_s


def cause(exit_code: int | None) -> str:
    """Why a process ended: "exit code 3", "SIGKILL". ``exit_code``: negative for a signal."""
    if exit_code is None or exit_code >= 0:
        return f"exit code {exit_code}"
    try:
        return signal.Signals(-exit_code).name
    except ValueError:
        return f"signal {-exit_code}"


def reason(what: str, exit_code: int | None, lived_s: float, pause_s: float) -> str:
    """The log's message when ``what`` ended and is started again in ``pause_s`` seconds."""
    how = "was ended by" if exit_code is not None and exit_code < 0 else "ended with"
    return f"the {what} {how} {cause(exit_code)} after {lived_s:.0f} s; starting it again in {pause_s:.1f} s"
