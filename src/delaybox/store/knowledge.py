"""What every new task needs of one key of the store, such as which labels are indexed: read once a second, and used
for a while longer where that key's server does not answer.

On a cluster such a key lies at one primary. Tasks that go to the others must neither fail nor wait while that one is
away.
"""

from __future__ import annotations

import asyncio
import time

from delaybox.core.errors import StoreLost, StoreUnavailable

FRESH_S = 1.0
AWAY_S = 20.0
"""What is known is used for so long while it cannot be read again: longer than a cluster takes to replace a primary
with its default `cluster-node-timeout`."""
_PATIENCE_S = 0.25
"""A reading that takes longer is not waited for, as long as what is known may be used."""


class Knowledge:
    """For classes that keep what they know in their own fields, and read it in `_read`."""

    def __init__(self) -> None:
        self._read_at = float("-inf")
        """When the last reading that succeeded began."""
        self._until = float("-inf")
        self._reading: asyncio.Task[None] | None = None
        self._began = 0.0

    async def _read(self) -> None:
        """Reads all of it, or raises StoreUnavailable."""
        raise NotImplementedError

    @property
    def stale(self) -> bool:
        """Whether `fresh` would read again."""
        return time.monotonic() >= self._until

    async def fresh(self) -> None:
        """Reads it again, unless that was done within the last second. StoreUnavailable where that fails and what is
        known is older than `AWAY_S`."""
        while self.stale:
            now = time.monotonic()
            if self._reading is None:
                self._began = now
                # All who wait share it, so it goes on when one of them goes away.
                self._reading = asyncio.create_task(self._once(), name="delaybox-knowledge")
                self._reading.add_done_callback(self._over)
            usable = now - self._read_at < AWAY_S
            reading, left_s = self._reading, self._began + _PATIENCE_S - now
            if not usable or left_s > 0:
                await asyncio.wait({reading}, timeout=left_s if usable else None)
            if reading.done():
                await reading
            elif usable:
                return

    def _over(self, reading: asyncio.Task[None]) -> None:
        self._reading = None
        if not reading.cancelled():
            reading.exception()  # those who wait for it raise it

    async def _once(self) -> None:
        began = time.monotonic()
        try:
            await self._read()
        except StoreLost:
            raise
        except StoreUnavailable:
            if time.monotonic() - self._read_at >= AWAY_S:
                raise
        else:
            self._read_at = began
        self._until = time.monotonic() + FRESH_S
