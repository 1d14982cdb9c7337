"""Whether the store that this process works for still lies on its server."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from delaybox.core.errors import DelayBoxError, StoreLost
from delaybox.core.partition import Shape
from delaybox.processes.waking import rest
from delaybox.store import identity, keys
from delaybox.store.loader import ScriptCall, ScriptRunner
from delaybox.store.servers import Servers, milliseconds

log = logging.getLogger("delaybox.store")

WATCH_S = 1.0
_AGAIN_S = 0.5
_LOG_AGAIN_S = 60.0

OnLost = Callable[[bool], None]
"""Called after every look: whether the store is lost."""


class Presence:
    """``shape`` is that of the store that this process works for; ``refusal``: why nothing may be done, None while the
    store is there.

    Every `look` compares the store on the server with it, and costs no more than reading the server's clock.
    """

    def __init__(self, servers: Servers, prefix: str, shape: Shape, on_lost: OnLost = lambda _: None) -> None:
        self.shape = shape
        self.refusal: StoreLost | None = None
        self._servers = servers
        self._prefix = prefix
        self._on_lost = on_lost
        self.looked = -1e9
        """When the last look began."""
        self._logged = -1e9

    async def look(self, runner: ScriptRunner) -> int:
        """Compares the stores. Returns Redis's clock in ms, whichever store lies there. StoreUnavailable."""
        self.looked = time.monotonic()
        reply: Any = await runner.run(ScriptCall("ping", keys.tag(self._prefix, 0), ()))
        now, there = reply
        return await self.judge(int(now), there)

    async def glance(self) -> int:
        """As `look`, with plain reads: for those who run scripts anyway. StoreUnavailable."""
        self.looked = time.monotonic()
        stored = ("HGET", keys.clock(keys.tag(self._prefix, 0)), "store")
        now, there = await self._servers.ask_many([("TIME",), stored])
        return await self.judge(milliseconds(now), there or b"")

    async def judge(self, now: int, there: bytes) -> int:
        """Takes what a script found at a partition: the clock, which it returns, and the id of the store there."""
        if there.decode(errors="replace") == self.shape.store_id:
            self._found()
        else:
            await self._compare(there)
        self._on_lost(self.refusal is not None)
        return now

    async def again(self, runner: ScriptRunner) -> StoreLost | None:
        """The refusal; looks again first if the last look is older than half a second."""
        if time.monotonic() - self.looked >= _AGAIN_S:
            try:
                await self.look(runner)
            except DelayBoxError as error:
                log.debug("no look at the store: %s", error)
        return self.refusal

    async def _compare(self, there: bytes) -> None:
        meta = await identity.read_meta(self._servers, self._prefix)
        mine = self.shape
        if meta is None:
            self._lost(identity.gone(self._prefix, mine.store_id))
        elif meta.shape.store_id == mine.store_id:
            if meta.marked:
                self._lost(identity.damaged(self._prefix, mine.store_id))
            else:
                # A copy from the time when partitions did not carry the id yet.
                await identity.mark(self._servers, self._prefix, mine)
                self._found()
        elif mine.store_id not in meta.replaces:
            self._lost(identity.another(self._prefix, mine.store_id, meta.shape))
        elif (meta.shape.partitions, meta.shape.bucket_ms) != (mine.partitions, mine.bucket_ms):
            self._lost(identity.other_shape(self._prefix, mine, meta.shape))
        elif there.decode(errors="replace") == meta.shape.store_id:
            log.warning("store %s was accepted in the place of %s; going on", meta.shape.store_id, mine.store_id)
            self.shape, self.refusal = meta.shape, None

    def _lost(self, refusal: StoreLost) -> None:
        now = time.monotonic()
        if self.refusal is None or str(self.refusal) != str(refusal) or now - self._logged >= _LOG_AGAIN_S:
            log.critical("%s", refusal)
            self._logged = now
        self.refusal = refusal

    def _found(self) -> None:
        if self.refusal is not None:
            log.warning("the store %r is there again; going on", self._prefix)
        self.refusal = None


async def keep_looking(presence: Presence, look: Callable[[], Any]) -> None:
    """Looks once a second, for ever, unless somebody else has: for processes without an engine and without heartbeats,
    which otherwise would ask the server too rarely."""
    seen = presence.looked
    while True:
        await rest(WATCH_S)
        if presence.looked == seen:
            try:
                await look()
            except DelayBoxError as error:
                log.debug("no look at the store: %s", error)
        seen = presence.looked
