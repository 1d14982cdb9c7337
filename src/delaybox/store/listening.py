"""Channels of the store, listened to for as long as somebody wants."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from redis.exceptions import RedisError

from delaybox.store.store import Store

log = logging.getLogger("delaybox.store")

Heard = Callable[[bytes], None]


def _nothing() -> None:
    """Nothing is to be done."""


async def listen(store: Store, channel: str, heard: Heard, subscribed: Callable[[], None] = _nothing) -> None:
    """Calls ``heard`` with each message on a channel, and ``subscribed`` after every (re)subscription, for ever.

    Messages while the connection is away are lost: whoever listens has another way to learn what they say.
    """
    away = 0
    while True:
        pubsub = store.client.pubsub()
        try:
            await pubsub.subscribe(channel)
            while True:
                # Without a time-out of its own the read would end with the client's, several times a minute.
                message = await pubsub.get_message(timeout=30.0)
                if message is None:
                    continue
                if message["type"] == "subscribe":
                    away = 0
                    subscribed()
                elif message["type"] == "message":
                    heard(message["data"])
        except (RedisError, OSError) as error:
            away += 1
            if away == 1:
                log.warning("channel %s: %s; polling until it is back", channel, type(error).__name__)
            await asyncio.sleep(min(0.05 * 2 ** min(away, 5), 1.0))
        finally:
            await pubsub.aclose()
