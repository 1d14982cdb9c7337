"""Ports for servers that must be told theirs, chosen so that nobody else has them when the server begins to listen.

A port that the system chooses (0) and that is given back may be gone a moment later: it also takes its ports for
connections that go out from there, of which tests make thousands.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import socket
import tempfile
from pathlib import Path
from typing import IO

_PORTS = range(10_000, 15_900)
"""Below those that systems give to connections that go out."""
_FOLDER = Path(tempfile.gettempdir()) / f"delaybox-test-ports-{os.getuid()}"
_turn = itertools.count(os.getpid() * 61)
_held: list[IO[bytes]] = []


def free_port() -> int:
    """One that nobody listens at, and that no other process of tests is given while this one lives."""
    _FOLDER.mkdir(exist_ok=True)
    for _ in _PORTS:
        port = _PORTS[next(_turn) % len(_PORTS)]
        mine = (_FOLDER / str(port)).open("wb")
        try:
            fcntl.flock(mine, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with socket.socket() as probe:
                # As servers bind: connections of an earlier test that are fading away do not matter.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("", port))
        except OSError:
            mine.close()
            continue
        _held.append(mine)
        return port
    raise AssertionError("every port is taken")


def free_ports(count: int) -> list[int]:
    return [free_port() for _ in range(count)]
