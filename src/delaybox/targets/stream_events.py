"""The Redis stream of the feed of events, for those who read from Redis: each a CloudEvent in JSON. An `Outlet`."""

from __future__ import annotations

from collections.abc import Sequence

from delaybox.core.events import EventQuery, FeedItem, Missed
from delaybox.store import event_metrics, events, keys
from delaybox.store.store import Store
from delaybox.wire.json.events import encode


class EventStream:
    """``length``: about how many events it keeps; the oldest go. ``source``: of the CloudEvents."""

    way: events.Way = "stream"
    wanted = EventQuery()
    most = events.CHUNK_EVENTS

    def __init__(self, store: Store, *, length: int, source: str) -> None:
        self._servers = store.servers
        self._key = keys.events_stream(store.prefix)
        self._length = length
        self._source = source

    @property
    def name(self) -> str:
        """See `Outlet`."""
        return f"the stream {self._key} of Redis"

    def trouble(self) -> str:
        """See `Outlet`."""
        return ""

    async def send(self, items: Sequence[FeedItem]) -> None:
        """See `Outlet`."""
        await events.stream(self._servers, self._key, self._length, [encode(item, self._source) for item in items])
        event_metrics.moved("stream", "sent", len(items))
        event_metrics.moved("stream", "missed", sum(isinstance(item.what, Missed) for item in items))
