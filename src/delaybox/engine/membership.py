"""Sends the heartbeat of one process: that it is alive, what it is for, and which tasks it carries out."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from delaybox import __version__
from delaybox.core.errors import DelayBoxError, PartAway
from delaybox.core.membership import WORKER, Activity, Member, abilities, places
from delaybox.engine.clock_estimate import local_ms
from delaybox.engine.lag import Lag
from delaybox.engine.listener import Listener
from delaybox.engine.loops import Loop
from delaybox.processes.usage import Cores, age_ms
from delaybox.processes.waking import together
from delaybox.store import keys, nodes
from delaybox.store.store import Store

log = logging.getLogger("delaybox.engine")

BEAT_S = 0.5
_EARLY_S = 0.005
"""Timers are this exact."""
LOOK_MS = 1_000.0 - 500 * BEAT_S
"""With every other heartbeat."""
_LANES_REPORTED = 200


def ahead_ms(sent_ms: int, heard_ms: int, server_ms: int) -> int:
    """By how much this machine's clock is ahead of the server's, at least. The server read its clock between the two
    others: where the machine held this process up, that says nothing of clocks."""
    return max(sent_ms - server_ms, 0) + min(heard_ms - server_ms, 0)


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """The process that beats. ``node``: the id of the node that it belongs to, whose process is its parent, or of a
    worker itself; "" for none.

    ``kind``, ``roles`` and ``capacity`` as those of a `Member`.
    """

    id: str
    node: str = ""
    kind: str = ""
    roles: tuple[str, ...] = ()
    capacity: float = 1.0


class Follower(Protocol):
    """Goes by the list of members."""

    def listed(
        self,
        ranking: Sequence[Member],
        returned: Sequence[Member],
        ending: Sequence[Member] = (),
        changed_ms: int = 0,
    ) -> Awaitable[None]:
        """Gets those that rank, whenever that changed, those that were silent and do not rank yet, those that are
        ending, and the moment of the change by Redis's clock."""


class Membership:
    """Beats twice a second until stopped. ``activity``: what the process carries out; None: there is no heartbeat for
    now. ``follower`` gets the list: at first when this process is on it, then at every change. ``observe`` gets Redis's
    time now and then, with the local moments around it (`clock_estimate.RedisClock`).

    Who cannot beat keeps its last view and goes on, because every script is safe from everybody.
    """

    def __init__(
        self,
        store: Store,
        who: Identity,
        activity: Callable[[], Activity | None],
        follower: Follower | None = None,
        observe: Callable[[float, float, int], None] = lambda *_: None,
    ) -> None:
        self._store = store
        self._who = who
        self._activity = activity
        self._follower = follower
        self._observe = observe
        self._loop = Loop("heartbeat", self._step)
        self._beat_at = 0.0
        self._listener = Listener(store, keys.members_channel(store.prefix), self._announced, self._look_soon)
        self._changed = self._urgent = self._announces = False
        self._version = -1
        self._list = nodes.MemberList(store)
        self._beats = nodes.OwnBeats(store)
        self._living = 0
        self._place: tuple[object, ...] | None = None
        self._shown: tuple[object, ...] = ()
        self._lag = Lag()
        self._clock_offset_ms: int | None = None
        self._clock_ms = 0.0
        """Redis's clock minus ours, as the last answer had it."""
        self._looked = -1e9
        self._started_ms = 0
        self._start_ms = 0
        self._cores = Cores()
        self._known = False
        self._ending = False

    async def start(self) -> None:
        """Puts this process on the list, where the server answers, and begins."""
        if self._follower is not None:
            await self._listener.start()
        with contextlib.suppress(DelayBoxError):
            await self._beat()
        self._beat_at = asyncio.get_running_loop().time() + BEAT_S
        self._loop.start()

    def beat_soon(self) -> None:
        """Others should know at once what has changed here."""
        self._urgent = True
        self._loop.wake()

    def announce(self) -> None:
        """As `beat_soon`, and the others read at once what this process does."""
        self._announces = True
        self.beat_soon()

    async def retire(self) -> None:
        """The process finishes its work: it ranks no more, so that others take over, and still beats."""
        self._ending = True
        with contextlib.suppress(DelayBoxError):
            await self._beat()

    async def stop(self) -> None:
        """Takes this process off the list. Twice is harmless."""
        await self._loop.stop()
        await self._lag.stop()
        await self._listener.stop()
        if self._known:
            try:
                await self._leave()
            except DelayBoxError as error:
                log.warning("could not sign off: %s", error)

    async def _leave(self) -> None:
        self._known = False
        await nodes.leave(self._store, self._who.id)

    def _look_soon(self) -> None:
        self._changed = True
        self._loop.wake()

    async def _step(self) -> float:
        clock = asyncio.get_running_loop().time
        late_s = clock() - self._beat_at
        if late_s < -_EARLY_S and not self._urgent:
            if self._changed:
                self._changed = False
                await self._read()
        else:
            if not self._urgent:
                self._lag.woke(late_s)
            self._urgent = self._changed = False
            await self._beat()
            self._beat_at = together(clock(), BEAT_S)
        return max(0.0, self._beat_at - clock())

    async def _beat(self) -> None:
        activity = self._activity()
        if activity is None:
            if self._known:
                await self._leave()
            return
        asked_ms, sent_ms = local_ms(), _wall_ms()
        if asked_ms - self._looked >= LOOK_MS:
            # Whether the store is still there, which no process asks for more often.
            # Where its server alone is away, the list of members goes on at another one.
            with contextlib.suppress(PartAway):
                now_ms = await self._store.glance()
                heard_ms = local_ms()
                self._looked = asked_ms
                self._observe(asked_ms, heard_ms, now_ms)
                self._clock_ms = now_ms - heard_ms
                self._clock_offset_ms = ahead_ms(sent_ms, _wall_ms(), now_ms)
        now_ms = round(local_ms() + self._clock_ms)
        self._started_ms = self._started_ms or now_ms
        self._start_ms = self._start_ms or age_ms()
        activity = replace(activity, unforeseen_per_s=self._store.unforeseen.per_second(_LANES_REPORTED))
        who = self._who
        member = Member(
            id=who.id,
            node=who.node,
            node_pid=os.getpid() if who.kind == WORKER else os.getppid() if who.node else 0,
            kind=who.kind,
            roles=who.roles,
            host=socket.gethostname(),
            pid=os.getpid(),
            version=__version__,
            seen_ms=now_ms,
            started_ms=self._started_ms,
            activity=activity,
            store=self._store.presence.shape,
            cores=self._cores.used(time.monotonic()),
            start_ms=self._start_ms,
            lag_ms=self._lag.p99_ms,
            clock_offset_ms=self._clock_offset_ms,
            noted=True,
            capacity=who.capacity,
        )
        place = (places(activity), frozenset(activity.lanes), abilities(activity))
        # Others go by these as well, but when the list has changed is early enough.
        shown = (activity.partitions, activity.worker_count, activity.claims_due)
        self._known = True
        changed, self._announces = self._announces or place != self._place, False
        noted = shown != self._shown
        answer = await self._beats.beat(member, self._living, ending=self._ending, changed=changed, noted=noted)
        # Versions only rise: from a lower one the server has lost its last writes, and maybe that this record is noted.
        self._place, self._shown = place, shown if answer.version >= self._version else ()
        if answer.version != self._version:
            await self._read()

    async def _read(self) -> None:
        if self._follower is None:
            return
        roster = await self._list.read()
        self._living = roster.living
        if roster.version != self._version:
            await self._follower.listed(roster.members, roster.returned, roster.ending, roster.version)
            self._version = roster.version

    def _announced(self, version: bytes) -> None:
        if version != b"%d" % self._version:
            self._look_soon()
