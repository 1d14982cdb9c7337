"""Pure figures: percentiles of lateness, what a server says its commands cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.harness.server import BenchServer


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
    """The longest script since ``reset_costs``. ``at_least_threshold``: how many reached SLOWLOG at all."""

    longest_us: float
    at_least_threshold: int
    calls: int
    mean_us: float


def slowest_script(server: BenchServer, *, slowlog_from_us: int) -> Slowest:
    """SLOWLOG holds exact times above its threshold; below it only the threshold itself can be promised."""
    entries = server.control.slowlog_get(100_000)
    durations = [int(entry["duration"]) for entry in entries if _is_script(entry)]
    stats = server.info("commandstats")
    calls = sum(int(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"]) for name in SCRIPTS)
    total = server_microseconds(server)
    longest = float(max(durations, default=slowlog_from_us))
    return Slowest(longest, len(durations), calls, total / max(1, calls))


def _is_script(entry: Mapping[str, Any]) -> bool:
    raw = entry["command"]
    words = raw if isinstance(raw, bytes) else b" ".join(raw)
    return words.split(b" ", 1)[0].lower().decode(errors="replace") in SCRIPTS
