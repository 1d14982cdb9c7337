"""Measures how late a process's event loop wakes: whatever holds it up makes everything in this process late."""

from __future__ import annotations

import asyncio
import math
from collections import deque

from delaybox.engine.loops import end

_STEP_S = 0.1
_KEPT = 100
"""Samples: those of 10 s."""


class Lag:
    """Sleeps short spans and notes by how much each was too long, until stopped."""

    def __init__(self) -> None:
        self._late_s: deque[float] = deque(maxlen=_KEPT)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins; returns at once."""
        self._task = asyncio.create_task(self._run(), name="delaybox-lag")

    async def stop(self) -> None:
        """Ends; twice is harmless."""
        task, self._task = self._task, None
        if task is not None:
            await end(task)

    @property
    def p99_ms(self) -> float:
        """Of the last 10 s; 0 before anything was measured."""
        found = sorted(self._late_s)
        return round(1000 * found[math.ceil(len(found) * 0.99) - 1], 1) if found else 0.0

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            await asyncio.sleep(_STEP_S)
            self._late_s.append(max(0.0, loop.time() - began - _STEP_S))
