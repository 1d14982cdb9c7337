"""Where a process claims tasks when they are due, without a time keeper that makes them ready: HTTP tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

OVERLAP_S = 0.1
"""What others have by a new list is claimed here for this long as well, because they may read the list later. A claim
does not say whose it is, so nobody sees when they have begun."""


class DueShare:
    """``kept``: the partitions to claim from, at first all of ``partitions``. ``changed`` is called at every change."""

    def __init__(self, partitions: frozenset[int], changed: Callable[[frozenset[int]], None]) -> None:
        self.kept = partitions
        self._changed = changed
        self._mine = partitions
        self._known = False
        self._more: asyncio.TimerHandle | None = None
        self._settled = asyncio.Event()
        self._settled.set()

    def assign(self, mine: frozenset[int]) -> None:
        """Applies a new list of members."""
        if mine == self._mine and self._known:
            return
        # Nobody counts on what it kept only because it had no list yet.
        kept = self.kept | mine if self._known else mine
        self._mine, self._known = mine, True
        self._keep(kept)
        if self._more is not None:
            self._more.cancel()
            self._more = None
        if kept == mine:
            self._settled.set()
        else:
            self._settled.clear()
            self._more = asyncio.get_running_loop().call_later(OVERLAP_S, self.settle)

    def settle(self) -> None:
        """Claims from its own partitions alone."""
        self._more = None
        self._keep(self._mine)
        self._settled.set()

    async def settled(self) -> None:
        """Returns when nothing is claimed any more that others have."""
        await self._settled.wait()

    def close(self) -> None:
        """Changes nothing any more. Twice is harmless."""
        if self._more is not None:
            self._more.cancel()
            self._more = None

    def _keep(self, kept: frozenset[int]) -> None:
        if kept != self.kept:
            self.kept = kept
            self._changed(kept)
