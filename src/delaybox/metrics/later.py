"""Values that are added to their metrics a moment later, several together, which costs little more than a step for one.
A process that fires one task at a time would otherwise take such steps for each of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

from delaybox.processes.waking import together

EVERY_S: Final = 0.5
"""What was counted is in the metrics within this time; an idle process wakes as often anyway."""
_MOST: Final = 1_000
"""Where so many values wait they are added at once."""
_T = TypeVar("_T")

_all: list[Later] = []


class Later:
    """Calls ``add``, which adds everything that waits, within `EVERY_S` of `soon`."""

    def __init__(self, add: Callable[[], None]) -> None:
        self._add = add
        self._adds_in: asyncio.AbstractEventLoop | None = None
        _all.append(self)

    def soon(self, waiting: int) -> None:
        """So many values wait. Where no event loop runs they are added at once."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            loop = None
        if loop is None or waiting >= _MOST:
            self.now()
            return
        # A loop that ended before it added anything must not keep the next one from it.
        if loop is not self._adds_in:
            self._adds_in = loop
            loop.call_at(together(loop.time(), EVERY_S), self.now)

    def now(self) -> None:
        """Adds what waits."""
        self._adds_in = None
        self._add()


def taken(waiting: deque[_T]) -> Iterator[_T]:
    """Takes what waits, each value once, whichever threads add and take meanwhile: some have loops of their own."""
    with contextlib.suppress(IndexError):
        while True:
            yield waiting.popleft()


def add_all() -> None:
    """Adds all that waits, before a process ends or where somebody wants to see it now."""
    for one in _all:
        one.now()
