"""How long something took, less what a busy machine added: promises hold for processes that get a processor."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from tests.faults.harness.starved import waited_ns

T = TypeVar("T")
_BEAT_S = 0.02
_STANDS_S = 0.2
"""An event loop that is so late was held up."""


class Spent:
    """Begins now. ``pids``: the other processes that have to do something meanwhile, as they are at each look; those
    that begin later count from their start."""

    def __init__(self, pids: Callable[[], Iterable[int]] = tuple) -> None:
        self._pids = pids
        self._waited = self._look()
        self._began = time.monotonic()

    def s(self) -> float:
        """Seconds since then in which not one of the processes waited for a processor, if they took turns."""
        took, now = time.monotonic() - self._began, self._look()
        return took - sum(ns - self._waited.get(pid, 0) for pid, ns in now.items()) / 1e9

    def _look(self) -> dict[int, int]:
        return {pid: waited_ns(pid) for pid in {os.getpid(), *self._pids()}}


async def undisturbed(look: Callable[[], Awaitable[T]]) -> T:
    """What ``look`` answers at a time in which the machine does not hold this process up: patience that is counted in
    seconds is over then though nobody was waited for. A look that is held up is made again, 20 times at most."""
    for _ in range(20):
        stood_s = 0.0
        over = asyncio.Event()

        async def beat(over: asyncio.Event = over) -> None:
            nonlocal stood_s
            while not over.is_set():
                began = time.monotonic()
                await asyncio.sleep(_BEAT_S)
                stood_s = max(stood_s, time.monotonic() - began - _BEAT_S)

        beating = asyncio.create_task(beat())
        try:
            found = await look()
        finally:
            over.set()
            await beating
        if stood_s < _STANDS_S:
            break
    return found
