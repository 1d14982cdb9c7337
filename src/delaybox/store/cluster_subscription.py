"""One subscription to channels at several servers of a cluster."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection

from delaybox.core.errors import DelayBoxError, StoreUnavailable
from delaybox.store import keys
from delaybox.store.asyncio_end import end
from delaybox.store.cluster import ServerCluster
from delaybox.store.primaries import Link
from delaybox.store.roundtrips import NotSent
from delaybox.store.subscription import QUIET_S, Message, Subscription

log = logging.getLogger("delaybox.store")

_MOST_WAITING = 10_000
"""Messages that nobody has fetched yet; further ones wait at their servers."""
_AGAIN_S = (0.02, 0.05, 0.1, 0.25, 0.5)


class Spread:
    """As `Subscription`, over the servers of a cluster: channels of a partition are subscribed to at its own server,
    all others at any one.

    Where a server is lost, its channels are subscribed to again by themselves, where their slots are by then; those at
    other servers do not notice. A message that begins with ``opened`` reports each.
    """

    def __init__(self, cluster: ServerCluster, channels: Collection[str]) -> None:
        self._cluster = cluster
        self._channels = frozenset(channels)
        self._came: asyncio.Queue[Message | DelayBoxError] = asyncio.Queue(_MOST_WAITING)
        self._parts: dict[Link, _Part] = {}
        self._plain_at: Link | None = None
        self._retrying: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """As `Subscription.open`; a server that does not answer is waited for meanwhile."""
        self._cluster.follow(self._spread)
        self._spread()

    async def change(self, channels: Collection[str]) -> None:
        """As `Subscription.change`."""
        self._channels = frozenset(channels)
        self._spread()

    async def next(self, timeout_s: float) -> Message | None:
        """As `Subscription.next`."""
        if self._came.empty():
            try:
                async with asyncio.timeout(timeout_s):
                    found = await self._came.get()
            except TimeoutError:
                return None
        else:
            found = self._came.get_nowait()
        if isinstance(found, DelayBoxError):
            raise found
        return found

    async def close(self) -> None:
        """Ends it. Twice is harmless."""
        self._cluster.unfollow(self._spread)
        if self._retrying is not None:
            await end(self._retrying)
        parts, self._parts = list(self._parts.values()), {}
        for part in parts:
            await part.close()

    def _spread(self) -> None:
        """Gives each server the channels that belong there now."""
        wanted: dict[Link, set[str]] = {}
        homeless = False
        for channel in self._channels:
            link = self._cluster.link_of(channel) if keys.is_partition_channel(channel) else self._any()
            if link is None:
                homeless = True
            else:
                wanted.setdefault(link, set()).add(channel)
        for link, channels in wanted.items():
            part = self._parts.get(link)
            if part is None:
                part = self._parts[link] = _Part(link, self._came, self._part_lost)
            part.want(channels)
        for link, part in self._parts.items():
            if link not in wanted:
                part.want(())
        if homeless and (self._retrying is None or self._retrying.done()):
            self._retrying = asyncio.create_task(self._retry(), name="delaybox-subscription")

    def _part_lost(self) -> None:
        # They may be at another server by now.
        self._cluster.look_soon()
        self._spread()

    async def _retry(self) -> None:
        await asyncio.sleep(_AGAIN_S[-1])
        asyncio.get_running_loop().call_soon(self._spread)

    def _any(self) -> Link | None:
        """The server for channels of no partition: the same as before, as long as it answers."""
        at = self._plain_at
        if at is None or at.away or not at.slots:
            try:
                self._plain_at = self._cluster.any_link()
            except NotSent:
                self._plain_at = None
        return self._plain_at


class _Part:
    """The channels at one server, subscribed to again until they are others or none."""

    def __init__(self, link: Link, came: asyncio.Queue[Message | DelayBoxError], lost: Callable[[], None]) -> None:
        self._link = link
        self._came = came
        self._lost = lost
        self._wanted: frozenset[str] = frozenset()
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def want(self, channels: Collection[str]) -> None:
        """Sets the channels; none ends it."""
        wanted = frozenset(channels)
        if wanted == self._wanted:
            return
        self._wanted = wanted
        self._changed.set()
        if wanted and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._run(), name=f"delaybox-subscription-{self._link}")

    async def close(self) -> None:
        """Ends it."""
        self._wanted = frozenset()
        if self._task is not None:
            await end(self._task)

    async def _run(self) -> None:
        away = 0
        while self._wanted:
            self._changed.clear()
            subscription = Subscription(self._link.client, self._wanted, keys.is_partition_channel)
            changing: asyncio.Task[None] | None = None
            try:
                await subscription.open()
                changing = asyncio.create_task(self._change(subscription))
                while self._wanted:
                    message = await subscription.next(QUIET_S)
                    if message is not None:
                        away = 0
                        await self._came.put(message)
                    if changing.done():
                        changing.result()
            except StoreUnavailable as error:
                log.debug("channels at %s are lost: %s", self._link, error)
                await asyncio.sleep(_AGAIN_S[min(away, len(_AGAIN_S) - 1)])
                away += 1
                self._lost()
            except DelayBoxError as error:
                # An ACL that forbids it, which no repeat mends.
                await self._came.put(error)
                return
            finally:
                if changing is not None:
                    await end(changing)
                await subscription.close()

    async def _change(self, subscription: Subscription) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            if self._wanted:
                await subscription.change(self._wanted)
