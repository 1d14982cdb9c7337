"""The life-cycle that every service of the engine has."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable

from delaybox.core.errors import StoreUnavailable
from delaybox.engine.store_outage import StoreOutage
from delaybox.processes.waking import together
from delaybox.store.asyncio_end import end

log = logging.getLogger("delaybox.engine")

_OUTAGE = StoreOutage()


class Loop:
    """Repeats ``step`` until stopped. Stopping twice is harmless.

    ``step`` returns the seconds to wait until the next one, which may end a little earlier so that the loops of a
    process wake together (`together`); `math.inf`: until `wake`. While the store is away it is tried again with
    back-off of at most ``away_s``; the loops of a process log that together (`StoreOutage`). Any other error is logged
    and does not end the loop.
    """

    def __init__(self, name: str, step: Callable[[], Awaitable[float]], *, away_s: float = 1.0) -> None:
        self._name = name
        self._step = step
        self._away_s = away_s
        self._task: asyncio.Task[None] | None = None
        self._resting: asyncio.Future[None] | None = None
        self._woken = False
        self._ending = False

    def start(self) -> None:
        """Begins; returns at once."""
        self._task = asyncio.create_task(self._run(), name=f"delaybox-{self._name}")

    def wake(self) -> None:
        """The next step comes at once, or after the one that is under way. Not while the store is away: then it comes
        when it would anyway."""
        self._woken = True
        if self._resting is not None:
            _over(self._resting)

    async def stop(self, *, patience_s: float = 0.0) -> None:
        """Gives the step under way ``patience_s`` to end by itself, then cuts it off, which is always harmless."""
        self._ending = True
        task, self._task = self._task, None
        if task is not None:
            await asyncio.wait({task}, timeout=patience_s)
            await end(task)
        _OUTAGE.left(self)

    async def _run(self) -> None:
        away = 0
        while not self._ending:
            self._woken = False
            try:
                pause = await self._step()
            except StoreUnavailable as error:
                _OUTAGE.met(self, self._name, error)
                away += 1
                await self._back_off(min(0.05 * 2 ** min(away, 6), self._away_s))
            except Exception:
                log.exception("%s: a step failed; going on", self._name)
                await self._back_off(1.0)
            else:
                if away:
                    _OUTAGE.over(self)
                away = 0
                await self._rest(pause)

    async def _back_off(self, pause: float) -> None:
        if not self._ending:
            await asyncio.sleep(pause)

    async def _rest(self, pause: float) -> None:
        if self._ending:
            return
        if self._woken or not pause:
            await asyncio.sleep(0)
            return
        loop = asyncio.get_running_loop()
        self._resting = resting = loop.create_future()
        timer = None if pause == math.inf else loop.call_at(together(loop.time(), pause), _over, resting)
        try:
            await resting
        finally:
            self._resting = None
            if timer is not None:
                timer.cancel()


def _over(resting: asyncio.Future[None]) -> None:
    if not resting.done():
        resting.set_result(None)


class Walk:
    """A walk through much, of which a `Loop` takes a step at a time. ``begin``: makes one that goes from the start."""

    def __init__(self, begin: Callable[[], AsyncIterator[None]]) -> None:
        self._begin = begin
        self._under_way: AsyncIterator[None] | None = None

    def take(self, walk: AsyncIterator[None]) -> None:
        """The next step is the first of this walk, whatever is under way."""
        self._under_way = walk

    async def step(self) -> bool:
        """Takes the next step; whether there was one. After the last, and after an error, the next walk begins."""
        if self._under_way is None:
            self._under_way = self._begin()
        try:
            await anext(self._under_way)
        except StopAsyncIteration:
            self._under_way = None
            return False
        except BaseException:
            self._under_way = None
            raise
        return True


__all__ = ["Loop", "Walk", "end"]
