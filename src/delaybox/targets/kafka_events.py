"""The Kafka topic of the feed of events: each as a CloudEvent in JSON, those of one task in their order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka import Message as Reported

from delaybox.core import ids
from delaybox.core.events import EventQuery, FeedItem, Missed, StoredEvent
from delaybox.store import event_metrics, events
from delaybox.targets.event_mover import EventsUnsent
from delaybox.targets.kafka_link import KafkaLink
from delaybox.wire import cloudevents
from delaybox.wire.json.events import encode

log = logging.getLogger("delaybox.kafka")

_HEADERS: Final[list[tuple[str, str | bytes | None]]] = [("content-type", cloudevents.STRUCTURED.encode())]
_HOPELESS: Final = (
    KafkaError.MSG_SIZE_TOO_LARGE,
    KafkaError.INVALID_MSG,
    KafkaError.INVALID_RECORD,
    KafkaError.INVALID_MSG_SIZE,
)


class EventTopic:
    """An `Outlet`. ``source``: of the CloudEvents."""

    way: events.Way = "topic"
    wanted = EventQuery()
    most = events.MOST_CHUNKS * events.CHUNK_EVENTS

    def __init__(self, link: KafkaLink, *, topic: str, source: str) -> None:
        self._link = link
        self._topic = topic
        self._source = source

    @property
    def name(self) -> str:
        """See `Outlet`."""
        return f"topic {self._topic} of Kafka"

    def trouble(self) -> str:
        """See `Outlet`."""
        return self._link.trouble

    async def send(self, items: Sequence[FeedItem]) -> None:
        """See `Outlet`."""
        failed = await self._produced(items, alone=False)
        if any(error.code() not in _HOPELESS for _, error in failed):
            raise EventsUnsent(_why(failed))
        # Brokers refuse a whole batch for one bad message.
        refused = await self._produced([item for item, _ in failed], alone=True)
        if any(error.code() not in _HOPELESS for _, error in refused):
            raise EventsUnsent(_why(refused))
        for item, error in refused:
            log.error("topic %s refuses event %s, which is left out: %s", self._topic, item.position, error.str())
        event_metrics.moved("topic", "sent", len(items) - len(refused))
        event_metrics.moved("topic", "refused", len(refused))
        event_metrics.moved("topic", "missed", sum(isinstance(item.what, Missed) for item in items))

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
        await done
        return failed


def _why(failed: Sequence[tuple[FeedItem, KafkaError]]) -> str:
    return next(f"{e.str()} ({e.name()})" for _, e in failed if e.code() not in _HOPELESS)
