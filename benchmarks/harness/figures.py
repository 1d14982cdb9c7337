"""Pure figures: percentiles of lateness, what a server says its commands cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, TypeVar

from benchmarks.harness.server import BenchServer

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Spread:
    """Lateness in ms, of every task and not of a sample. ``early`` counts those below zero."""

    n: int
    p50: float
    p99: float
    p999: float
    max: float
    min: float
    early: int

    def note(self) -> str:
        return (
            f"p50 {self.p50:.2f}, p99 {self.p99:.2f}, p99.9 {self.p999:.2f}, max {self.max:.2f} ms; "
            f"early {self.early} of {self.n}"
        )


def middle(runs: Sequence[T], by: Callable[[T], float]) -> T:
    """The run in the middle by this figure, the upper one of two. ValueError without any."""
    if not runs:
        raise ValueError("nothing was measured")
    return sorted(runs, key=by)[len(runs) // 2]


def spread(values: Sequence[float]) -> Spread:
    """Percentiles by nearest rank."""
    if not values:
        raise ValueError("nothing was measured")
    ordered = sorted(values)
    n = len(ordered)

    def at(share: float) -> float:
        return ordered[min(n - 1, int(n * share))]

    return Spread(n, at(0.5), at(0.99), at(0.999), ordered[-1], ordered[0], sum(1 for v in ordered if v < 0))


SCRIPTS = ("eval", "evalsha", "fcall")


def server_microseconds(server: BenchServer, commands: Iterable[str] = SCRIPTS) -> float:
    """Microseconds spent in these commands since CONFIG RESETSTAT.

    A script's figure includes the commands it calls, which commandstats counts a second time under their own names:
    so name either the scripts or the bare commands, never both.
    """
    stats: Mapping[str, Any] = server.info("commandstats")
    return sum(float(stats.get(f"cmdstat_{name}", {"usec": 0})["usec"]) for name in commands)


def reset_costs(server: BenchServer, *, slowlog_from_us: int | None = None) -> None:
    """Forget earlier costs. With ``slowlog_from_us``: from now on SLOWLOG keeps every command at least that slow."""
    server.call("CONFIG", "RESETSTAT")
    if slowlog_from_us is not None:
        server.call("CONFIG", "SET", "slowlog-log-slower-than", slowlog_from_us)
        server.call("CONFIG", "SET", "slowlog-max-len", 100_000)
        server.call("SLOWLOG", "RESET")


@dataclass(frozen=True, slots=True)
class Slowest:
    """The longest script since ``reset_costs``, and among those of its name that reached SLOWLOG, how long is usual."""

    longest_us: float
    name: str
    logged: int
    median_us: float
    calls: int

    def note(self, *, from_us: int) -> str:
        if not self.logged:
            return f"none of {self.calls:,} scripts reached {from_us} µs"
        return (
            f"{self.name}; {self.logged:,} of {self.calls:,} scripts above {from_us} µs, "
            f"median of its kind there {self.median_us / 1000:.2f} ms"
        )


def slowest_script(server: BenchServer, *, slowlog_from_us: int, names: Mapping[str, str]) -> Slowest:
    """SLOWLOG holds exact wall times above its threshold; below it only the threshold itself can be promised.

    ``names`` says by SHA which script it was. A script sent by its source is named by the command.
    """
    by: dict[str, list[int]] = {}
    for entry in server.control.slowlog_get(100_000):
        words = entry["command"].split(b" ", 2)
        command = words[0].decode(errors="replace").lower()
        if command in SCRIPTS:
            sha = words[1].decode(errors="replace") if len(words) > 1 else ""
            by.setdefault(names.get(sha, command), []).append(int(entry["duration"]))
    stats: Mapping[str, Any] = server.info("commandstats")
    calls = sum(int(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"]) for name in SCRIPTS)
    logged = sum(map(len, by.values()))
    if not by:
        return Slowest(float(slowlog_from_us), "none", 0, 0.0, calls)
    name, durations = max(by.items(), key=lambda item: max(item[1]))
    return Slowest(float(max(durations)), name, logged, float(median(durations)), calls)
