"""What is counted of Kafka: messages out, records in, and shell tasks that come by a topic."""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from delaybox.metrics.exposition import DELIVERY_BUCKETS_MS, REGISTRY
from delaybox.processes import examples

_kafka_up = Gauge(
    "delaybox_kafka_up", "1 while Kafka brokers answer this node.", ["client"], multiprocess_mode="livemin",
    registry=REGISTRY,
)  # fmt: skip
_kafka_sent = Counter("delaybox_kafka_out_messages", "Messages that the brokers confirmed.", registry=REGISTRY)
_kafka_in_flight = Gauge(
    "delaybox_kafka_out_in_flight",
    "Messages sent and not confirmed yet.",
    multiprocess_mode="livesum",
    registry=REGISTRY,
)
_kafka_failed = Counter(
    "delaybox_kafka_out_errors", "Messages that the brokers did not take.", ["reason"], registry=REGISTRY
)
_TOOK_S: Final = tuple(ms / 1000 for ms in DELIVERY_BUCKETS_MS)
_kafka_took = Histogram(
    "delaybox_kafka_out_delivery_seconds",
    "From handing a batch of messages to Kafka's client until the last was confirmed, for each message.",
    buckets=_TOOK_S,
    registry=REGISTRY,
)
_kafka_records = Counter(
    "delaybox_kafka_records",
    "Records of scheduler topics dealt with: stored, keyed (stored by idempotency key), known (stored before) or dead "
    "(sent to the dead-letter topic).",
    ["topic", "outcome"],
    registry=REGISTRY,
)
_kafka_lag = Gauge(
    "delaybox_kafka_lag_records",
    "Records of a partition that this node reads and has not stored yet; 0 for one that it does not read.",
    ["topic", "partition"],
    multiprocess_mode="mostrecent",
    registry=REGISTRY,
)
_kafka_rebalances = Counter("delaybox_kafka_rebalances", "Assignments by the consumer group.", registry=REGISTRY)
_kafka_rewinds = Counter(
    "delaybox_kafka_rewinds", "Times a partition was read again because the store had lost its last writes.",
    registry=REGISTRY,
)  # fmt: skip
_kafka_missed = Counter(
    "delaybox_kafka_missed_records", "Records that the log's retention dropped before they were read.", ["topic"],
    registry=REGISTRY,
)  # fmt: skip
_kafka_stopped = Gauge(
    "delaybox_kafka_stopped_partitions",
    "Partitions not read because their watermark is past the end of the log.",
    multiprocess_mode="mostrecent",
    registry=REGISTRY,
)
_topic_work_failed = Counter(
    "delaybox_topic_work_failed_tasks", "Shell tasks from the execution topic that failed.", registry=REGISTRY
)
_topic_work_dropped = Counter(
    "delaybox_topic_work_dropped_messages",
    "Shell commands on the execution topic that were not run, by reason: unsigned, bad_signature, or no_command (a "
    "node sent the task as another type).",
    ["reason"],
    registry=REGISTRY,
)
_kafka_children: dict[tuple[str, str], Counter] = {}


def kafka_up(up: bool, client: str = "producer") -> None:
    """Whether brokers answer ``client``."""
    _kafka_up.labels(client).set(up)


def kafka_in_flight(change: int) -> None:
    """So many more (or fewer) messages are under way."""
    _kafka_in_flight.inc(change)


def kafka_sent(n: int, took_s: float, trace: bytes = b"") -> None:
    """``n`` messages of one batch were confirmed. ``trace``: the ``traceparent`` of one's firing, where that is
    traced."""
    if n:
        _kafka_sent.inc(n)
        at = bisect_right(DELIVERY_BUCKETS_MS, took_s * 1000)
        # As above: one step for the batch.
        _kafka_took._buckets[at].inc(n)
        _kafka_took._sum.inc(took_s * n)
        if trace:
            examples.keep("delaybox_kafka_out_delivery_seconds", {}, _TOOK_S, took_s, trace.decode())


def kafka_failed(reason: str, n: int = 1) -> None:
    """``n`` messages were refused."""
    _kafka_failed.labels(reason).inc(n)


def kafka_records(topic: str, **outcomes: int) -> None:
    """Counts records of a scheduler topic, by outcome."""
    for outcome, n in outcomes.items():
        if n:
            child = _kafka_children.get((topic, outcome))
            if child is None:
                child = _kafka_children[topic, outcome] = _kafka_records.labels(topic, outcome)
            child.inc(n)


def kafka_lag(topic: str, partition: int, records: int) -> None:
    """How far this node is behind the end of a partition's log."""
    _kafka_lag.labels(topic, str(partition)).set(records)


def kafka_rebalanced() -> None:
    """The group assigned partitions again."""
    _kafka_rebalances.inc()


def kafka_rewound() -> None:
    """A partition is read again from an earlier offset."""
    _kafka_rewinds.inc()


def kafka_missed(topic: str, n: int) -> None:
    """``n`` records were gone before they were read."""
    _kafka_missed.labels(topic).inc(n)


def kafka_stopped(partitions: int) -> None:
    """How many partitions are stopped."""
    _kafka_stopped.set(partitions)


def topic_work_failed() -> None:
    """A shell task that came by the execution topic failed; it is not tried again."""
    _topic_work_failed.inc()


def topic_work_dropped(reason: str) -> None:
    """A message on the execution topic that calls itself a command was not run."""
    _topic_work_dropped.labels(reason).inc()
