"""How long something took, less what a busy machine added: promises hold for processes that get a processor."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable

from tests.faults.harness.starved import waited_ns


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
