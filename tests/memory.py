"""How much memory a process holds, as Linux says; 0 elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path


def _kib(pid: int, what: str) -> int:
    if sys.platform != "linux":
        return 0
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what))


def resident_kib(pid: int) -> int:
    return _kib(pid, "VmRSS")


def peak_kib(pid: int) -> int:
    """The most that it held since it started, or since `forget_peak`."""
    return _kib(pid, "VmHWM")


def forget_peak(pid: int) -> None:
    """For a process that other tests have used before."""
    if sys.platform == "linux":
        Path(f"/proc/{pid}/clear_refs").write_text("5")
