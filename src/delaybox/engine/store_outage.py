"""What the loops of a process log together of a store that is away: one outage is told once, not once a loop."""

from __future__ import annotations

import asyncio
import logging

from delaybox.core.errors import StoreUnavailable

log = logging.getLogger("delaybox.engine")

AGAIN_S = 60.0
"""An outage that lasts is told again after this time."""
_TEXTS = 20
"""So many reasons are remembered as told."""


class StoreOutage:
    """An outage begins with the first loop that meets it, and is over when each loop that met it has had an answer."""

    def __init__(self) -> None:
        self._met: set[object] = set()
        self._told: dict[str, float] = {}
        self._since = 0.0

    def met(self, loop: object, name: str, error: StoreUnavailable) -> None:
        """The step of ``loop`` failed. Its reason is logged unless a loop has logged the same within a minute."""
        now = asyncio.get_running_loop().time()
        if not self._met:
            self._told.clear()
            self._since = now
        self._met.add(loop)
        text = str(error)
        if text in self._told and now - self._told[text] < AGAIN_S:
            return
        if len(self._told) >= _TEXTS:
            self._told.clear()
        self._told[text] = now
        log.warning("%s: %s", name, text)

    def over(self, loop: object) -> None:
        """A step of ``loop`` succeeded again."""
        self._met.discard(loop)
        if not self._met:
            log.info("the store answers again, after %.1f s", asyncio.get_running_loop().time() - self._since)

    def left(self, loop: object) -> None:
        """``loop`` is stopped."""
        self._met.discard(loop)
