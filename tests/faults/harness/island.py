"""A network namespace for a server, joined to everything else by one cable that can be pulled (Linux, as root).

What is sent through a pulled cable is gone, and nobody is told: no connection ends, as when a switch dies. Who shares
the server's machine reaches it all the while, by its unix socket.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


class Island:
    """``here``, ``there``: the addresses of the two ends of the cable. ``under``: a command that starts another one on
    the island."""

    def __init__(self, number: int) -> None:
        block = number % 16_384 * 4
        self.here, self.there = (f"10.87.{block >> 8}.{(block & 255) + end}" for end in (1, 2))
        self._name = f"delaybox-{number}"
        self._ends = f"dbh{number}", f"dbt{number}"
        self.under = ("ip", "netns", "exec", self._name)

    def make(self) -> None:
        """CalledProcessError where this is not allowed."""
        (here, there), name = self._ends, self._name
        _ip("netns", "add", name)
        _ip("link", "add", here, "type", "veth", "peer", "name", there)
        _ip("link", "set", there, "netns", name)
        _ip("addr", "add", f"{self.here}/30", "dev", here)
        _ip("-n", name, "addr", "add", f"{self.there}/30", "dev", there)
        _ip("-n", name, "link", "set", "lo", "up")
        _ip("link", "set", here, "up")
        self.join()

    def cut(self) -> None:
        """Pulls the cable, at the island's end: without its own end this side would send by another way."""
        _ip("-n", self._name, "link", "set", self._ends[1], "down")

    def join(self) -> None:
        """Plugs it in."""
        _ip("-n", self._name, "link", "set", self._ends[1], "up")

    def remove(self) -> None:
        """Its end of the cable goes with it. Harmless where there is none."""
        with contextlib.suppress(subprocess.CalledProcessError, OSError):
            _ip("netns", "del", self._name)
        with contextlib.suppress(subprocess.CalledProcessError, OSError):
            _ip("link", "del", self._ends[0])


@contextlib.contextmanager
def island() -> Iterator[Island]:
    """One of this process."""
    made = Island(os.getpid())
    made.remove()  # of a process before, which was killed and had the same number
    try:
        made.make()
        yield made
    finally:
        made.remove()


@cache
def why_not() -> str:
    """Why there can be none here; "" where there can."""
    if sys.platform != "linux" or shutil.which("ip") is None:
        return "it takes Linux, and the command ip"
    try:
        with island():
            return ""
    except subprocess.CalledProcessError as error:
        return f"network namespaces are not allowed here: {error.stderr.strip()}"
