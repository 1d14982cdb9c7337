"""An event loop whose time is a number: nothing is waited for, and whole minutes pass at once."""

from __future__ import annotations

import asyncio
import selectors
from typing import Any


class _Jumping(selectors.SelectSelector):
    """Does not wait: the time jumps to when the next timer ends."""

    def __init__(self, start_s: float) -> None:
        super().__init__()
        self.now_s = start_s

    def select(self, timeout: float | None = None) -> list[Any]:
        found = super().select(0)
        assert found or timeout is not None, "nothing will ever happen again"
        if not found:
            self.now_s += max(timeout or 0.0, 1e-6)
        return found


class VirtualLoop(asyncio.SelectorEventLoop):
    """``start_s``: the time at first."""

    def __init__(self, start_s: float = 0.0) -> None:
        self._jumping = _Jumping(start_s)
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now_s

    def hold(self, seconds: float) -> None:
        """Takes so long, as a callback that holds the loop up."""
        self._jumping.now_s += seconds
