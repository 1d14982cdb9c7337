"""The places of a target whose tasks may take several of them."""

from __future__ import annotations

import asyncio
from collections import deque


class PlacesInTurn:
    """``total`` places. Who needs several waits until so many are free, and whoever comes later waits behind: so small
    ones cannot keep a large one out for ever."""

    __slots__ = ("_free", "_waiting", "total")

    def __init__(self, total: int) -> None:
        self.total = total
        self._free = total
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def enter(self, cost: int) -> None:
        """Takes ``cost`` places, at most all; each `enter` that returns needs a `leave`."""
        if cost <= self._free and not self._waiting:
            self._free -= cost
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((cost, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave(cost)
            else:
                self._next()
            raise

    def leave(self, cost: int) -> None:
        """Gives places back."""
        self._free += cost
        self._next()

    def _next(self) -> None:
        while self._waiting:
            cost, turn = self._waiting[0]
            # Who gave up leaves its place in the line to the next.
            if not turn.done():
                if cost > self._free:
                    return
                self._free -= cost
                turn.set_result(None)
            self._waiting.popleft()
