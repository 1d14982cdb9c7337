"""Counts calls that are on their way to their handlers, so that a round trip to the store waits for them.

grpc's core hands over one call after the other, each in several turns of the event loop, although their requests have
come together. Whoever stores what calls bring would otherwise begin with the first one.
"""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import Final

_WAIT_S: Final = 0.001
"""Time in which at least one more call arrives. Event loops round it to whole milliseconds."""
_MOST_WAITS: Final = 2


class Arrivals:
    """The calls of one process. All methods belong to its event loop."""

    __slots__ = ("_asked", "_asked_at", "_coming", "_last_s", "_stuck", "_taken", "_waiter")

    def __init__(self) -> None:
        self._coming = 0
        self._stuck = 0
        """So many of those on their way are not waited for: they did not arrive in time, or were never handed over."""
        self._taken = 0
        self._waiter: asyncio.Future[None] | None = None
        self._asked = -1
        """When so many are taken, it is known how long the one that came at `_asked_at` was on its way; -1: none."""
        self._asked_at = 0.0
        self._last_s = 0.0

    @property
    def way_s(self) -> float:
        """How long calls are on their way."""
        return self._last_s if self._asked < 0 else max(self._last_s, perf_counter() - self._asked_at)

    @property
    def waiting(self) -> int:
        """So many calls are here and have not come to their handlers."""
        return max(0, self._coming - self._stuck)

    def came(self) -> None:
        """The whole request of a call is in this process."""
        self._coming += 1
        if self._asked < 0:
            self._asked, self._asked_at = self._taken + max(1, self._coming - self._stuck), perf_counter()

    def take(self) -> None:
        """A handler has the request of a call, or has refused the call."""
        self._coming -= 1
        self._taken += 1
        if 0 <= self._asked <= self._taken:
            self._asked, self._last_s = -1, perf_counter() - self._asked_at
        if self._coming <= self._stuck:
            # A call that ended in another way was counted once only, so the count may settle above or below zero.
            self._stuck = self._coming
            self._wake()

    async def wait(self) -> None:
        """Returns when no call is on its way that could arrive soon; at once where there is none."""
        if self._coming <= self._stuck or self._waiter is not None:
            return
        loop = asyncio.get_running_loop()
        for _ in range(_MOST_WAITS):
            before = self._taken
            self._waiter = loop.create_future()
            timer = loop.call_later(_WAIT_S, self._wake)
            try:
                await self._waiter
            finally:
                timer.cancel()
                self._waiter = None
            if self._taken == before:
                self._stuck = self._coming
            if self._coming <= self._stuck:
                return

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


here: Final = Arrivals()
"""Those of this process."""


class ArrivingCall:
    """One call, which is taken once, at the latest when it leaves the ``with``."""

    __slots__ = ("_arrivals", "_taken")

    def __init__(self, arrivals: Arrivals = here) -> None:
        self._arrivals = arrivals
        self._taken = False

    def take(self) -> None:
        """As `Arrivals.take`; twice is harmless."""
        if not self._taken:
            self._taken = True
            self._arrivals.take()

    def __enter__(self) -> ArrivingCall:
        return self

    def __exit__(self, *_: object) -> None:
        self.take()
