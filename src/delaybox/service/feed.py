"""Reads the feed of events: once for all readers of a process, each of which has a bounded buffer."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncGenerator, Iterable
from typing import Final

from delaybox.core.errors import DelayBoxError, InvalidTask, Overloaded
from delaybox.core.events import EventQuery, EventRules, FeedItem, Missed, StoredEvent
from delaybox.store import event_metrics, events
from delaybox.store.asyncio_end import end
from delaybox.store.event_writer import ASKED_EVERY_S
from delaybox.store.store import Store

log = logging.getLogger("delaybox.service")

MOST_READERS: Final = 1_000
"""Readers at once in one process."""
BEAT_S: Final = 15.0
"""A stream without events shows so often that it is alive."""
LONGEST_S: Final = 3_600.0
_PAUSE_S: Final = 0.05
_ASK_AGAIN_S: Final = 60.0
_READY_S: Final = ASKED_EVERY_S + 0.25
"""How long a first reader waits until the writers know of it."""


class Reader:
    """One reader's part of the feed. An iterator of lists; the iteration ends when the node stops.

    ``position``: behind everything that it was given so far, or that its filter left out.
    """

    def __init__(self, feed: Feed, wanted: EventQuery, position: str, most: int) -> None:
        self._feed = feed
        self._wanted = wanted
        self.position = position
        self._most = most
        self._items: deque[FeedItem] = deque()
        self._dropped = 0
        self._seen = position
        self._news = asyncio.Event()
        self._over = False

    def __aiter__(self) -> Reader:
        return self

    async def __anext__(self) -> list[FeedItem]:
        """What is new. Nothing at all when `nudge` was called."""
        while not self._items and not self._over:
            if not await self._feed.caught_up(self):
                continue
            self._news.clear()
            await self._news.wait()
            break
        if self._over and not self._items:
            raise StopAsyncIteration
        found, self._items = list(self._items), deque()
        if self._dropped:
            why = f"this reader was too slow: more than {self._most} events waited for it"
            found.insert(0, FeedItem(self.position, Missed(self._dropped, why)))
            self._dropped = 0
        self.position = self._seen
        return found

    async def within(self, seconds: float) -> list[FeedItem]:
        """What is new; after so long nothing, with ``position`` as it is then. StopAsyncIteration when the node
        stops."""
        handle = asyncio.get_running_loop().call_later(seconds, self._news.set)
        try:
            return await self.__anext__()
        finally:
            handle.cancel()

    def put(self, items: Iterable[FeedItem], seen: str) -> None:
        """Called by the feed with what comes next; ``seen``: how far that goes."""
        for item in items:
            if isinstance(item.what, StoredEvent) and not self._wanted.matches(item.what):
                continue
            if len(self._items) >= self._most:
                self._items.popleft()
                self._dropped += 1
                event_metrics.dropped("reader", 1)
            self._items.append(item)
        self._seen = seen
        if self._items:
            self._news.set()

    @property
    def waiting(self) -> int:
        """How many events wait for it."""
        return len(self._items)

    @property
    def seen(self) -> str:
        """How far the feed was read for it."""
        return self._seen

    def stop(self) -> None:
        """Called by the feed when the node stops: the iteration ends when all that waits was taken."""
        self._over = True
        self._news.set()

    def close(self) -> None:
        """The reader goes. Harmless when repeated."""
        self._feed.forget(self)


async def batches(reader: Reader) -> AsyncGenerator[list[FeedItem], None]:
    """All that comes for a reader, and an empty list now and then to show that it is alive. Ends when the node stops,
    and after an hour, so that a token's end counts at some time; the reader is closed then."""
    loop = asyncio.get_running_loop()
    until = loop.time() + LONGEST_S
    try:
        yield []
        while loop.time() < until:
            try:
                yield await reader.within(BEAT_S)
            except StopAsyncIteration:
                return
    finally:
        reader.close()


class Feed:
    """The feed of one store, as one process reads it. Nothing is asked of the store while nobody reads."""

    def __init__(self, store: Store, rules: EventRules) -> None:
        self._store = store
        self._rules = rules
        self._tag = store.tags[0]
        self._readers: set[Reader] = set()
        self._joined: set[Reader] = set()
        """Readers that have come as far as the feed was read."""
        self._at = ""
        self._asked_at = -1e9
        self._beginning = asyncio.Lock()
        self._following: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def source(self) -> str:
        """The source of its CloudEvents, the same as of tasks that go to Kafka."""
        return f"/delaybox/{self._store.prefix}"

    @property
    def follows(self) -> bool:
        """Whether it asks the store for events."""
        return self._following is not None and not self._following.done()

    async def read(self, wanted: EventQuery, *, after: str = "") -> Reader:
        """A reader, for what happens from now on; ``after``: from that position on. Close it.

        What happens after the answer is in the feed. At a node that stops it ends at once, with a position at which
        another node goes on. Unsupported where events are off; InvalidTask for a position that is none; Overloaded;
        StoreUnavailable.
        """
        if not self._rules.enabled:
            raise InvalidTask("events", "events are off at this node: set events.enabled, or ask another node")
        if len(self._readers) >= MOST_READERS:
            raise Overloaded(f"{MOST_READERS} readers follow events at this node; close some, or ask another node")
        if after:
            events.parse(after)
        self._store.present()
        reader = Reader(self, wanted, after, self._rules.buffer)
        if self._closed:
            reader.stop()
        # From now on the feed is followed until it goes.
        self._readers.add(reader)
        event_metrics.readers(1)
        try:
            async with self._beginning:
                if self._following is None or self._following.done():
                    await self._announce()
                    self._at = await events.newest(self._store.servers, self._tag)
                    if not self._closed:
                        self._following = asyncio.create_task(self._follow(), name="delaybox-feed")
            if not after:
                reader.put((), self._at)
                self._joined.add(reader)
            elif await events.dropped_behind(self._store.servers, self._tag, after):
                reader.put((FeedItem(after, Missed(0, "the feed does not reach back so far")),), after)
            reader.position = reader.seen
        except BaseException:
            reader.close()
            raise
        return reader

    async def _announce(self) -> None:
        """Asks writers for events; waits until they know of it, if nobody had asked."""
        first = await events.want(self._store.servers, self._tag)
        if first and not self._rules.always:
            self._store.events.wanted = True
            with contextlib.suppress(DelayBoxError):
                await self._store.events.gap()
            await asyncio.sleep(_READY_S)
        self._asked_at = asyncio.get_running_loop().time()

    async def caught_up(self, reader: Reader) -> bool:
        """Whether a reader has what was read for others; gives it the next part if not. StoreUnavailable."""
        if reader in self._joined or reader not in self._readers:
            return True
        entries = await events.behind(self._store.servers, self._tag, reader.seen, inside=True)
        # Further than the feed was read for all it must not come, or it would get the same twice.
        until = events.parse(self._at)[:2]
        for entry, chunk in entries:
            if events.parse(f"{entry}.0")[:2] > until:
                reader.put((), self._at)
                break
            reader.put(events.items(entry, chunk, reader.seen), f"{entry}.{len(chunk.events)}")
            if reader.waiting * 2 > self._rules.buffer:
                return False
        if not entries:
            reader.put((), self._at)
        if events.parse(reader.seen)[:2] >= until:
            self._joined.add(reader)
        return False

    async def _follow(self) -> None:
        away, clock = 0, asyncio.get_running_loop().time
        while self._readers:
            try:
                if clock() - self._asked_at > _ASK_AGAIN_S:
                    await self._announce()
                entries = await events.behind(self._store.servers, self._tag, self._at)
            except Exception as error:
                away += 1
                if away == 1:
                    known = isinstance(error, DelayBoxError)
                    log.warning("events cannot be read: %s", error, exc_info=None if known else error)
                await asyncio.sleep(min(_PAUSE_S * 2 ** min(away, 6), 1.0))
                continue
            away = 0
            for entry, chunk in entries:
                items = list(events.items(entry, chunk, self._at))
                self._at = f"{entry}.{len(chunk.events)}"
                for reader in self._joined:
                    reader.put(items, self._at)
                # Readers take it before the next part, so that a buffer holds what is slow and not what came at once.
                await asyncio.sleep(0)
            if len(entries) < events.MOST_CHUNKS:
                await asyncio.sleep(_PAUSE_S)

    def forget(self, reader: Reader) -> None:
        """A reader goes."""
        if reader in self._readers:
            self._readers.discard(reader)
            self._joined.discard(reader)
            event_metrics.readers(-1)

    async def close(self) -> None:
        """Ends every reader, those that come later too, and with it every stream. Harmless when repeated."""
        self._closed = True
        for reader in self._readers:
            reader.stop()
        if self._following is not None:
            await end(self._following)
