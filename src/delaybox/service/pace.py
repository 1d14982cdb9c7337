"""Whether this process waits for the servers of a cluster, or they for it."""

from __future__ import annotations

import resource
from collections.abc import Callable
from typing import Final

WINDOW: Final = 32
"""Batches after which it is judged anew."""
MOST_SLEEPS: Final = WINDOW // 4
_LONGER: Final = 4
"""After so many windows with the servers behind it is tried again."""
_OF_THREAD: Final[int | None] = getattr(resource, "RUSAGE_THREAD", None)


def sleeps_of_thread() -> int:
    """How often this thread has gone to sleep. Where it had to leave its core to another one is not counted."""
    return 0 if _OF_THREAD is None else resource.getrusage(_OF_THREAD).ru_nvcsw


class BulkPace:
    """``ahead``: the servers wait for this process, as it seldom sleeps between the batches that it sends.

    Where the system does not say how often a thread sleeps, nothing is ever ahead.
    """

    def __init__(self, sleeps: Callable[[], int] = sleeps_of_thread, *, known: bool = _OF_THREAD is not None) -> None:
        self._sleeps = sleeps
        self._known = known
        self._last = 0
        self._slept = 0
        """Batches of this window before which it has slept."""
        self._count = 0
        self._window = WINDOW
        self.ahead = False

    def batch(self) -> None:
        """One more batch of a bulk call is to be sent."""
        if not self._known:
            return
        now = self._sleeps()
        self._slept += now != self._last
        self._last = now
        self._count += 1
        if self._count >= self._window:
            self._judge(self._slept * WINDOW <= MOST_SLEEPS * self._window)
        elif self.ahead and self._slept > MOST_SLEEPS:
            self._judge(False)

    def _judge(self, ahead: bool) -> None:
        self.ahead = ahead
        self._window = WINDOW if ahead else WINDOW * _LONGER
        self._slept = self._count = 0
