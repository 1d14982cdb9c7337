"""Bounds the calls with new tasks that a process takes at once, when it has more of them than it can serve.

What tells that is how long new tasks wait in the process before they go to the store, and not how many there are: as
many may be no trouble on another machine. As CoDel does with packets, it heeds a wait that lasts: one that is too long
is a burst, and only where none was short for a while more is taken on than goes out. Then so few are taken at once that
the wait comes down, and the newest are refused before anything of them is read. What is due is fired by other
processes, to which that leaves the processor.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator
from typing import Final

from delaybox.core.errors import Overloaded
from delaybox.service import arrivals
from delaybox.service.arrivals import Arrivals
from delaybox.store.store import MAX_ITEMS

_log = logging.getLogger("delaybox.api")

INTERVAL_S: Final = 0.5
"""For so long no wait was short before fewer are taken, and so often the bound moves."""
FORGET_S: Final = 5.0
"""So long after the last refusal the bound is gone."""
LEAST: Final = MAX_ITEMS
"""As many calls are taken whatever they wait for: those of one round trip. With fewer each carries less, so where the
wait comes from other programs on the machine less would be stored, and no sooner."""
LONGEST_RETRY_S: Final = 3
BYTES_A_CALL: Final = 2_048
"""Of the tasks of a batch so many cost about what a call costs."""


class Shed(Overloaded):
    """A call was refused before anything of it was read."""


class Shedding:
    """Of one process, for all its doors.

    ``wait_s``: the longest wait that may last; 0: nobody is refused. ``on_refused`` is called for each call that is.
    ``arriving``: calls that are on their way to their handlers.
    """

    __slots__ = (
        "_arriving", "_changed", "_least", "_now", "_on_refused", "_over_since", "_peak", "_refused", "_sampled",
        "_second", "_turned_away", "_wait_s", "_waiters", "bound", "under_way",
    )  # fmt: skip

    def __init__(
        self,
        wait_s: float = 0.0,
        *,
        on_refused: Callable[[], None] | None = None,
        arriving: Arrivals = arrivals.here,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.bound = math.inf
        self.under_way = 0
        """Calls that were taken and are not answered; a batch counts as several."""
        self._wait_s = wait_s
        self._on_refused = on_refused
        self._arriving = arriving
        self._now = now
        self._over_since = -1.0
        """Since when no wait was short; negative: the last one was."""
        self._least = 0.0
        self._peak = 0
        self._changed = self._sampled = self._refused = self._second = -math.inf
        self._turned_away = 0
        """Refused since `_second`, within a second."""
        self._waiters: set[asyncio.Future[None]] = set()
        """Of those that wait in `room`."""

    def admit(self) -> None:
        """Refuses a call with new tasks if there are too many. Overloaded."""
        if self.full:
            raise self.refusal()

    @property
    def full(self) -> bool:
        """Whether a further call is refused."""
        return self.bound != math.inf and self._full()

    def _full(self) -> bool:
        if self.under_way + self._arriving.waiting < self.bound:
            return False
        if self._now() - self._sampled > FORGET_S:
            self._lift()  # these are the first after a pause
            return False
        return True

    def refusal(self) -> Shed:
        """The refusal of a call, which is counted. The more are refused, the later they should come again."""
        self._refused = now = self._now()
        if now - self._second >= 1.0:
            self._second, self._turned_away = now, 0
        seconds = int(min(LONGEST_RETRY_S, 1 + self._turned_away // max(LEAST, self.bound)))
        self._turned_away += 1
        if self._on_refused is not None:
            self._on_refused()
        return Shed(
            f"new tasks wait longer than {self._wait_s * 1000:.0f} ms in this process, so it takes no more than "
            f"{self.bound} calls at once; try again in {seconds} s",
            retry_after_s=seconds,
        )

    @contextlib.contextmanager
    def taken(self, size: int = 0) -> Iterator[None]:
        """A call is under way, of which nothing more is waited for than its tasks. ``size``: bytes of a batch."""
        calls = 1 + size // BYTES_A_CALL
        self.under_way += calls
        try:
            yield
        finally:
            self.answered(calls)

    def answered(self, calls: int = 1) -> None:
        """So many that were under way are not any more."""
        self.under_way -= calls
        if self._waiters:
            self._look()

    async def room(self, seconds: float) -> None:
        """Returns as soon as a call with new tasks would be taken. Overloaded when none is within that time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.full:
                    self._waiters.add(waiter := asyncio.get_running_loop().create_future())
                    try:
                        await waiter
                    finally:
                        self._waiters.discard(waiter)
        self.admit()

    def _look(self) -> None:
        """Tells those that wait in `room` if there is some."""
        if not self.full:
            for waiter in self._waiters:
                if not waiter.done():
                    waiter.set_result(None)

    def waited(self, seconds: float) -> None:
        """What was sent to the store just now waited so long in this process, for whatever else that has to do."""
        if not self._wait_s:
            return
        now = self._now()
        seconds += self._arriving.way_s
        # One that waits long now and then, while nothing else is there, does not wait for others.
        apart = now - self._sampled > max(INTERVAL_S, 2 * seconds)
        self._sampled = now
        if seconds <= self._wait_s or apart:
            self._over_since = -1.0
            self._peak = 0
            self._widen(now)
            if self._waiters:
                self._look()
            return
        self._peak = max(self._peak, self.under_way + self._arriving.waiting)
        if self._over_since < 0:
            self._over_since, self._least = now, seconds
            return
        self._least = min(self._least, seconds)
        if now - self._over_since >= INTERVAL_S:
            self._narrow(now)

    def _narrow(self, now: float) -> None:
        """The wait is as long as what waits, so it comes down with that."""
        share = max(0.5, self._wait_s / self._least)
        bound = max(LEAST, int(min(self.bound, self._peak) * share))
        if bound < self.bound:
            if self.bound == math.inf:
                _log.warning(
                    "new tasks wait longer than %.0f ms in this process: it takes %d calls at once, and refuses more",
                    self._least * 1000,
                    bound,
                )
            self.bound = bound
        self._changed = self._over_since = now
        self._least = math.inf
        self._peak = 0

    def _widen(self, now: float) -> None:
        if self.bound == math.inf or now - self._changed < INTERVAL_S:
            return
        self._changed = now
        if now - self._refused > FORGET_S:
            self._lift()
        else:
            self.bound += max(1, self.bound // 8)

    def _lift(self) -> None:
        self.bound = math.inf
        self._over_since = -1.0
        _log.info("new tasks wait no longer than they should: as many calls as come are taken")
