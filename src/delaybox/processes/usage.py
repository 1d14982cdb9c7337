"""What this process uses: its CPU time lately, and how long it has run."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path

_FADE_S = 10.0


class Cores:
    """CPU seconds a second, of all threads of this process; the last ten seconds count most."""

    def __init__(self) -> None:
        self._at = time.monotonic()
        self._cpu = time.process_time()
        self._mean = 0.0

    def used(self, now_s: float) -> float:
        """The mean until now. ``now_s``: `time.monotonic`."""
        cpu, passed = time.process_time(), now_s - self._at
        if passed >= 0.1:
            keep = math.exp(-passed / _FADE_S)
            self._mean = (cpu - self._cpu) / passed * (1.0 - keep) + self._mean * keep
            self._at, self._cpu = now_s, cpu
        return round(self._mean, 3)


def age_ms() -> int:
    """Time since this process started; 0 where the system does not tell."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        return max(0, round((time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")) * 1_000))
    except (OSError, ValueError, IndexError, AttributeError):
        return 0
