"""Task queues in Python: installed at run time into folders git ignores, as real worker processes.

They stand in two groups, each with an environment of its own, for they do not agree on one version of redis.
"""

from __future__ import annotations

import json
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
CACHE = HERE.parents[1] / ".cache"
PROCESSES = 2
WARM_UP = 400


@dataclass(frozen=True, slots=True)
class Peer:
    """``worker``: its command line behind the interpreter's folder, started ``times`` times. ``aside``: takes the tasks
    that wait out of the workers' sight, ``release`` gives them back at once, ``left``: how many are not acked.
    ``group``: the file of requirements, by its name, whose environment it runs in."""

    name: str
    app: str
    worker: tuple[str, ...]
    how: str
    aside: Callable[[BenchServer], object]
    release: Callable[[BenchServer], object]
    left: Callable[[BenchServer], int]
    environment: Mapping[str, str] | None = None
    group: str = "requirements"
    times: int = 1


def _rename(old: str, new: str) -> Callable[[BenchServer], object]:
    return lambda server: server.call("RENAME", old, new)


def _copy(stream: str) -> Callable[[BenchServer], object]:
    """Its workers have made the stream anew, with their group: the entries are added to that."""
    text = """
for _, entry in ipairs(redis.call('XRANGE', 'aside', '-', '+')) do
  redis.call('XADD', KEYS[1], '*', unpack(entry[2]))
end
"""
    return lambda server: server.call("EVAL", text, 1, stream)


def _stream_left(stream: str) -> Callable[[BenchServer], int]:
    # taskiq never deletes: what was acked stays in the stream.
    return lambda server: sum(
        int(group["lag"] or 0) + int(group["pending"]) for group in server.control.xinfo_groups(stream)
    )


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
    _copy("taskiq"),
    _stream_left("taskiq"),
)
RQ = Peer(
    "rq",
    "rq_app",
    ("rq", "worker", "--worker-class", "rq.worker.SimpleWorker", "--quiet", "--disable-job-desc-logging"),
    f"{PROCESSES} processes that run tasks themselves (SimpleWorker), one at a time; a fork for each is its default",
    _rename("rq:queue:default", "aside"),
    _rename("aside", "rq:queue:default"),
    lambda server: int(server.call("LLEN", "rq:queue:default")) + int(server.call("ZCARD", "rq:wip:default")),
    {"RQ_REDIS_URL": "unix://{socket}"},
    group="more",
    times=PROCESSES,
)
ARQ = Peer(
    "arq",
    "arq_app",
    ("arq", "benchmarks.peers.python.arq_app.WorkerSettings"),
    f"{PROCESSES} processes, 1,000 async tasks each, polls every 10 ms, results off",
    _rename("arq:queue", "aside"),
    _rename("aside", "arq:queue"),
    lambda server: int(server.call("ZCARD", "arq:queue")),
    group="more",
    times=PROCESSES,
)
SAQ = Peer(
    "saq",
    "saq_app",
    ("saq", "benchmarks.peers.python.saq_app.settings", "--quiet"),
    f"{PROCESSES} processes on uvloop, 100 async tasks each, results off",
    _rename("saq:default:queued", "aside"),
    _rename("aside", "saq:default:queued"),
    lambda server: int(server.call("LLEN", "saq:default:queued")) + int(server.call("LLEN", "saq:default:active")),
    group="more",
    times=PROCESSES,
)
STREAQ = Peer(
    "streaq",
    "streaq_app",
    ("streaq", "run", "benchmarks.peers.python.streaq_app:worker", "--workers", str(PROCESSES)),
    f"{PROCESSES} processes on uvloop, 500 async tasks each, results off",
    _rename("streaq:default:queues:normal", "aside"),
    _copy("streaq:default:queues:normal"),
    _stream_left("streaq:default:queues:normal"),
    group="more",
)
ALL = (CELERY, DRAMATIQ, TASKIQ, RQ, ARQ, SAQ, STREAQ)


@dataclass(frozen=True, slots=True)
class Drained:
    """``seconds``: from the instant at which the tasks were there until the last one was acked."""

    seconds: float
    first_s: float


def drain(peer: Peer, server: BenchServer, count: int, *, patience_s: float = 180.0) -> Drained:
    """``count`` tasks that are due already, drained by workers that are up, warm and idle when they appear."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dbx-tally-")))
        binaries, environment = _installed(peer.group), _environment(peer, server, folder)

        def fill(tasks: int) -> None:
            command = [str(binaries / "python"), "-m", f"benchmarks.peers.python.{peer.app}", str(tasks)]
            subprocess.run(command, env=environment, cwd=ROOT, check=True, capture_output=True, timeout=patience_s)

        fill(count)
        peer.aside(server)
        command = [str(binaries / peer.worker[0]), *peer.worker[1:]]
        children = [stack.enter_context(Child(command, environment=environment)) for _ in range(peer.times)]
        # None is warm before all are up: the first would have done it alone.
        _up(children, folder, lambda: fill(WARM_UP), patience_s)
        warm = tally.total(folder)
        started = time.monotonic()
        peer.release(server)
        _until(children, folder, warm + 1, patience_s)
        first_s = time.monotonic() - started
        _until(children, folder, warm + count, patience_s)
        while peer.left(server):
            if time.monotonic() - started > patience_s:
                raise RuntimeError(f"{peer.left(server)} tasks were never acked")
            time.sleep(0.002)
        return Drained(time.monotonic() - started, first_s)


def call(peer: Peer, server: BenchServer, count: int, *, patience_s: float = 180.0) -> list[float]:
    """How long each of ``count`` calls took until its result was in the caller's hands, one by one, in ms."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dbx-tally-")))
        binaries = _installed(peer.group)
        environment = {**_environment(peer, server, folder), tally.RESULTS: "1"}
        command = [str(binaries / peer.worker[0]), *peer.worker[1:]]
        for _ in range(peer.times):
            stack.enter_context(Child(command, environment=environment))
        app = [str(binaries / "python"), "-m", f"benchmarks.peers.python.{peer.app}"]
        found: list[float] = []
        # The first calls wait until the workers are up, and warm them.
        for calls in (20, count):
            ran = subprocess.run(
                [*app, "call", str(calls)],
                env=environment, cwd=ROOT, capture_output=True, text=True, timeout=patience_s, check=False,
            )  # fmt: skip
            if ran.returncode:
                raise RuntimeError(f"{peer.name} did not answer: {ran.stderr.strip()[-300:]}")
            found = [float(one) for one in json.loads(ran.stdout.splitlines()[-1])["ms"]]
        return found


def _environment(peer: Peer, server: BenchServer, folder: Path) -> dict[str, str]:
    return {
        **os.environ,
        **{name: value.format(socket=server.unix) for name, value in (peer.environment or {}).items()},
        tally.FOLDER: str(folder),
        "DELAYBOX_BENCH_SOCKET": server.unix,
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "ignore",
    }


def _up(children: list[Child], folder: Path, fill: Callable[[], None], patience_s: float) -> None:
    """Returns when each of several workers has run something, and none has anything to do."""
    sent = 0
    deadline = time.monotonic() + patience_s
    while True:
        fill()
        sent += WARM_UP
        _until(children, folder, sent, patience_s)
        if len(list(folder.glob("*.count"))) >= len(children) or time.monotonic() > deadline:
            return


def _until(children: list[Child], folder: Path, count: int, patience_s: float) -> None:
    deadline = time.monotonic() + patience_s
    while (done := tally.total(folder)) < count:
        for child in children:
            if child.ended():
                raise RuntimeError(f"the worker ended: {child.words() or 'no word'}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"{done} of {count} ran in {patience_s:.0f} s: {children[0].words()}")
        time.sleep(0.002)


@cache
def versions() -> dict[str, str]:
    """By name; ``absent`` where they cannot be installed."""
    found: dict[str, str] = {}
    for group in dict.fromkeys(peer.group for peer in ALL):
        names = [peer.name for peer in ALL if peer.group == group]
        try:
            python = _installed(group) / "python"
        except PeerMissingError:
            found |= dict.fromkeys(names, "absent")
            continue
        text = "import sys, importlib.metadata as m; print(*map(m.version, sys.argv[1:]))"
        output = subprocess.run([python, "-c", text, *names], capture_output=True, text=True, check=True, timeout=30)
        found |= zip(names, output.stdout.split(), strict=True)
    return found


_failures: dict[str, str] = {}


def _installed(group: str) -> Path:
    """The folder of a group's programs. Installed once a run; a failure is remembered and raised each time."""
    if group in _failures:
        raise PeerMissingError(_failures[group])
    folder = CACHE / f"python-{group}"
    wanted = (HERE / f"{group}.txt").read_text()
    mark = folder / "installed.txt"
    if not mark.exists() or mark.read_text() != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        steps = (
            [sys.executable, "-m", "venv", folder],
            [*pip, "--require-hashes", "--requirement", HERE / f"{group}.txt"],
        )
        for step in steps:
            try:
                subprocess.run(step, capture_output=True, text=True, timeout=300, check=True)
            except subprocess.TimeoutExpired:
                _failures[group] = "pip took more than 300 s to install the Python peers, so they were not measured"
            except subprocess.CalledProcessError as error:
                _failures[group] = f"pip could not install the Python peers: {error.stderr.strip()[-200:]}"
            if group in _failures:
                raise PeerMissingError(_failures[group])
        mark.write_text(wanted)
    return folder / "bin"
