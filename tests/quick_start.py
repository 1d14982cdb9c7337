"""Processes of DelayBox that tests start: forked from one that has imported everything, not imported anew.

A run starts some 1,500 processes, each of which would import the same modules for half a second. So in a run with
TESTS_FORK=1, as `make test` is, `subprocess.Popen`, and with it asyncio's subprocesses, asks a fork server
(tests/fork_server.py) for each ``python -m`` of DelayBox and of the tests' own nodes, on Linux; and so do the processes
forked that way, for their children. Each is a real process, with a memory, a session, signals and an end of its own. A
command that a fresh interpreter would understand otherwise (see `_fits`) gets one. Marked ``fresh``, a test or a file
has nothing but fresh interpreters, because how a process starts is what it tests.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import pickle
import re
import resource
import socket
import subprocess
import sys
import threading
from asyncio import unix_events
from asyncio.subprocess import Process, SubprocessStreamProtocol
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tests import fork_server
from tests.fork_server import COUNTED_AS, COUNTED_IN

ALWAYS_FRESH = sys.platform != "linux" or "TESTS_FORK" not in os.environ
fresh = ALWAYS_FRESH
"""Whether fresh interpreters are wanted now."""

_PROGRAM = re.compile(
    r"delaybox|delaybox\.worker|delaybox\.worker\.cpu_host|delaybox\.roles\.\w+|tests\.faults\.node_proc"
)
_READ_AT_START = re.compile(
    r"PYTHON(?!PATH$)|OTEL_|PROMETHEUS_|GRPC_|LANG$|LC_|LD_|FORCE_COLOR|PY_COLORS|TERMINAL_WIDTH"
)
"""Variables that count when the interpreter starts, or when a library is imported."""
_PR_SET_CHILD_SUBREAPER = 36

FreshPopen = subprocess.Popen
_create_subprocess_exec = asyncio.create_subprocess_exec
_own_path = {*sys.path, fork_server.ROOT, f"{fork_server.ROOT}/src"}
_environ = {name: value for name, value in os.environ.items() if not name.startswith("PROMETHEUS_")}
_forking, _starting = threading.Lock(), threading.Lock()


class _Server:
    """Forks for this process, which is its parent."""

    def __init__(
        self,
        address: str,
        imported: Iterable[str],
        held: socket.socket,
        process: subprocess.Popen[bytes] | None = None,
    ) -> None:
        """``held``: the server ends when this is closed. ``process``: the server, where this process waits for it."""
        self.address = address
        self._held = held
        self._process = process
        self.names = {"sitecustomize", "usercustomize", *imported}

    @classmethod
    def started(cls) -> _Server:
        """A new one, when it is ready."""
        address = fork_server.address()
        ours, theirs = socket.socketpair()
        with theirs:
            code = f"import sys; sys.path.insert(0, {fork_server.ROOT!r}); from tests import fork_server; "
            code += f"del sys.path[0]; fork_server.main({address!r}, {theirs.fileno()})"
            process = FreshPopen(
                [sys.executable, "-P", "-c", code, " " * fork_server.ROOM],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={name: value for name, value in _environ.items() if name != "PYTHONPATH"},
            )
        imported = ours.recv(1 << 16).decode().split("\n")
        assert "delaybox" in imported, "the fork server did not start; its errors stand above"
        return cls(address, imported, ours, process)

    def close(self) -> None:
        """Ends the server."""
        self._held.close()
        if self._process is not None:
            self._process.wait()

    def fork(self, asked: dict[str, Any], files: Sequence[int]) -> int:
        """The id of a process that is this one's child."""
        prctl = ctypes.CDLL(None).prctl
        with _forking:
            # The process that is its parent at first ends at once. Only meanwhile is this one next in line, or it would
            # be left with whatever killed nodes leave behind.
            prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
            try:
                return fork_server.ask(self.address, asked, files)
            finally:
                prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


_server: _Server | None = None


def install() -> None:
    """From now on processes are forked where that can be."""
    if not ALWAYS_FRESH:
        subprocess.Popen = QuickPopen  # type: ignore[misc]


def uninstall() -> None:
    """Processes are started anew again; the server ends."""
    global _server
    subprocess.Popen = FreshPopen  # type: ignore[misc]
    with _starting:
        if _server is not None:
            _server.close()
            _server = None


def inherit(address: str, held: socket.socket) -> None:
    """In a process that was forked: what it starts is forked too, by this server."""
    global _server, fresh
    _server, fresh = _Server(address, fork_server.imported(), held), False
    subprocess.Popen = QuickPopen  # type: ignore[misc]
    asyncio.create_subprocess_exec = create_subprocess_exec


def _fits(arguments: Sequence[str], environ: Mapping[str, str], folder: str, names: set[str]) -> bool:
    """Whether what the servers imported is what a fresh interpreter would import."""
    others = {name for name in {*environ, *_environ} if environ.get(name) != _environ.get(name)}
    if any(_READ_AT_START.match(name) for name in others - {COUNTED_IN, COUNTED_AS}):
        return False
    path = [p for p in environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    if arguments[1] != "-P":
        path.append(folder)
    return not any(_hides(p, names) for p in path if p not in _own_path)


def _hides(folder: str, names: set[str]) -> bool:
    """Whether modules there would come before those that are imported already."""
    try:
        return any(name.partition(".")[0] in names for name in os.listdir(folder))
    except OSError:
        return False


def _forkable(args: Any) -> bool:
    """Whether it is a program that the servers know."""
    if not isinstance(args, list | tuple) or not all(isinstance(word, str) for word in args):
        return False
    if "--metrics-port" in args:
        return False  # what is imported then depends on the command
    words = [word for at, word in enumerate(args[:4]) if (at, word) != (1, "-P")]
    return words[:2] == [sys.executable, "-m"] and bool(_PROGRAM.fullmatch("".join(words[2:3])))


class QuickPopen(FreshPopen):
    """`subprocess.Popen` that has a process forked where it can."""

    def _execute_child(
        self,
        args: Any,
        executable: Any,
        preexec_fn: Callable[[], None] | None,
        close_fds: bool,
        pass_fds: Sequence[int],
        cwd: Any,
        env: Mapping[str, str] | None,
        startupinfo: Any,
        creationflags: int,
        shell: bool,
        p2cread: int,
        p2cwrite: int,
        c2pread: int,
        c2pwrite: int,
        errread: int,
        errwrite: int,
        *more: Any,
    ) -> None:
        global _server
        files = {
            **{number: number for number in pass_fds},
            0: 0 if p2cread == -1 else p2cread,
            1: 1 if c2pwrite == -1 else c2pwrite,
            2: 2 if errwrite == -1 else errwrite,
        }
        restore_signals, gid, gids, uid, umask, start_new_session, process_group = more
        usual = (executable, shell, gid, gids, uid, umask, process_group, close_fds, restore_signals)
        environ = dict(os.environ if env is None else env)
        folder = os.fspath(cwd or os.getcwd())
        before = "" if preexec_fn is None else preexec_fn.__qualname__
        if (
            not fresh
            and _forkable(args)
            and usual == (None, False, None, None, None, -1, -1, True, True)
            and "<" not in before  # a function that cannot be handed on
            and not any(os.isatty(number) for number in files.values())  # terminals decide how streams behave
        ):
            with _starting:
                _server = _server or _Server.started()
            asked = {
                "arguments": list(args),
                "environment": environ,
                "folder": folder,
                "files": list(files),
                "limits": resource.getrlimit(resource.RLIMIT_NOFILE),
                "new_session": start_new_session,
                "before": pickle.dumps(preexec_fn).hex() if preexec_fn else "",
            }
            if _fits(args, environ, folder, _server.names):
                self.pid = _server.fork(asked, list(files.values()))
                self._child_created = True
                self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)  # type: ignore[attr-defined]
                return
        super()._execute_child(  # type: ignore[misc]
            args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo, creationflags, shell,
            p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite, *more,
        )  # fmt: skip


async def create_subprocess_exec(program: Any, *args: Any, limit: int = 1 << 16, **options: Any) -> Process:
    """As asyncio's, also on loops that start processes without `subprocess.Popen` (uvloop's)."""
    if not _forkable([program, *args]):
        return await _create_subprocess_exec(program, *args, limit=limit, **options)
    loop = asyncio.get_running_loop()
    protocol = SubprocessStreamProtocol(limit=limit, loop=loop)
    connected = loop.create_future()
    streams = [options.pop(name, None) for name in ("stdin", "stdout", "stderr")]
    transport = unix_events._UnixSubprocessTransport(  # type: ignore[attr-defined]
        loop, protocol, (program, *args), False, *streams, 0, waiter=connected, **options
    )
    process: subprocess.Popen[bytes] = transport.get_extra_info("subprocess")
    ending = os.pidfd_open(process.pid)

    def ended() -> None:
        loop.remove_reader(ending)
        os.close(ending)
        transport._process_exited(process.wait())

    loop.add_reader(ending, ended)
    try:
        await connected
    except BaseException:
        process.kill()
        raise
    return Process(transport, protocol, loop)
