"""Real servers for tests: Valkey from the embedded package, or what DELAYBOX_TEST_SERVER names."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from delaybox.embedded import find_binary, launch
from delaybox.store.address import ServerSettings

READY_S = 60.0


def server_binary() -> Path:
    """The server that the tests run on."""
    if named := os.environ.get("DELAYBOX_TEST_SERVER"):
        found = shutil.which(named)
        assert found, f"DELAYBOX_TEST_SERVER={named} cannot be run"
        return Path(found)
    return find_binary()


class RealServer:
    """A server process on a unix socket in a folder of its own, without persistence unless asked for.

    Ends with the test process, even by SIGKILL. ``arguments`` are the server's own (``--maxmemory 10mb``).
    """

    def __init__(self, arguments: Sequence[str] = ()) -> None:
        # Not pytest's tmp_path: its names are too long for a unix socket.
        self.folder = Path(tempfile.mkdtemp(prefix="dbx-"))
        self.unix_path = str(self.folder / "s")
        self.log = self.folder / "log"
        self._arguments = list(arguments)
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: int | None = None

    @property
    def settings(self) -> ServerSettings:
        return ServerSettings(unix_path=self.unix_path)

    @property
    def url(self) -> str:
        return f"unix://{self.unix_path}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Returns when it serves (its data is loaded)."""
        base = ["--port", "0", "--unixsocket", self.unix_path, "--dir", str(self.folder), "--save", ""]
        with self.log.open("ab") as output:
            command = [str(server_binary()), *base, *self._arguments]
            self._process, self._pipe = launch(command, output=output.fileno())
        give_up = time.monotonic() + READY_S
        while not self._serves():
            if self._process.poll() is not None or time.monotonic() > give_up:
                raise RuntimeError(f"the test server does not start: {self.log.read_text()[-2000:]}")
            time.sleep(0.01)

    def start_as(self, config: Path, *arguments: str, port: int) -> None:
        """Starts the server in another role, by a configuration file; returns when it serves on a port."""
        with self.log.open("ab") as output:
            command = [str(server_binary()), str(config), *arguments]
            self._process, self._pipe = launch(command, output=output.fileno())
        give_up = time.monotonic() + READY_S
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
                return
            assert time.monotonic() < give_up, self.log.read_text()[-2000:]
            time.sleep(0.01)

    def _serves(self) -> bool:
        with socket.socket(socket.AF_UNIX) as connection, contextlib.suppress(OSError):
            connection.settimeout(5)
            connection.connect(self.unix_path)
            connection.sendall(b"PING\r\n")
            # A server that asks for a password serves too.
            return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        return False

    def empty(self) -> None:
        """Deletes all that it holds; what it holds in memory is freed meanwhile."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(READY_S)
            connection.connect(self.unix_path)
            connection.sendall(b"FLUSHALL ASYNC\r\n")
            answer = connection.recv(64)
            assert answer == b"+OK\r\n", answer

    def kill(self) -> None:
        """SIGKILL, and wait for the end. The folder stays; `start` brings it back."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def close(self) -> None:
        """End it and remove its folder."""
        self.kill()
        if self._pipe is not None:
            os.close(self._pipe)
            self._pipe = None
        shutil.rmtree(self.folder, ignore_errors=True)
