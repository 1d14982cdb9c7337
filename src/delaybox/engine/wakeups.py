"""Listens on channels of the store for as long as the node lives."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from redis.exceptions import RedisError

from delaybox.engine.loops import end
from delaybox.store.store import Store

log = logging.getLogger("delaybox.engine")


def _nothing() -> None:
    """Nothing is to be done."""


class Listener:
    """Calls ``heard`` with each message on a channel, and ``subscribed`` after every (re)subscription.

    Messages while the connection is away are lost: whoever listens has another way to learn what they say.
    """

    def __init__(
        self, store: Store, channel: str, heard: Callable[[bytes], None], subscribed: Callable[[], None] = _nothing
    ) -> None:
        self._store = store
        self._channel = channel
        self._heard = heard
        self._subscribed = subscribed
        self._task: asyncio.Task[None] | None = None

    async def start(self, *, timeout_s: float = 5.0) -> None:
        """Returns when subscribed; gives up waiting after ``timeout_s``."""
        ready = asyncio.Event()
        self._task = asyncio.create_task(self._run(ready), name=f"delaybox-listens-{self._channel}")
        try:
            await asyncio.wait_for(ready.wait(), timeout_s)
        except TimeoutError:
            log.warning("no subscription to %s yet; polling until there is", self._channel)

    async def stop(self) -> None:
        """Ends; twice is harmless."""
        task, self._task = self._task, None
        if task is not None:
            await end(task)

    async def _run(self, ready: asyncio.Event) -> None:
        away = 0
        while True:
            pubsub = self._store.client.pubsub()
            try:
                await pubsub.subscribe(self._channel)
                while True:
                    # Without a time-out of its own the read would end with the client's, several times a minute.
                    message = await pubsub.get_message(timeout=30.0)
                    if message is None:
                        continue
                    if message["type"] == "subscribe":
                        away = 0
                        ready.set()
                        self._subscribed()
                    elif message["type"] == "message":
                        self._heard(message["data"])
            except (RedisError, OSError) as error:
                away += 1
                if away == 1:
                    log.warning("channel %s: %s; polling until it is back", self._channel, type(error).__name__)
                await asyncio.sleep(min(0.05 * 2 ** min(away, 5), 1.0))
            finally:
                await pubsub.aclose()


class Wakeups(Listener):
    """Scripts say on the wake channel when something is due earlier than the owner waits for.

    Calls ``kick(partition, due ms)`` for each message, and ``kick(None, 0)`` after every (re)subscription, so that the
    first claim comes after it. A message lost in between is covered by that, and by the tracker's own poll.
    """

    def __init__(self, store: Store, kick: Callable[[int | None, float], None]) -> None:
        by_tag = {tag.encode(): p for p, tag in enumerate(store.tags)}

        def heard(message: bytes) -> None:
            tag, _, due = message.partition(b" ")
            if tag in by_tag and due.isdigit():
                kick(by_tag[tag], float(due))

        super().__init__(store, store.wake_channel, heard, lambda: kick(None, 0.0))
