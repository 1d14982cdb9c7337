"""Listens on channels of the store while the node runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Sequence
from typing import Any, Protocol

from delaybox.core import ids
from delaybox.core.errors import DelayBoxError
from delaybox.engine.loops import end
from delaybox.store import keys
from delaybox.store.listening import Listening, Received, listen
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


def cancels(store: Store, cancelled: Callable[[bytes], object]) -> Listener:
    """Calls ``cancelled`` with the id of each task that runs somewhere while a caller cancels it."""

    def received(message: bytes) -> None:
        word, _, text = message.partition(b" ")
        if word == b"cancel":
            try:
                task_id = ids.parse(text.decode("ascii", "replace"))
            except DelayBoxError:
                log.warning("a message on the control channel asks to cancel what is no task: %r", text[:80])
                return
            cancelled(task_id)

    return Listener(store, store.control_channel, received)


class WakeupReceiver(Protocol):
    """Is called with the contents of wake-ups."""

    def due(self, partition: int | None, due_ms: float, *, for_workers: bool) -> None:
        """Something is due in the partition at ``due_ms``, earlier than the next look. None, 0: anything may be due,
        anywhere."""

    def hook_due(self, partition: int, due_ms: float) -> None:
        """The same of an HTTP task that lies in the near indexes of HTTP tasks."""

    def ready(self, partition: int) -> None:
        """Due work was left ready in the partition, for members that serve it."""

    def met(self, lanes: Sequence[bytes]) -> None:
        """A claim of another member met these lanes with needs."""

    def asked(self, seed: int, partitions: Sequence[int]) -> None:
        """Another member has no room for the WORKER tasks that wait in these partitions."""

    def all_asked(self, waiting: Sequence[tuple[int, bytes]]) -> None:
        """WORKER tasks of these lanes wait in these partitions, and the members that were called did not take them."""

    def left(self, seed: int, waiting: int, partitions: Sequence[int]) -> None:
        """At least this many WORKER tasks wait in the partition for a member with room. ``seed`` is the same for all
        members."""


class Wakeups:
    """Receives messages of scripts about the partitions that this process claims from, which may change.

    After every (re)subscription its partitions count as due, so that a claim comes after it: that, and the tracker's
    own poll, covers messages that were lost in between.
    """

    def __init__(self, store: Store, follower: WakeupReceiver) -> None:
        self._store = store
        self._follower = follower
        self._by_channel: dict[str, tuple[int, str]] = {}
        for p, tag in enumerate(store.tags):
            self._by_channel[keys.wake(tag)] = p, ""
            self._by_channel[keys.wake_workers(tag)] = p, "w"
            self._by_channel[keys.wake_hooks(tag)] = p, "h"
            self._by_channel[keys.ready_channel(tag)] = p, "ready"
            self._by_channel[keys.ready_workers(tag)] = p, "left"
        self._help = keys.help_channel(store.prefix)
        self._lanes = keys.lanes_channel(store.prefix)
        # Nodes of the previous version have one channel for all.
        self._former = keys.former_wake(store.prefix)
        self._tags = {tag.encode(): p for p, tag in enumerate(store.tags)}
        self._asked: tuple[frozenset[int], ...] = ()
        self._wanted: frozenset[str] = frozenset()
        self._ready = asyncio.Event()
        self._listening: Listening | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.listening = False
        """Whether all wanted channels are subscribed to now."""

    def want(
        self,
        *,
        due: Collection[int] = (),
        for_workers: Collection[int] = (),
        hooks: Collection[int] = (),
        ready: Collection[int] = (),
        left: Collection[int] = (),
    ) -> None:
        """Sets the partitions of each kind of message: due tasks, due WORKER tasks, due HTTP tasks (``hooks``), work
        left ready, and WORKER tasks left (with calls for help, and lanes that claims met)."""
        # Members that call one another all the time ask for the same again and again.
        asked = tuple(map(frozenset, (due, for_workers, hooks, ready, left)))
        if asked == self._asked:
            return
        self._asked = asked
        tags = self._store.tags
        self._wanted = frozenset(
            [self._former]
            + [keys.wake(tags[p]) for p in due]
            + [keys.wake_workers(tags[p]) for p in for_workers]
            + [keys.wake_hooks(tags[p]) for p in hooks]
            + [keys.ready_channel(tags[p]) for p in ready]
            + [keys.ready_workers(tags[p]) for p in left]
            + ([self._help, self._lanes] if left else [])
        )
        if self._listening is not None:
            self._spawn(self._listening.change(self._wanted))

    async def start(self, *, timeout_s: float = 5.0) -> None:
        """Returns when subscribed; gives up waiting after ``timeout_s``."""
        self._listening = Listening(self._store, self._wanted, self._received, self._subscribed, self._on_lost)
        self._spawn(self._listening.run())
        try:
            await asyncio.wait_for(self._ready.wait(), timeout_s)
        except TimeoutError:
            log.warning("no subscription to wake-ups of %s yet; polling until there is", self._store.prefix)

    async def stop(self) -> None:
        """Ends; twice is harmless."""
        for task in list(self._tasks):
            await end(task)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name="delaybox-wakeups")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _received(self, channel: str, message: bytes) -> None:
        if channel == self._former:
            tag, _, rest = message.partition(b" ")
            due, _, who = rest.partition(b" ")
            if tag in self._tags and due.isdigit():
                self._follower.due(self._tags[tag], float(due), for_workers=who == b"w")
            return
        if channel == self._help and b"=" in message:
            self._follower.all_asked([one for one in _lanes(message) if one[0] < self._store.partitions])
            return
        if channel == self._help:
            seed, partitions = _numbers(message)
            self._follower.asked(seed, [p for p in partitions if p < self._store.partitions])
            return
        if channel == self._lanes:
            self._follower.met(message.split())
            return
        partition, what = self._by_channel.get(channel, (-1, ""))
        if partition < 0:
            return
        if what == "ready":
            self._follower.ready(partition)
        elif what == "left":
            seed, waiting = _numbers(message)
            self._follower.left(seed, sum(waiting), (partition,))
        elif what == "h":
            if message.isdigit():
                self._follower.hook_due(partition, float(message))
        elif message.isdigit():
            self._follower.due(partition, float(message), for_workers=what == "w")

    def _subscribed(self, channel: str | None) -> None:
        if channel is None:
            self.listening = True
            self._ready.set()
            self._follower.due(None, 0.0, for_workers=False)
            self._follower.due(None, 0.0, for_workers=True)
        elif channel in self._by_channel:
            partition, what = self._by_channel[channel]
            if what == "ready":
                self._follower.ready(partition)
            elif what == "h":
                self._follower.hook_due(partition, 0.0)
            elif what in ("", "w"):
                self._follower.due(partition, 0.0, for_workers=what == "w")

    def _on_lost(self) -> None:
        self.listening = False


def _lanes(message: bytes) -> list[tuple[int, bytes]]:
    """Partitions with a lane each."""
    words = [word.partition(b"=") for word in message.split()]
    return [(int(number), lane) for number, _, lane in words if number.isdigit() and len(number) < 16 and lane]


def _numbers(message: bytes) -> tuple[int, list[int]]:
    """The first number of a message, and the others; 0 and none for a message in another form."""
    words = message.split()
    if not words or not all(word.isdigit() and len(word) < 16 for word in words):
        return 0, []
    return int(words[0]), [int(word) for word in words[1:]]
