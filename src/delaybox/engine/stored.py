"""How far outcomes are stored: whoever confirms them to somebody else waits until they are."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque


class StoreProgress:
    """Counts the rounds in which outcomes are stored. A round has all that was reported before it began, and what an
    earlier round could not store."""

    def __init__(self) -> None:
        self._waits = False
        self._begun = 0
        self._through = 0
        self._advanced = asyncio.Event()

    def reported(self) -> None:
        """An outcome waits for the next round."""
        self._waits = True

    def begins(self) -> None:
        """A round begins."""
        self._waits = False
        self._begun += 1

    def ends(self, *, all_: bool) -> None:
        """The round is over. ``all_``: everything in it is stored, or will never be."""
        if all_:
            self._through = self._begun
            self._advanced.set()
            self._advanced.clear()

    @property
    def mark(self) -> int:
        """What was reported up to now is stored when `is_stored` holds for this number."""
        return self._begun + 1 if self._waits else self._begun

    def is_stored(self, mark: int) -> bool:
        """Whether what was reported before ``mark`` was taken is stored."""
        return self._through >= mark

    async def wait(self, mark: int, *, within_s: float) -> None:
        """Returns when it is stored, and at the latest after ``within_s``."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while not self.is_stored(mark):
                    await self._advanced.wait()


_MOST_MARKS = 1_000


class StoredEverywhere(StoreProgress):
    """The same over the settlers of several servers: something is stored when each of them has stored its part."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[StoreProgress] = []
        self._last = 0
        self._marks: deque[tuple[int, list[int]]] = deque()

    def add(self, part: StoreProgress) -> None:
        """Counts one more settler in, before anything is reported to it."""
        self._parts.append(part)

    @property
    def mark(self) -> int:
        """As of one settler."""
        marks = [part.mark for part in self._parts]
        if self._marks and (self._marks[-1][1] == marks or len(self._marks) >= _MOST_MARKS):
            # With very many waiting, the last one waits for what came after it as well.
            self._marks[-1] = self._last, marks
            return self._last
        self._last += 1
        self._marks.append((self._last, marks))
        return self._last

    def is_stored(self, mark: int) -> bool:
        """As of one settler."""
        while self._marks and all(part.is_stored(at) for part, at in zip(self._parts, self._marks[0][1], strict=False)):
            self._through = self._marks.popleft()[0]
        return self._through >= mark

    async def wait(self, mark: int, *, within_s: float) -> None:
        """As of one settler."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while not self.is_stored(mark):
                    for part, at in zip(list(self._parts), self._marks[0][1], strict=False):
                        await part.wait(at, within_s=within_s)
