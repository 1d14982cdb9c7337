"""How far outcomes are stored: whoever confirms them to somebody else waits until they are."""

from __future__ import annotations

import asyncio
import contextlib


class Stored:
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
