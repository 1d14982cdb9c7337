"""Become the embedded server, so that it cannot outlive the node that started it.

    exec_server.py <node's pid> <fd of the node's pipe, or -1> <server binary> <arguments...>

Run by path with ``python -I -S``: only a few standard modules are loaded, and the server keeps this process's pid.

Linux: the kernel sends SIGTERM when the node's thread that started us ends (it survives exec). Elsewhere, or when a
pipe is given, a small forked watcher reads that pipe, whose other end only the node holds, and acts on its end.
SIGTERM rather than SIGKILL: the server then flushes and syncs its append-only file first.
"""

from __future__ import annotations

import os
import signal
import sys
import time

PR_SET_PDEATHSIG = 1
WATCHER_GRACE_S = 10.0


def die_with_parent(parent: int) -> None:
    """Ask Linux for SIGTERM at the parent's death; exit if the parent died before that."""
    import ctypes

    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0) != 0:
        sys.exit(f"prctl failed: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:
        sys.exit("the node that wanted this server is gone")


def watch(server: int, pipe: int) -> None:
    """In the forked watcher: end the server when the pipe ends. Returns when the server is gone."""
    import select

    # Keep nothing but the pipe: the lock on the data folder must end with the server, not with us.
    os.closerange(0, pipe)
    os.closerange(pipe + 1, 1024)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while os.getppid() == server:
        if select.select([pipe], [], [], 1.0)[0] and not os.read(pipe, 1):
            break
    deadline = time.monotonic() + WATCHER_GRACE_S
    if os.getppid() == server:
        os.kill(server, signal.SIGTERM)
    while os.getppid() == server:
        if time.monotonic() > deadline:
            os.kill(server, signal.SIGKILL)
            return
        time.sleep(0.02)


def main(arguments: list[str]) -> None:
    parent, pipe, command = int(arguments[0]), int(arguments[1]), arguments[2:]
    # Whatever the server writes is for its user alone.
    os.umask(0o077)
    if pipe >= 0:
        server = os.getpid()
        if os.fork() == 0:
            try:
                watch(server, pipe)
            finally:
                os._exit(0)
        os.close(pipe)
    else:
        die_with_parent(parent)
    os.execv(command[0], command)  # noqa: S606 - the point of this file


if __name__ == "__main__":
    main(sys.argv[1:])
