"""Listens on channels of the store while the node runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from delaybox.engine.loops import end
from delaybox.store.listening import Received, listen
from delaybox.store.store import Store

log = logging.getLogger("delaybox.engine")


class Listener:
    """`store.listening.listen` with a life-cycle."""

    def __init__(
        self, store: Store, channel: str, received: Received, subscribed: Callable[[], None] | None = None
    ) -> None:
        self._store = store
        self._channel = channel
        self._received = received
        self._subscribed = subscribed
        self._ready = asyncio.Event()
        self.listening = False
        """Whether it is subscribed now."""
        self._task: asyncio.Task[None] | None = None

    async def start(self, *, timeout_s: float = 5.0) -> None:
        """Returns when subscribed; gives up waiting after ``timeout_s``."""
        listening = listen(self._store, self._channel, self._received, self._on_subscribed, self._on_lost)
        self._task = asyncio.create_task(listening, name=f"delaybox-listens-{self._channel}")
        try:
            await asyncio.wait_for(self._ready.wait(), timeout_s)
        except TimeoutError:
            log.warning("no subscription to %s yet; polling until there is", self._channel)

    async def stop(self) -> None:
        """Ends; twice is harmless."""
        task, self._task = self._task, None
        if task is not None:
            await end(task)

    def _on_lost(self) -> None:
        self.listening = False

    def _on_subscribed(self) -> None:
        self._ready.set()
        self.listening = True
        if self._subscribed is not None:
            self._subscribed()


class Wakeups(Listener):
    """Receives wake-ups: scripts publish on the wake channel when something is due before the next look of those who
    claim.

    Calls ``kick(partition, due ms, workers)`` for each message; ``workers``: the task is for takers of WORKER tasks,
    else for time keepers. Calls ``kick(None, 0, ...)`` for both after every (re)subscription, so that a claim comes
    after it: that, and the tracker's own poll, covers messages that were lost in between.
    """

    def __init__(self, store: Store, kick: Callable[[int | None, float, bool], None]) -> None:
        by_tag = {tag.encode(): p for p, tag in enumerate(store.tags)}

        def received(message: bytes) -> None:
            tag, _, rest = message.partition(b" ")
            due, _, who = rest.partition(b" ")
            if tag in by_tag and due.isdigit():
                kick(by_tag[tag], float(due), who == b"w")

        def subscribed() -> None:
            kick(None, 0.0, False)
            kick(None, 0.0, True)

        super().__init__(store, store.wake_channel, received, subscribed)
