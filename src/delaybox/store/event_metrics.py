"""What is counted of the feed of events; see `delaybox.metrics`."""

from __future__ import annotations

from typing import Literal

from prometheus_client import Counter, Gauge

from delaybox.metrics.exposition import REGISTRY

_written = Counter("delaybox_events_written", "Events that were added to the feed.", registry=REGISTRY)
_dropped = Counter(
    "delaybox_events_dropped",
    "Events that did not reach the feed or left it early: for want of room in a process (process), because the store "
    "refused them or was away (store), or by the feed's bounds (bounds); and those that a slow reader missed (reader).",
    ["where"],
    registry=REGISTRY,
)
_readers = Gauge(
    "delaybox_event_readers", "Readers of the feed of events.", multiprocess_mode="livesum", registry=REGISTRY
)


_to_topic = Counter(
    "delaybox_events_to_topic",
    "Events for the Kafka topic of events.kafkaTopic: confirmed (sent), refused by the topic for good (refused), and "
    "reports that something is missing (missed), which are also sent.",
    ["outcome"],
    registry=REGISTRY,
)
_to_webhook = Counter(
    "delaybox_events_to_webhook",
    "Events for the URL of events.webhook: taken (sent), refused by it for good (refused), and reports that something "
    "is missing (missed), which are also sent.",
    ["outcome"],
    registry=REGISTRY,
)


_to_stream = Counter(
    "delaybox_events_to_stream",
    "Events for the Redis stream of events.stream: added (sent), and reports that something is missing (missed), which "
    "are also added.",
    ["outcome"],
    registry=REGISTRY,
)
_waiting = Gauge(
    "delaybox_events_waiting",
    "1 while events wait in the feed because the place to which they go does not take them: by way (topic, webhook, "
    "stream).",
    ["way"],
    multiprocess_mode="livemax",
    registry=REGISTRY,
)
_MOVED = {"topic": _to_topic, "webhook": _to_webhook, "stream": _to_stream}


def moved(way: Literal["topic", "webhook", "stream"], outcome: Literal["sent", "refused", "missed"], n: int) -> None:
    """Counts events for the Kafka topic, for the URL, or for the Redis stream."""
    if n:
        _MOVED[way].labels(outcome).inc(n)


def waiting(way: Literal["topic", "webhook", "stream"], is_so: bool) -> None:
    """Whether events wait for the Kafka topic, for the URL, or for the Redis stream."""
    _waiting.labels(way).set(is_so)


def written(n: int) -> None:
    """Counts events that were stored."""
    _written.inc(n)


def dropped(where: Literal["process", "store", "bounds", "reader"], n: int) -> None:
    """Counts events that somebody may miss."""
    if n:
        _dropped.labels(where).inc(n)


def readers(change: int) -> None:
    """A reader came (1) or went (-1)."""
    _readers.inc(change)
