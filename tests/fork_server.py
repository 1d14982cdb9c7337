"""A process from which tests fork what they would otherwise start as ``python -m …``: it has imported all of it.

`tests/quick_start.py` starts and asks it. It has no thread but its first, no event loop and no connection. A process
that it forks becomes a child of the one that asked (which is a "child subreaper" meanwhile), so that it is waited for,
killed and orphaned as any other.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import fcntl
import gc
import importlib
import json
import os
import pickle
import pkgutil
import resource
import runpy
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

ROOT = str(Path(__file__).parents[1])
COUNTED_IN, COUNTED_AS = "PROMETHEUS_MULTIPROC_DIR", "DELAYBOX_COUNTED_AS"
ROOM = 2_048
"""Length of an argument that a server gets only to have room for the command lines of what it forks."""

_PACKAGES = (
    "delaybox.worker",
    "delaybox.cli",
    "delaybox.client",
    "delaybox.direct",
    "delaybox.roles",
    "delaybox.targets",
)
"""Imported with all modules in them, and what those need. Workers come first: they switch something off in gRPC."""
_MODULES = (
    "delaybox.autoscale",
    "delaybox.node",
    "tests.faults.harness.node",
    "tests.faults.harness.process",
    "tests.quick_start",
    "tests.worker_app",
)
_LATE = ("__main__", "traced")
"""Modules that do something when they are imported, or that load what is loaded only where it is asked for."""
_PARENTS = ("delaybox", "delaybox.worker")
"""Programs that start others."""
_MOST = 1 << 20
_FILES = 32


def main(address: str, starter: int) -> None:
    """Imports everything, then forks for whoever asks, until the process that started it has ended."""
    # Ctrl-C goes to the whole group of the tests' processes. This one ends with them in any case.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _prepare()
    listener = _listening(address)
    gc.freeze()  # the collector would touch, and so copy, every page in every process
    connection = socket.socket(fileno=starter)
    connection.send("\n".join(imported()).encode())
    _serve(listener, connection)


def imported() -> set[str]:
    """What modules are called that are imported here: the first part of their names."""
    return {name.partition(".")[0] for name in sys.modules}


def _listening(address: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(address)
    listener.listen(64)
    return listener


def _serve(listener: socket.socket, starter: socket.socket) -> None:
    while listener in select.select([listener, starter], [], [])[0]:
        asking = listener.accept()[0]
        with contextlib.suppress(ConnectionError):
            raw, files, _, _ = socket.recv_fds(asking, _MOST, _FILES)
            if raw:
                pid = _fork(json.loads(raw), files, (asking, listener, starter))
                asking.send(str(pid).encode())
            for file in files:
                os.close(file)
        asking.close()


def address() -> str:
    """A new one, which is no file: nothing is left behind."""
    return f"\0delaybox-tests-{os.getpid()}-{os.urandom(6).hex()}"


def ask(address: str, asked: dict[str, Any], files: Sequence[int]) -> int:
    """Asks the server at the address for a process; its id. ConnectionError when there is no server."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _MOST)
        connection.connect(address)
        socket.send_fds(connection, [json.dumps(asked).encode()], list(files))
        answer = connection.recv(64)
    if not answer:
        raise ConnectionError("the fork server has ended")
    return int(answer)


def _prepare() -> None:
    sys.path.insert(0, ROOT)
    from delaybox.processes import lean_imports

    lean_imports.lean()
    for name in _PACKAGES:
        package = importlib.import_module(name)
        for found in pkgutil.walk_packages(package.__path__, f"{name}."):
            if found.name.rpartition(".")[2] not in _LATE:
                importlib.import_module(found.name)
    for name in _MODULES:
        importlib.import_module(name)
    lean_imports.settled()
    gc.collect()
    gc.disable()
    sys.path.remove(ROOT)


def _fork(asked: dict[str, Any], files: Sequence[int], open_here: Sequence[socket.socket]) -> int:
    """The id of a process that does what is asked. It is forked twice, for its first parent must end."""
    begin, go = os.pipe()
    answer, there = os.pipe()
    between = os.fork()
    if between == 0:
        pid = os.fork()
        if pid:
            os.write(there, str(pid).encode())
            os._exit(0)
        os.close(go)
        os.read(begin, 1)  # its end comes when the process between is gone
        for one in open_here:
            one.detach()
        _become(asked, files)
    os.close(begin)
    os.close(there)
    os.waitpid(between, 0)
    os.close(go)
    pid = int(os.read(answer, 32))
    os.close(answer)
    return pid


def _become(asked: dict[str, Any], files: Sequence[int]) -> NoReturn:
    """This process becomes what ``python -m`` would have started."""
    code = 1
    try:
        _take_over(files, asked["files"])
        resource.setrlimit(resource.RLIMIT_NOFILE, tuple(asked["limits"]))
        if asked["new_session"]:
            os.setsid()
        os.chdir(asked["folder"])
        if asked["before"]:
            pickle.loads(bytes.fromhex(asked["before"]))()
        os.environ.clear()
        os.environ.update(asked["environment"])
        time.tzset()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        arguments: list[str] = asked["arguments"]
        _show(arguments)
        safe = arguments[1] == "-P"
        module, *more = arguments[3:] if safe else arguments[2:]
        here = [] if safe else [os.getcwd()]
        sys.path[:0] = here + [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
        sys.argv = ["-m", *more]
        sys.orig_argv = arguments
        sys.modules.pop(module, None)
        if COUNTED_IN in os.environ:
            _count_anew()
        if module in _PARENTS:
            _serve_own()
        gc.enable()
        code = _run(module)
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)


def _run(module: str) -> int:
    """As the interpreter runs a program; its exit code."""
    code = 0
    try:
        runpy._run_module_as_main(module)  # type: ignore[attr-defined]
    except SystemExit as end:
        if end.code is not None and not isinstance(end.code, int):
            print(end.code, file=sys.stderr)
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__ and error.__traceback__.tb_next)
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    return code & 0xFF


def _take_over(files: Sequence[int], numbers: Sequence[int]) -> None:
    """The files get the numbers that they have where they come from; all others are closed."""
    above = max([*files, *numbers]) + 1
    moved = [fcntl.fcntl(file, fcntl.F_DUPFD, above) for file in files]
    for file, number in zip(moved, numbers, strict=True):
        os.dup2(file, number)
    _close_all_but(numbers)


def _show(arguments: Sequence[str]) -> None:
    """`ps` shows these arguments in place of the server's, as far as there is room."""
    facts = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end = int(facts[45]), int(facts[46])
    if end > start:
        text = "\0".join(arguments).encode(errors="surrogateescape")[: end - start - 1]
        ctypes.memmove(start, text + bytes(end - start - len(text)), end - start)


def _serve_own() -> None:
    """What this process starts is forked by a server of its own, which is its child."""
    from tests import quick_start

    own = address()
    listener = _listening(own)
    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        number = os.dup(theirs.detach())
        for one in (ours, listener):
            one.set_inheritable(False)
        kept = {listener.fileno(), number}
        _close_all_but(kept)
        ours.detach()
        _serve(listener, socket.socket(fileno=number))
        os._exit(0)
    theirs.close()
    listener.close()
    quick_start.inherit(own, ours)


def _close_all_but(numbers: Iterable[int]) -> None:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    for last, number in pairwise([-1, *sorted(numbers), most]):
        if number > last + 1:  # closerange takes an empty range for all files
            os.closerange(last + 1, number)


def _count_anew() -> None:
    """The counters, which were made when the server imported them, count in the folder, as this process."""
    from prometheus_client import values

    from delaybox.metrics.exposition import REGISTRY

    name = os.environ.get(COUNTED_AS)
    values.ValueClass = values.MultiProcessValue(*([lambda: name] if name else []))  # type: ignore[no-untyped-call]
    for collector in set(REGISTRY._collector_to_names):
        if collector._is_observable():  # type: ignore[attr-defined]
            collector._metric_init()  # type: ignore[attr-defined]
