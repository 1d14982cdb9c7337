"""How long the processes of a run were ready to go on and got no processor: what a busy machine adds to every time."""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable
from pathlib import Path

from tests.faults.harness.oracle import now_us

_EVERY_S = 0.1


def waited_ns(pid: int) -> int:
    """How long a process, or rather its first thread, has waited for a processor so far; 0 where the kernel does not
    say."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0


def children(pid: int) -> list[int]:
    """The processes that it has started; none where the kernel does not say."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (OSError, ValueError):
        return []


class Starved:
    """Looks at the processes that ``pids`` names, and at their children, from `start` to `stop`."""

    def __init__(self, pids: Callable[[], Iterable[int]]) -> None:
        self._pids = pids
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True, name="starved")
        self._at: list[int] = []
        self._waited: list[dict[int, int]] = []

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(_EVERY_S):
            found = {one: waited_ns(one) for pid in list(self._pids()) for one in (pid, *children(pid))}
            self._waited.append(found)
            self._at.append(now_us())

    def note(self, at_us: int, waited: dict[int, int]) -> None:
        """One look, for tests: process → ns."""
        self._waited.append(waited)
        self._at.append(at_us)

    def ms(self, from_us: int, to_us: int) -> float:
        """How long the process that waited longest did so between two moments, at most as long as that is."""
        first, last = bisect_right(self._at, from_us) - 1, bisect_left(self._at, to_us)
        if first < 0 or last >= len(self._at):
            return 0.0
        before, after = self._waited[first], self._waited[last]
        longest = max((after[pid] - ns for pid, ns in before.items() if pid in after), default=0)
        return min(max(longest / 1e6, 0.0), (to_us - from_us) / 1e3)
