"""Measures how late a process's event loop wakes: whatever holds it up makes everything in this process late.

A timer that only measures would be half of all that wakes an idle process. So while heartbeats are punctual and the
process has little to do they are the measure, and only otherwise a timer is.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque

from delaybox.engine.loops import end

_STEP_S = 0.1
_STEPS = 10
"""So many at least are measured when there was a reason to, and go on while there is one."""
_KEPT = 100
_KEPT_S = 10.0
_LATE_S = 0.01
"""A heartbeat that is this late is a reason to measure."""
_BUSY = 0.05
"""And so is a process that uses this much of a core."""


class Lag:
    """Notes by how much a loop wakes too late: by its heartbeats, and by short sleeps while there is a reason."""

    def __init__(self) -> None:
        self._late: deque[tuple[float, float]] = deque(maxlen=_KEPT)
        """When that was, and how late."""
        self._used_s = self._used_at = 0.0
        self._task: asyncio.Task[None] | None = None

    def woke(self, late_s: float) -> None:
        """A heartbeat's timer woke the loop that late."""
        if self._task is None and (late_s >= _LATE_S or self._busy()):
            self._task = asyncio.create_task(self._measure(), name="delaybox-lag")
        elif self._task is None:
            # One that was late may have been the only one of a hundred, which only closer looks can tell.
            self._note(late_s)

    async def stop(self) -> None:
        """Ends; twice is harmless."""
        task, self._task = self._task, None
        if task is not None:
            await end(task)

    @property
    def p99_ms(self) -> float:
        """Of the last 10 s; 0 before anything was measured."""
        since = asyncio.get_running_loop().time() - _KEPT_S
        found = sorted(late_s for at, late_s in self._late if at >= since)
        return round(1000 * found[math.ceil(len(found) * 0.99) - 1], 1) if found else 0.0

    def _note(self, late_s: float) -> None:
        self._late.append((asyncio.get_running_loop().time(), max(0.0, late_s)))

    def _busy(self) -> bool:
        """Whether the process had much to do since the last call."""
        used_s, now = time.process_time(), asyncio.get_running_loop().time()
        busy = used_s - self._used_s > _BUSY * (now - self._used_at)
        self._used_s, self._used_at = used_s, now
        return busy

    async def _measure(self) -> None:
        loop = asyncio.get_running_loop()
        late = busy = True
        while late or busy:
            late = False
            for _ in range(_STEPS):
                began = loop.time()
                await asyncio.sleep(_STEP_S)
                late_s = loop.time() - began - _STEP_S
                late = late or late_s >= _LATE_S
                self._note(late_s)
            busy = self._busy()
        self._task = None
