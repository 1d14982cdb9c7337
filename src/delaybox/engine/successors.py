"""Watches partitions that this member has ceded: it goes on looking after each until the new owner does.

Members read a new list of members at different moments. If the former owner stopped when it has read it, nobody would
look at its partitions until the new owner has read it too: 38 and 128 ms on a busy machine.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import NamedTuple

from delaybox.core.errors import DelayBoxError
from delaybox.engine.clock_estimate import local_ms
from delaybox.engine.loops import end
from delaybox.store.promises import Promise, promises
from delaybox.store.store import Store

log = logging.getLogger("delaybox.engine")

PATIENCE_MS = 200.0
"""A member goes on no longer than this: a new owner that has not begun by then may be dead, and has a stand-in."""
_LOOK_S = 0.005


class _Awaited(NamedTuple):
    """``owner``: the new one. ``since_ms``: Redis's clock when the list made it the owner, so that a look from an
    earlier time does not count. ``until``: of the local clock."""

    owner: str
    since_ms: int
    until: float

    def looks(self, promise: Promise) -> bool:
        """Whether the new owner has looked."""
        return promise.looker == self.owner and promise.looked_ms >= self.since_ms


class Successors:
    """``release`` is called with ceded partitions that this member need not look after any more."""

    def __init__(self, store: Store, release: Callable[[frozenset[int]], None]) -> None:
        self._store = store
        self._release = release
        self._awaited: dict[int, _Awaited] = {}
        self._watching: asyncio.Task[None] | None = None

    def expect(self, owners: Mapping[int, str], since_ms: int) -> None:
        """A new list is applied. ``owners``: of all partitions that are ceded. ``since_ms``: the moment of the list."""
        until = local_ms() + PATIENCE_MS
        before, self._awaited = self._awaited, {}
        for p, owner in owners.items():
            known = before.get(p)
            if known is None or known.owner != owner:
                known = _Awaited(owner, since_ms, known.until if known else until)
            self._awaited[p] = known
        if self._awaited and self._watching is None:
            self._watching = asyncio.create_task(self._watch(), name="delaybox-successors")

    async def seen(self) -> None:
        """Returns when nothing is ceded any more."""
        if self._watching is not None:
            await asyncio.wait({self._watching}, timeout=PATIENCE_MS / 1000)
        await self.stop()
        self._over(frozenset(self._awaited))

    async def stop(self) -> None:
        """Watches no more. Twice is harmless."""
        if self._watching is not None:
            await end(self._watching)
            self._watching = None

    async def _watch(self) -> None:
        try:
            while self._awaited:
                await self._look()
                if self._awaited:
                    await asyncio.sleep(_LOOK_S)
        finally:
            self._watching = None

    async def _look(self) -> None:
        asked = sorted(self._awaited)
        promised: dict[int, Promise] = {}
        try:
            _, read = await promises(self._store, asked)
            promised = {p: one for p, one in zip(asked, read, strict=True) if one is not None}
        except DelayBoxError as error:
            # Nobody looks at what lies at a server that is away, and what lies elsewhere only waits a little longer.
            log.debug("no look at who looks: %s", error)
        now = local_ms()
        over = {p for p, one in self._awaited.items() if p in promised and one.looks(promised[p])}
        late = {p for p, one in self._awaited.items() if one.until <= now} - over
        if late:
            words = "partitions %s were ceded, and within %d ms %s did not look there"
            owners = {self._awaited[p].owner for p in late}
            log.info(words, ", ".join(map(str, sorted(late))), PATIENCE_MS, ", ".join(sorted(owners)))
        self._over(frozenset(over | late))

    def _over(self, partitions: frozenset[int]) -> None:
        if partitions:
            self._awaited = {p: one for p, one in self._awaited.items() if p not in partitions}
            self._release(partitions)
