"""Where this member was called to lately: there it hears what becomes due at once, as those do that claim there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from delaybox.engine import stays


class Helping:
    """``partitions``: those that it was called to within `stays.STAY_MS`. ``changed`` is called when these change."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self.partitions: frozenset[int] = frozenset()
        self._changed = changed
        self._until: dict[int, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, partitions: Iterable[int]) -> None:
        """It was called to these."""
        until = asyncio.get_running_loop().time() + stays.STAY_MS / 1000
        self._until |= dict.fromkeys(partitions, until)
        self._settle()

    def close(self) -> None:
        """Changes nothing any more. Twice is harmless."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _settle(self) -> None:
        if self._timer is None and self._until:
            self._timer = asyncio.get_running_loop().call_at(min(self._until.values()), self._leave)
        if self.partitions != self._until.keys():
            self.partitions = frozenset(self._until)
            self._changed()

    def _leave(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        self._until = {p: until for p, until in self._until.items() if until > now}
        self._settle()
