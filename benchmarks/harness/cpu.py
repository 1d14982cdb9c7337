"""CPU time of processes, from /proc: a figure that a busy machine disturbs less than it does a rate."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
_ROLE = re.compile(rb"delaybox\.roles\.(\w+)")


def seconds_of(pid: int) -> float:
    """CPU seconds that a process has used, its threads included; 0.0 where it is gone."""
    try:
        # To the nanosecond; stat counts in ticks of 10 ms.
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9
    except (OSError, IndexError, ValueError):
        return _by_ticks(pid)


def _by_ticks(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS_A_SECOND


def family(pid: int) -> dict[int, str]:
    """A node's processes by what they are: ``grpc``, ``rest``, …; ``node`` is the parent."""
    parents: dict[int, int] = {}
    for found in Path("/proc").iterdir():
        if found.name.isdecimal():
            try:
                parents[int(found.name)] = int((found / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    names = {pid: "node"}
    for child in sorted(parents):
        if parents[child] == pid:
            try:
                command = Path(f"/proc/{child}/cmdline").read_bytes()
            except OSError:
                continue
            role = _ROLE.search(command)
            names[child] = role.group(1).decode() if role else "other"
    return names


class CpuUse:
    """What processes used since it was made. ``names``: process -> what it is; several of one name are told apart."""

    def __init__(self, names: Mapping[int, str]) -> None:
        self._names = names
        self._before = {pid: seconds_of(pid) for pid in names}

    def microseconds(self, count: int) -> list[tuple[str, float]]:
        """For each process its name and its CPU µs for each of ``count`` pieces of work."""
        return [(name, (seconds_of(pid) - self._before[pid]) / count * 1e6) for pid, name in self._names.items()]

    def note(self, count: int, *, least: float = 0.5) -> str:
        """For a row; processes below ``least`` µs are left out."""
        found = [f"{name} {used:.0f}" for name, used in self.microseconds(count) if used >= least]
        return f"CPU µs each: {', '.join(found)}"
