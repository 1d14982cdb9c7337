"""In which order the tasks of several lines go, of each of which only the beginning is known. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from heapq import heapify, heappop, heapreplace
from typing import NamedTuple, TypeVar

K = TypeVar("K")

APART_MS = 50.0
"""A line may go on for so long when it is another's turn: a claim of ten tasks costs hardly more than one of a single
task."""
_LAST_MS = 1e15


class Stretch(NamedTuple):
    """Tasks that wait in one place, first come first. ``at``: the virtual deadline of the first (Unix ms); ``gap``: how
    far apart the deadlines are of two that follow each other (ms), as far as was looked."""

    at: float
    gap: float
    tasks: int

    def after(self, taken: int) -> Stretch:
        """What is left of it when so many are taken."""
        return Stretch(self.at + taken * self.gap, self.gap, max(self.tasks - taken, 0))

    def last(self) -> Stretch:
        """The same behind every other one."""
        return self._replace(at=self.at + _LAST_MS)


def in_order(
    lines: Iterable[tuple[K, Stretch]], full: Callable[[K], bool] = lambda _: False
) -> Iterator[tuple[K, int]]:
    """Which line is next, and how many of its tasks go before another line is, until all are through. Of lines with the
    same beginning the one that is named first is next.

    ``full``: of which line no more is wanted. What waits behind may be a million tasks, each a turn of its own.
    """
    turns = [(line.at, number, line, key) for number, (key, line) in enumerate(lines) if line.tasks > 0]
    heapify(turns)
    while turns:
        at, number, line, key = turns[0]
        if full(key):
            heappop(turns)
            continue
        second = min((turn[0] for turn in turns[1:3]), default=None)
        if second is None or line.gap <= 0:
            count = line.tasks
        else:
            count = min(line.tasks, int((second + APART_MS - at) / line.gap) + 1)
        left = line.after(count)
        if left.tasks:
            heapreplace(turns, (left.at, number, left, key))
        else:
            heappop(turns)
        yield key, count


def shorter(lines: Iterable[Stretch], taken: int) -> tuple[Stretch, ...]:
    """What is left of lines of which so many tasks were taken, in their order."""
    left = list(lines)
    for number, count in in_order(enumerate(left)):
        if taken <= 0:
            break
        some = min(count, taken)
        left[number] = left[number].after(some)
        taken -= some
    return tuple(line for line in left if line.tasks)
