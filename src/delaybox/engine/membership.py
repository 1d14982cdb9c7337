"""Sends the heartbeat of one process: that it is alive, what it is for, and which tasks it carries out."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass

from delaybox import __version__
from delaybox.core.errors import DelayBoxError
from delaybox.core.membership import Activity, Member
from delaybox.engine.loops import Loop
from delaybox.store import nodes
from delaybox.store.store import Store

log = logging.getLogger("delaybox.engine")

BEAT_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """The process that beats. ``node``: the id of the node that it belongs to, whose process is its parent; "" for
    none.

    ``kind`` and ``roles`` as those of a `Member`.
    """

    id: str
    node: str = ""
    kind: str = ""
    roles: tuple[str, ...] = ()


class Membership:
    """Beats once a second until stopped. ``activity``: the work of the process; None: send no heartbeat for now."""

    def __init__(self, store: Store, who: Identity, activity: Callable[[], Activity | None]) -> None:
        self._store = store
        self._who = who
        self._activity = activity
        self._loop = Loop("node heartbeat", self._beat)
        self._started_ms = 0
        self._known = False

    def start(self) -> None:
        """Begins; returns at once."""
        self._loop.start()

    async def stop(self) -> None:
        """Takes this process off the list. Twice is harmless."""
        await self._loop.stop()
        if self._known:
            try:
                await self._leave()
            except DelayBoxError as error:
                log.warning("could not sign off: %s", error)

    async def _leave(self) -> None:
        self._known = False
        await nodes.leave(self._store, self._who.id)

    async def _beat(self) -> float:
        activity = self._activity()
        if activity is None:
            if self._known:
                await self._leave()
            return BEAT_S
        self._known = True
        now_ms = await self._store.look()
        self._started_ms = self._started_ms or now_ms
        who = self._who
        member = Member(
            id=who.id,
            node=who.node,
            node_pid=os.getppid() if who.node else 0,
            kind=who.kind,
            roles=who.roles,
            host=socket.gethostname(),
            pid=os.getpid(),
            version=__version__,
            seen_ms=now_ms,
            started_ms=self._started_ms,
            activity=activity,
            store=self._store.presence.shape,
        )
        await nodes.beat(self._store, member)
        return BEAT_S
