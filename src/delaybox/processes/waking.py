"""When the loops of a process wake: together, because each time that a process wakes costs more than what most loops do
then, and takes a core from whoever has work."""

from __future__ import annotations

import asyncio
import os
from typing import Final

GRID_S: Final = 0.25
_GOLDEN: Final = 0.6180339887
"""Multiples of it lie evenly apart."""
_PHASE_S: Final = os.getpid() * _GOLDEN % 1.0 * GRID_S
"""Processes of one machine wake at different moments."""


_EXACT_S: Final = 0.005
"""Timers of event loops are this exact."""


def together(now_s: float, pause_s: float) -> float:
    """When a loop wakes that rests for ``pause_s``: of pauses of 0.25 s, 0.5 s, 1 s and so on at most so much earlier
    that others wake with it; of any other pause, such as one after an error, at its end.

    ``now_s``: the event loop's clock, and so is the answer.
    """
    if pause_s < GRID_S or pause_s % GRID_S:
        return now_s + pause_s
    grid = GRID_S if pause_s % (2 * GRID_S) else 2 * GRID_S
    # Who was woken a little too early does not wake twice.
    latest = now_s + pause_s + _EXACT_S
    return latest - (latest - _PHASE_S) % grid


def rest_s(pause_s: float) -> float:
    """How long a loop that begins to rest now rests (`together`)."""
    now = asyncio.get_running_loop().time()
    return together(now, pause_s) - now


async def rest(pause_s: float) -> None:
    """Sleeps for about ``pause_s`` and wakes with others (`together`)."""
    await asyncio.sleep(rest_s(pause_s))
