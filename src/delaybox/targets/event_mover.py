"""Carries the feed of events to one place, at least once: a Kafka topic, a URL, or a Redis stream.

One process of all does it: whoever holds a key that expires. How far the place has confirmed is stored, so that
another process goes on there. Nothing is read before what was read earlier is confirmed, so nothing piles up here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from typing import Final, Protocol

from delaybox.core.errors import DelayBoxError
from delaybox.core.events import EventQuery, FeedItem, Missed, StoredEvent
from delaybox.store import event_metrics, events
from delaybox.store.asyncio_end import end
from delaybox.store.event_writer import ASKED_EVERY_S
from delaybox.store.store import Store

log = logging.getLogger("delaybox.events")

HOLD_MS: Final = 3_000
"""For so long after a process was killed its place stays taken."""
_HOLD_AGAIN_S: Final = 1.0
_WANT_AGAIN_S: Final = 60.0
_PAUSE_S: Final = 0.05
_READY_S: Final = ASKED_EVERY_S + 0.1
RETRY_S: Final = 1.0
_LONGEST_REASON: Final = 500
"""Characters: heartbeats repeat it."""


class EventsUnsent(Exception):
    """Some were not confirmed: all of these are sent again, after ``after_s``."""

    def __init__(self, why: str, after_s: float = RETRY_S) -> None:
        super().__init__(why)
        self.after_s = after_s


class Outlet(Protocol):
    """A place that takes events. ``way``: names what is stored of it; ``name``: names it in logs. ``wanted``: which
    events it gets. ``most``: how many it gets at once; how far it has come is stored behind each such part."""

    @property
    def way(self) -> events.Way: ...
    @property
    def name(self) -> str: ...
    @property
    def wanted(self) -> EventQuery: ...
    @property
    def most(self) -> int: ...

    def trouble(self) -> str:
        """Why nothing can be sent now; "" when it can."""
        ...

    async def send(self, items: Sequence[FeedItem]) -> None:
        """Returns when the place has confirmed all, or refused some for good. EventsUnsent. May be cancelled."""
        ...


class EventMover:
    """``member``: names this process among all that could send."""

    def __init__(self, store: Store, outlet: Outlet, *, member: str) -> None:
        self._store = store
        self._servers, self._tag = store.servers, store.tags[0]
        self._outlet = outlet
        self._way = outlet.way
        self._member = member
        self._task: asyncio.Task[None] | None = None
        self._holds = self._may_hold = False
        self._hold_at = self._want_at = 0.0
        self._position = ""
        self._check = True
        """Whether the feed may have lost what lies behind the position, and part of an entry may lie there."""
        self._trouble = ""

    @property
    def trouble(self) -> str:
        """Why events wait in the feed, in a sentence; "" where they do not."""
        return f"events for {self._outlet.name} wait in the feed: {self._trouble}" if self._trouble else ""

    def start(self) -> None:
        """Begins to send as soon as no other process does."""
        event_metrics.waiting(self._way, False)
        self._task = asyncio.create_task(self._run(), name=f"delaybox-events-{self._way}")

    async def stop(self) -> None:
        """Gives its place to another process. Harmless when repeated."""
        task, self._task = self._task, None
        if task is None:
            return
        await end(task)
        if self._may_hold:
            try:
                await events.give_place(self._servers, self._tag, self._way, self._member)
            except DelayBoxError as error:
                log.debug("the place of the sender of events was not given back: %s", error)

    async def _run(self) -> None:
        while True:
            try:
                busy = await self._held() and await self._turn()
                self._mended()
                await asyncio.sleep(0 if busy else _PAUSE_S if self._holds else _HOLD_AGAIN_S)
            except Exception as error:
                self._check = True
                trace = None if isinstance(error, DelayBoxError | EventsUnsent) else error
                if (why := str(error)[:_LONGEST_REASON]) != self._trouble:
                    self._trouble = why
                    log.warning("%s", self.trouble, exc_info=trace)
                event_metrics.waiting(self._way, True)
                await self._rest(error.after_s if isinstance(error, EventsUnsent) else RETRY_S)

    def _mended(self) -> None:
        if self._trouble:
            log.info("events go to %s again", self._outlet.name)
            self._trouble = ""
            event_metrics.waiting(self._way, False)

    async def _rest(self, pause_s: float) -> None:
        """A pause in which no other process begins to send."""
        clock = asyncio.get_running_loop().time
        until = clock() + pause_s
        while (left := until - clock()) > 0:
            await asyncio.sleep(min(left, _HOLD_AGAIN_S))
            try:
                await self._held()
            except DelayBoxError as error:
                log.debug("whether this process sends events is not known: %s", error)

    async def _held(self) -> bool:
        """Whether this process is the one that sends. Asks writers for events meanwhile."""
        clock = asyncio.get_running_loop().time
        if clock() >= self._hold_at:
            self._hold_at = clock() + _HOLD_AGAIN_S
            before, self._holds = self._holds, False
            # An answer that never comes may have been yes.
            self._may_hold = True
            taken = self._may_hold = await events.take_place(self._servers, self._tag, self._way, self._member, HOLD_MS)
            if taken and not before:
                await self._begin()
            # Only now: where the store fails meanwhile, it begins again.
            self._holds = taken
        if self._holds and clock() >= self._want_at:
            if await events.want(self._servers, self._tag) and not self._store.events.rules.always:
                # Nobody had asked for minutes, so nothing was written: who goes on behind that learns of it.
                await self._store.events.gap()
            self._want_at = clock() + _WANT_AGAIN_S
        return self._holds

    async def _begin(self) -> None:
        found = await events.position(self._servers, self._tag, self._way)
        self._check = bool(found)
        if not found:
            if await events.want(self._servers, self._tag):
                # From the log line below on, every writer knows of it.
                await asyncio.sleep(_READY_S)
            found = await events.newest(self._servers, self._tag)
            await events.keep_position(self._servers, self._tag, self._way, found)
        self._position = found
        log.info("events go to %s, from position %s of the feed", self._outlet.name, found)

    async def _turn(self) -> bool:
        """Sends the next part of the feed; whether there was any."""
        if why := self._outlet.trouble():
            raise EventsUnsent(why)
        after = reached = self._position
        entries = await events.behind(self._servers, self._tag, after, inside=self._check)
        found: list[FeedItem] = []
        if self._check or entries:
            # After reading: what the bounds drop meanwhile is then never passed over in silence.
            if await events.dropped_behind(self._servers, self._tag, after):
                # An id of its own: by that of the event before it, which has arrived, it would be taken for that one.
                ms, seq, _ = events.parse(after)
                found.append(FeedItem(f"{ms}-{seq + 1}.0", Missed(0, "the feed does not reach back so far")))
                if not entries:
                    reached = "0-0.0"
            self._check = False
        wanted = self._outlet.wanted
        for entry, chunk in entries:
            found += (
                item
                for item in events.items(entry, chunk, after)
                if not isinstance(item.what, StoredEvent) or wanted.matches(item.what)
            )
            # Behind the whole entry, so that it is not missed when the bounds drop it.
            reached = max(reached, f"{entry}.{events.CHUNK_EVENTS}", key=events.parse)
        if reached == after and not found:
            return False
        for at in range(0, len(found), self._outlet.most):
            some = found[at : at + self._outlet.most]
            await self._while_held(self._outlet.send(some))
            if at + len(some) < len(found):
                await self._keep(some[-1].position)
        await self._keep(reached)
        return True

    async def _keep(self, reached: str) -> None:
        await events.keep_position(self._servers, self._tag, self._way, reached)
        self._position = reached

    async def _while_held(self, sending: Coroutine[None, None, None]) -> None:
        """Sends; that takes long where the place is slow, and meanwhile others must not begin to send the same."""
        task = asyncio.create_task(sending)
        try:
            while not task.done():
                await asyncio.wait({task}, timeout=_HOLD_AGAIN_S)
                if not task.done() and not await self._held():
                    raise EventsUnsent("another process sends them by now")
            task.result()
        finally:
            if not task.done():
                await end(task)
