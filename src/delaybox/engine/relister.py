"""Looks through the lists of the index of labels when as much came as may be out of date."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

from delaybox.engine.loops import Walk
from delaybox.engine.ownership import Ownership
from delaybox.store import label_index, label_lists
from delaybox.store.store import Store

_IDLE_S = 2.0
_PAUSE_S = 0.1


class Relister:
    """One step = some thousand entries of one list."""

    def __init__(self, store: Store, ownership: Ownership) -> None:
        self._store = store
        self._ownership = ownership
        self._walk = Walk(self._round)

    async def step(self) -> float:
        """For `Loop`."""
        began = time.monotonic()
        if not await self._walk.step():
            return _IDLE_S
        # Half of the time is the server's for others.
        return min(time.monotonic() - began, _PAUSE_S)

    async def _round(self) -> AsyncIterator[None]:
        store, kept = self._store, sorted(self._ownership.kept)
        if not kept or not await label_index.declared(store):
            return
        for p, behind in zip(kept, await label_lists.behind(store, kept), strict=True):
            if any(behind):
                async for _ in label_lists.look_through(store, p, new_alone=not behind.all):
                    yield
