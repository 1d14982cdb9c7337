"""The feed of events to a Kafka topic, each as a CloudEvent in JSON: at least once, in the feed's order for each task.

One process of all sends: whoever holds a key that expires. How far the brokers have confirmed is stored, so that
another process goes on there. Nothing is read before what was read earlier is confirmed, so nothing piles up here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka import Message as Reported

from delaybox.core import ids
from delaybox.core.errors import DelayBoxError
from delaybox.core.events import FeedItem, Missed, StoredEvent
from delaybox.store import event_metrics, events
from delaybox.store.ending import end
from delaybox.store.store import Store
from delaybox.targets.kafka_link import KafkaLink
from delaybox.wire import cloudevents
from delaybox.wire.json.events import encode

log = logging.getLogger("delaybox.kafka")

HOLD_MS: Final = 3_000
"""For so long after a process was killed its place stays taken."""
_HOLD_AGAIN_S: Final = 1.0
_WANT_AGAIN_S: Final = 60.0
_PAUSE_S: Final = 0.05
_RETRY_S: Final = 1.0
_HEADERS: Final[list[tuple[str, str | bytes | None]]] = [("content-type", cloudevents.STRUCTURED.encode())]
_HOPELESS: Final = (
    KafkaError.MSG_SIZE_TOO_LARGE,
    KafkaError.INVALID_MSG,
    KafkaError.INVALID_RECORD,
    KafkaError.INVALID_MSG_SIZE,
)


class EventTopic:
    """``member``: names this process among all that could send. ``source``: of the CloudEvents."""

    def __init__(self, store: Store, link: KafkaLink, *, topic: str, source: str, member: str) -> None:
        self._store = store
        self._servers, self._tag = store.servers, store.tags[0]
        self._link = link
        self._topic = topic
        self._source = source
        self._member = member
        self._task: asyncio.Task[None] | None = None
        self._holds = False
        self._hold_at = self._want_at = 0.0
        self._position = ""
        self._check = True
        """Whether the feed may have lost what lies behind the position."""
        self._trouble = ""

    def start(self) -> None:
        """Begins to send as soon as no other process does."""
        self._task = asyncio.create_task(self._run(), name="delaybox-event-topic")

    async def stop(self) -> None:
        """Gives its place to another process. Harmless when repeated."""
        task, self._task = self._task, None
        if task is None:
            return
        await end(task)
        if self._holds:
            try:
                await events.give_topic(self._servers, self._tag, self._member)
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
                trace = None if isinstance(error, DelayBoxError | _NotSent) else error
                if str(error) != self._trouble:
                    self._trouble = str(error)
                    log.warning(
                        "events for topic %s wait in the feed: %s",
                        self._topic,
                        error,
                        exc_info=trace,
                    )
                await asyncio.sleep(_RETRY_S)

    def _mended(self) -> None:
        if self._trouble:
            log.info("events go to topic %s again", self._topic)
            self._trouble = ""

    async def _held(self) -> bool:
        """Whether this process is the one that sends. Asks writers for events meanwhile."""
        clock = asyncio.get_running_loop().time
        if clock() >= self._hold_at:
            self._hold_at = clock() + _HOLD_AGAIN_S
            before, self._holds = self._holds, False
            self._holds = await events.take_topic(self._servers, self._tag, self._member, HOLD_MS)
            if self._holds and not before:
                await self._begin()
        if self._holds and clock() >= self._want_at:
            await events.want(self._servers, self._tag)
            self._want_at = clock() + _WANT_AGAIN_S
        return self._holds

    async def _begin(self) -> None:
        found = await events.topic_position(self._servers, self._tag)
        self._check = bool(found)
        if not found:
            await events.want(self._servers, self._tag)
            found = await events.newest(self._servers, self._tag)
            await events.keep_topic_position(self._servers, self._tag, found)
        self._position = found
        log.info("events go to topic %s of Kafka, from position %s of the feed", self._topic, found)

    async def _turn(self) -> bool:
        """Sends the next part of the feed; whether there was any."""
        if self._link.trouble:
            raise _NotSent(self._link.trouble)
        after = self._position
        entries = await events.behind(self._servers, self._tag, after)
        found: list[FeedItem] = []
        if self._check or len(entries) >= events.MOST_CHUNKS:
            # After reading: what the bounds drop meanwhile is then never passed over in silence.
            if await events.dropped_behind(self._servers, self._tag, after):
                found.append(FeedItem(after, Missed(0, "the feed does not reach back so far")))
                if not entries:
                    self._position = "0-0.0"
            self._check = False
        for entry, chunk in entries:
            found += events.items(entry, chunk, after)
            self._position = max(self._position, f"{entry}.{len(chunk.events)}", key=events.parse)
        if self._position == after and not found:
            return False
        try:
            await self._send(found)
            await events.keep_topic_position(self._servers, self._tag, self._position)
        except BaseException:
            self._position = after
            raise
        return True

    async def _send(self, items: Sequence[FeedItem]) -> None:
        """Returns when the brokers have confirmed all, or refused some for good; _NotSent otherwise."""
        failed = await self._produced(items, alone=False)
        if any(error.code() not in _HOPELESS for _, error in failed):
            raise _NotSent(_why(failed))
        # Brokers refuse a whole batch for one bad message.
        refused = await self._produced([item for item, _ in failed], alone=True)
        if any(error.code() not in _HOPELESS for _, error in refused):
            raise _NotSent(_why(refused))
        for item, error in refused:
            log.error("topic %s refuses event %s, which is left out: %s", self._topic, item.position, error.str())
        missed = sum(isinstance(item.what, Missed) for item in items)
        event_metrics.to_topic("sent", len(items) - len(refused))
        event_metrics.to_topic("refused", len(refused))
        event_metrics.to_topic("missed", missed)

    async def _produced(self, items: Sequence[FeedItem], *, alone: bool) -> list[tuple[FeedItem, KafkaError]]:
        """Those that the brokers did not confirm."""
        failed: list[tuple[FeedItem, KafkaError]] = []
        if not items:
            return failed
        left = len(items)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def report(item: FeedItem, error: KafkaError | None) -> None:
            nonlocal left
            left -= 1
            if error is not None:
                failed.append((item, error))
            if not left and not done.done():
                done.set_result(None)

        for item in items:
            key = ids.render(item.what.task_id) if isinstance(item.what, StoredEvent) else None
            value = encode(item, self._source)

            def on(error: KafkaError | None, _message: Reported, item: FeedItem = item) -> None:
                report(item, error)

            produce = self._link.produce_alone if alone else self._link.produce
            while True:
                try:
                    produce(self._topic, value, key, -1, on, on, 0, _HEADERS)
                except BufferError:
                    await self._link.room()
                    continue
                except KafkaException as error:
                    report(item, error.args[0])
                break
        self._link.sent()
        while not done.done():
            await asyncio.wait({done}, timeout=_HOLD_AGAIN_S)
            if not done.done():
                # Confirmations take long: others must not begin to send the same.
                await self._held()
        return failed


class _NotSent(Exception):
    """Some were not confirmed: all are sent again."""


def _why(failed: Sequence[tuple[FeedItem, KafkaError]]) -> str:
    return next(f"{e.str()} ({e.name()})" for _, e in failed if e.code() not in _HOPELESS)
