"""Subscribes to channels of the store, and again whenever the connection was lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from delaybox.core.errors import DelayBoxError
from delaybox.store.store import Store
from delaybox.store.subscription import QUIET_S

log = logging.getLogger("delaybox.store")

Received = Callable[[bytes], None]


def _nothing() -> None:
    """Nothing is to be done."""


async def listen(
    store: Store,
    channel: str,
    received: Received,
    subscribed: Callable[[], None] = _nothing,
    lost: Callable[[], None] = _nothing,
) -> None:
    """Calls ``received`` with each message on a channel, for ever; ``subscribed`` after every (re)subscription, and
    ``lost`` when one is over.

    Messages that are published while the connection is away are lost, so a listener needs another way to learn the
    same.
    """
    away = 0
    while True:
        subscription = store.subscribe(channel)
        try:
            await subscription.open()
            while True:
                message = await subscription.next(QUIET_S)
                if message is None:
                    continue
                if message.opened:
                    away = 0
                    subscribed()
                else:
                    received(message.data)
        except DelayBoxError as error:
            away += 1
            if away == 1:
                log.warning("channel %s cannot be listened to: %s. Polling until it can", channel, error)
            lost()
            await asyncio.sleep(min(0.05 * 2 ** min(away, 5), 1.0))
        finally:
            await subscription.close()
