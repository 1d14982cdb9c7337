"""Bodies that lie apart from their records (over 1 KiB): fetched in groups, and few groups at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from delaybox.core.delivery import Delivery, Failed, Report
from delaybox.store.store import Store

BODIES_AT_ONCE: Final = 16
"""Bodies of a group: 500 of 1 MiB at once would be half a gigabyte."""
_GROUPS_AT_ONCE: Final = 2
"""A target that is given groups side by side decides of each body whether it can hold it, before many more come."""


class Bodies:
    """Fetches bodies of deliveries."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._room = asyncio.Semaphore(_GROUPS_AT_ONCE)

    async def fetched(self, stubs: Sequence[Delivery], report: Report) -> list[Delivery]:
        """The deliveries of one partition with their bodies. Those whose body is gone are reported as failed."""
        async with self._room:
            bodies = await self._store.bodies(stubs[0].partition, [d.task_id for d in stubs])
        ready: list[Delivery] = []
        for d, body in zip(stubs, bodies, strict=True):
            if body is None:
                report([d], Failed("its body is gone from Redis", retryable=False))
            else:
                d.body = body
                ready.append(d)
        return ready
