"""Subscribes to channels of the store, and again whenever the connection was lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection

from delaybox.core.errors import DelayBoxError
from delaybox.store.store import Store
from delaybox.store.subscription import QUIET_S, Message, Subscribed

log = logging.getLogger("delaybox.store")

Received = Callable[[bytes], None]


def _nothing() -> None:
    """Nothing is to be done."""


class Listening:
    """Calls ``received`` with each message of some channels, while `run` runs. The channels may be changed meanwhile.

    ``subscribed`` is called with a channel that was added, as soon as it is subscribed to; with None for all of them,
    after the connection was made or made again. ``lost``: the connection is broken.

    Messages that are published while the connection is away are lost, so a listener needs another way to learn the
    same.
    """

    def __init__(
        self,
        store: Store,
        channels: Collection[str],
        received: Callable[[str, bytes], None],
        subscribed: Callable[[str | None], None] = lambda _: None,
        lost: Callable[[], None] = _nothing,
    ) -> None:
        self._store = store
        self._channels = frozenset(channels)
        self._received = received
        self._subscribed = subscribed
        self._lost = lost
        self._open: Subscribed | None = None
        self._missing: set[str] = set()
        self._fresh = False

    async def change(self, channels: Collection[str]) -> None:
        """Sets the channels, at least one."""
        self._missing |= set(channels) - self._channels
        self._channels = frozenset(channels)
        self._missing &= self._channels
        if self._open is not None:
            try:
                await self._open.change(self._channels)
            except DelayBoxError as error:
                # `run` meets the same error and opens another subscription.
                log.debug("channels could not be changed: %s", error)

    async def run(self) -> None:
        """Listens for ever."""
        away = 0
        while True:
            subscription = self._store.subscribe(*self._channels)
            self._missing, self._fresh = set(self._channels), True
            try:
                await subscription.open()
                self._open = subscription
                await subscription.change(self._channels)
                while True:
                    message = await subscription.next(QUIET_S)
                    if message is not None:
                        away = away if self._fresh else 0
                        self._take(message)
            except DelayBoxError as error:
                away += 1
                if away == 1:
                    log.warning(
                        "channel %s cannot be listened to: %s. Polling until it can", min(self._channels), error
                    )
                self._lost()
                await asyncio.sleep(min(0.05 * 2 ** min(away, 5), 1.0))
            finally:
                self._open = None
                await subscription.close()

    def _take(self, message: Message) -> None:
        if not message.opened:
            self._received(message.channel, message.data)
            return
        self._missing.discard(message.channel)
        if not self._fresh:
            self._subscribed(message.channel)
        elif not self._missing:
            self._fresh = False
            self._subscribed(None)


async def listen(
    store: Store,
    channel: str,
    received: Received,
    subscribed: Callable[[], None] = _nothing,
    lost: Callable[[], None] = _nothing,
) -> None:
    """Calls ``received`` with each message on one channel, for ever; ``subscribed`` after every (re)subscription, and
    ``lost`` when one is over. See `Listening`.
    """
    await Listening(store, (channel,), lambda _, data: received(data), lambda _: subscribed(), lost).run()
