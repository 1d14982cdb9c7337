"""Channels of the store, listened to for as long as somebody wants."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from delaybox.store.store import Store

log = logging.getLogger("delaybox.store")

QUIET_S = 3.0
"""A subscription that has said nothing for so long is asked whether the server still knows it."""
ANSWER_S = 3.0
"""And is over when it does not answer within this."""

Heard = Callable[[bytes], None]


def _nothing() -> None:
    """Nothing is to be done."""


class Subscription:
    """One channel. A quiet one looks the same as one whose server is gone without a word, so the server is asked."""

    def __init__(self, client: Redis, channel: str) -> None:
        self._pubsub: Any = client.pubsub()
        self._channel = channel
        self._loop = asyncio.get_running_loop()
        self._heard_at = self._loop.time()
        self._asked_at: float | None = None

    async def open(self) -> None:
        """Asks for it; that it is there, a message of type ``subscribe`` says. RedisError, OSError."""
        await self._pubsub.subscribe(self._channel)

    async def next(self, timeout_s: float) -> dict[str, Any] | None:
        """The next message; None: none came in time. RedisError, OSError: it is over, open another one."""
        message: dict[str, Any] | None = await self._pubsub.get_message(timeout=min(timeout_s, QUIET_S))
        now = self._loop.time()
        if message is not None:
            self._heard_at, self._asked_at = now, None
            return None if message["type"] == "pong" else message
        if self._pubsub.connection.doubted:
            raise RedisConnectionError("the server was another one, or silent, on other connections")
        if self._asked_at is None:
            if now - self._heard_at >= QUIET_S:
                await self._pubsub.ping()
                self._asked_at = now
        elif now - self._asked_at >= ANSWER_S:
            self._pubsub.connection.distrust()
            raise RedisTimeoutError(f"no answer within {ANSWER_S:g} s")
        return None

    async def close(self) -> None:
        """Ends it. Twice is harmless."""
        await self._pubsub.aclose()


async def listen(
    store: Store,
    channel: str,
    heard: Heard,
    subscribed: Callable[[], None] = _nothing,
    lost: Callable[[], None] = _nothing,
) -> None:
    """Calls ``heard`` with each message on a channel, for ever; ``subscribed`` after every (re)subscription, and
    ``lost`` when one is over.

    Messages while the connection is away are lost: whoever listens has another way to learn what they say.
    """
    away = 0
    while True:
        subscription = Subscription(store.client, channel)
        try:
            await subscription.open()
            while True:
                message = await subscription.next(QUIET_S)
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
            lost()
            await asyncio.sleep(min(0.05 * 2 ** min(away, 5), 1.0))
        finally:
            await subscription.close()
