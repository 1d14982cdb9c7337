"""Listens on the wake channel: scripts say there when something is due earlier than the owner waits for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from redis.exceptions import RedisError

from delaybox.engine.loops import end
from delaybox.store.store import Store

log = logging.getLogger("delaybox.engine")


class Wakeups:
    """Calls ``kick(partition, due ms)`` for each message, and ``kick(None, 0)`` after every (re)subscription.

    A message lost in between is covered by that, and by the tracker's own poll.
    """

    def __init__(self, store: Store, kick: Callable[[int | None, float], None]) -> None:
        self._store = store
        self._kick = kick
        self._task: asyncio.Task[None] | None = None

    async def start(self, *, timeout_s: float = 5.0) -> None:
        """Returns when subscribed, so that the first claim comes after it; gives up waiting after ``timeout_s``."""
        ready = asyncio.Event()
        self._task = asyncio.create_task(self._run(ready), name="delaybox-wakeups")
        try:
            await asyncio.wait_for(ready.wait(), timeout_s)
        except TimeoutError:
            log.warning("no subscription to %s yet; the poll covers it", self._store.wake_channel)

    async def stop(self) -> None:
        """Ends; twice is harmless."""
        task, self._task = self._task, None
        if task is not None:
            await end(task)

    async def _run(self, ready: asyncio.Event) -> None:
        by_tag = {tag.encode(): p for p, tag in enumerate(self._store.tags)}
        away = 0
        while True:
            pubsub = self._store.client.pubsub()
            try:
                await pubsub.subscribe(self._store.wake_channel)
                while True:
                    # Without a time-out of its own the read would end with the client's, several times a minute.
                    message = await pubsub.get_message(timeout=30.0)
                    if message is None:
                        continue
                    if message["type"] == "subscribe":
                        away = 0
                        ready.set()
                        self._kick(None, 0.0)
                    elif message["type"] == "message":
                        tag, _, due = message["data"].partition(b" ")
                        if tag in by_tag and due.isdigit():
                            self._kick(by_tag[tag], float(due))
            except (RedisError, OSError) as error:
                away += 1
                if away == 1:
                    log.warning("wake channel: %s; polling until it is back", type(error).__name__)
                await asyncio.sleep(min(0.05 * 2 ** min(away, 5), 1.0))
            finally:
                await pubsub.aclose()
