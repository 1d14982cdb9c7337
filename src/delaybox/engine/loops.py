"""The life-cycle that every service of the engine has."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from delaybox.core.errors import StoreUnavailable
from delaybox.store.asyncio_end import end

log = logging.getLogger("delaybox.engine")


class Loop:
    """Repeats ``step`` until stopped. Stopping twice is harmless.

    ``step`` returns the seconds to wait until the next one. While the store is away it is tried again with back-off of
    at most ``away_s``; that is logged once when it begins and once when it ends. Any other error is logged and does not
    end the loop.
    """

    def __init__(self, name: str, step: Callable[[], Awaitable[float]], *, away_s: float = 1.0) -> None:
        self._name = name
        self._step = step
        self._away_s = away_s
        self._task: asyncio.Task[None] | None = None
        self._ending = False

    def start(self) -> None:
        """Begins; returns at once."""
        self._task = asyncio.create_task(self._run(), name=f"delaybox-{self._name}")

    async def stop(self, *, patience_s: float = 0.0) -> None:
        """Gives the step under way ``patience_s`` to end by itself, then cuts it off, which is always harmless."""
        self._ending = True
        task, self._task = self._task, None
        if task is not None:
            await asyncio.wait({task}, timeout=patience_s)
            await end(task)

    async def _run(self) -> None:
        away = 0
        while not self._ending:
            try:
                pause = await self._step()
                if away:
                    log.info("%s: the store answers again", self._name)
                away = 0
            except StoreUnavailable as error:
                if not away:
                    log.warning("%s: %s", self._name, error)
                away += 1
                pause = min(0.05 * 2 ** min(away, 6), self._away_s)
            except Exception:
                log.exception("%s: a step failed; going on", self._name)
                pause = 1.0
            if not self._ending:
                await asyncio.sleep(pause)


__all__ = ["Loop", "end"]
