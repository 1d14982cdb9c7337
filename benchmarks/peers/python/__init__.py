"""Celery, Dramatiq and taskiq: installed at run time into a folder git ignores, as real worker processes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from benchmarks.harness import tally
from benchmarks.harness.process import ROOT, Child
from benchmarks.harness.server import BenchServer
from benchmarks.peers.missing import PeerMissingError

HERE = Path(__file__).resolve().parent
CACHE = HERE.parents[1] / ".cache" / "python"
PROCESSES = 2
WARM_UP = 400


@dataclass(frozen=True, slots=True)
class Peer:
    """``worker``: its command line behind the interpreter's folder. ``aside``: takes the tasks that wait out of the
    workers' sight, ``release`` gives them back at once, ``left``: how many are not acked."""

    name: str
    app: str
    worker: tuple[str, ...]
    how: str
    aside: Callable[[BenchServer], object]
    release: Callable[[BenchServer], object]
    left: Callable[[BenchServer], int]
    environment: Mapping[str, str] | None = None


def _rename(old: str, new: str) -> Callable[[BenchServer], object]:
    return lambda server: server.call("RENAME", old, new)


_COPY_STREAM = """
for _, entry in ipairs(redis.call('XRANGE', 'aside', '-', '+')) do
  redis.call('XADD', 'taskiq', '*', unpack(entry[2]))
end
"""


def _stream_left(server: BenchServer) -> int:
    # It never deletes: what was acked stays in the stream.
    return sum(int(group["lag"] or 0) + int(group["pending"]) for group in server.control.xinfo_groups("taskiq"))


CELERY = Peer(
    "celery",
    "celery_app",
    (
        *("celery", "--app", "benchmarks.peers.python.celery_app", "worker", "--pool", "prefork"),
        *("--concurrency", str(PROCESSES), "--loglevel", "ERROR"),
        *("--without-gossip", "--without-mingle", "--without-heartbeat"),
    ),
    f"prefork, {PROCESSES} processes, prefetch 1,000 each, results off, msgpack",
    _rename("celery", "aside"),
    _rename("aside", "celery"),
    lambda server: int(server.call("LLEN", "celery")) + int(server.call("HLEN", "unacked")),
)
DRAMATIQ = Peer(
    "dramatiq",
    "dramatiq_app",
    (
        *("dramatiq", "benchmarks.peers.python.dramatiq_app", "--processes", str(PROCESSES), "--threads", "8"),
        *("--skip-logging",),
    ),
    f"{PROCESSES} processes of 8 threads, prefetch 1,000, no middleware but Retries",
    _rename("dramatiq:default", "aside"),
    _rename("aside", "dramatiq:default"),
    lambda server: int(server.call("HLEN", "dramatiq:default.msgs")),
    {"dramatiq_queue_prefetch": "1000"},
)
TASKIQ = Peer(
    "taskiq",
    "taskiq_app",
    (
        *("taskiq", "worker", "benchmarks.peers.python.taskiq_app:broker", "--workers", str(PROCESSES)),
        *("--max-async-tasks", "1000", "--max-prefetch", "1000", "--no-parse", "--log-level", "ERROR"),
        *("--ack-type", "when_executed"),
    ),
    f"{PROCESSES} processes on uvloop, streams with acks, 1,000 async tasks and prefetch 1,000, arguments not parsed",
    _rename("taskiq", "aside"),
    lambda server: server.call("EVAL", _COPY_STREAM, 0),
    _stream_left,
)
ALL = (CELERY, DRAMATIQ, TASKIQ)


@dataclass(frozen=True, slots=True)
class Drained:
    """``seconds``: from the instant at which the tasks were there until the last one was acked."""

    seconds: float
    first_s: float


def drain(peer: Peer, server: BenchServer, count: int, *, patience_s: float = 180.0) -> Drained:
    """``count`` tasks that are due already, drained by workers that are up, warm and idle when they appear."""
    binaries = _installed()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dbx-tally-")))
        environment = {
            **os.environ,
            **(peer.environment or {}),
            tally.FOLDER: str(folder),
            "DELAYBOX_BENCH_SOCKET": server.unix,
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "ignore",
        }

        def fill(tasks: int) -> None:
            command = [str(binaries / "python"), "-m", f"benchmarks.peers.python.{peer.app}", str(tasks)]
            subprocess.run(command, env=environment, cwd=ROOT, check=True, capture_output=True, timeout=patience_s)

        fill(count)
        peer.aside(server)
        command = [str(binaries / peer.worker[0]), *peer.worker[1:]]
        child = stack.enter_context(Child(command, environment=environment))
        fill(WARM_UP)
        _until(child, folder, WARM_UP, patience_s)
        started = time.monotonic()
        peer.release(server)
        _until(child, folder, WARM_UP + 1, patience_s)
        first_s = time.monotonic() - started
        _until(child, folder, WARM_UP + count, patience_s)
        while peer.left(server):
            if time.monotonic() - started > patience_s:
                raise RuntimeError(f"{peer.left(server)} tasks were never acked")
            time.sleep(0.002)
        return Drained(time.monotonic() - started, first_s)


def _until(child: Child, folder: Path, count: int, patience_s: float) -> None:
    deadline = time.monotonic() + patience_s
    while (done := tally.total(folder)) < count:
        if child.ended():
            raise RuntimeError(f"the worker ended: {child.words() or 'no word'}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"{done} of {count} ran in {patience_s:.0f} s: {child.words()}")
        time.sleep(0.002)


@cache
def versions() -> dict[str, str]:
    """By name; ``absent`` where they cannot be installed."""
    try:
        python = _installed() / "python"
    except PeerMissingError:
        return {peer.name: "absent" for peer in ALL}
    text = "import sys, importlib.metadata as m; print(*map(m.version, sys.argv[1:]))"
    names = [peer.name for peer in ALL]
    found = subprocess.run([python, "-c", text, *names], capture_output=True, text=True, check=True, timeout=30)
    return dict(zip(names, found.stdout.split(), strict=True))


_failure: list[str] = []


def _installed() -> Path:
    """The folder of their programs. Installed once a run; a failure is remembered and raised each time."""
    if _failure:
        raise PeerMissingError(_failure[0])
    wanted = (HERE / "requirements.txt").read_text()
    mark = CACHE / "installed.txt"
    if not mark.exists() or mark.read_text() != wanted:
        shutil.rmtree(CACHE, ignore_errors=True)
        pip = [CACHE / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        steps = (
            [sys.executable, "-m", "venv", CACHE],
            [*pip, "--require-hashes", "--requirement", HERE / "requirements.txt"],
        )
        for step in steps:
            try:
                subprocess.run(step, capture_output=True, text=True, timeout=300, check=True)
            except subprocess.TimeoutExpired:
                _failure.append("pip took more than 300 s to install the Python peers, so they were not measured")
            except subprocess.CalledProcessError as error:
                _failure.append(f"pip could not install the Python peers: {error.stderr.strip()[-200:]}")
            if _failure:
                raise PeerMissingError(_failure[0])
        mark.write_text(wanted)
    return CACHE / "bin"
