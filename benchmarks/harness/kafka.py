"""A Kafka broker for the scenarios, and what a stock client does on it: the ceiling of ours."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from benchmarks import workload
from benchmarks.harness.process import Child, python
from delaybox.targets.kafka_message import Message
from scripts.kafka_broker import VERSION, Broker, why_not

PARTITIONS = 6
SETTINGS = {"enable.idempotence": True, "acks": "all", "compression.type": "lz4", "linger.ms": 2}
"""Those of our own producer."""


class BrokerMissing(RuntimeError):
    """No broker can be started here."""


@contextmanager
def broker() -> Iterator[Broker]:
    """One broker, its log in a temporary folder."""
    if problem := why_not():
        raise BrokerMissing(problem)
    folder = Path(tempfile.mkdtemp(prefix="dbx-kafka-"))
    # A real machine's: both compilers, a heap with room.
    running = Broker(folder / "broker", heap="1g", jvm=("-XX:+UseG1GC",))
    try:
        running.start()
        yield running
    finally:
        running.close()
        shutil.rmtree(folder, ignore_errors=True)


def label() -> str:
    """As shown in tables."""
    return f"Kafka {VERSION}"


def topic(on: Broker, partitions: int = PARTITIONS) -> str:
    """A new topic's name."""
    name = f"b{uuid.uuid4().hex[:8]}"
    admin = AdminClient({"bootstrap.servers": on.bootstrap})
    admin.create_topics([NewTopic(name, num_partitions=partitions)])[name].result(30)
    return name


def used_topic(on: Broker) -> str:
    """A new topic that has one message without a key in each partition.

    The first message of a partition costs the broker a file that is made and synced: 20 to 30 ms in which others wait.
    """
    name, failures = topic(on), _Failures()
    producer = _producer(on, name)
    for partition in range(PARTITIONS):
        producer.produce(name, b"", None, partition, failures.report, failures.report)
    failures.none_of(producer, PARTITIONS)
    return name


def produce(on: Broker, to: str, count: int, *, messages: Sequence[Message]) -> float:
    """Seconds until ``count`` of the messages, again and again, are confirmed. A message's own topic does not count."""
    failures = _Failures()
    producer = _producer(on, to)
    started = time.perf_counter()
    for i in range(count):
        _, value, key, headers = messages[i % len(messages)]
        while True:
            try:
                # The list is not ours to give away twice.
                producer.produce(to, value, key or None, -1, failures.report, failures.report, 0, list(headers))
                break
            except BufferError:
                producer.poll(0.01)
        if not i % 250:
            producer.poll(0)
    return failures.none_of(producer, count) - started


def produce_at(on: Broker, to: str, count: int, rate: int, *, start_ms: int) -> None:
    """``rate`` messages a second by the clock, each with the key of a task that is due when it is produced."""
    failures = _Failures()
    producer = _producer(on, to)
    value = bytes(workload.PAYLOAD_BYTES)
    for i in range(count):
        due_ms = start_ms + i * 1000 // rate
        while (wait_s := due_ms / 1000 - time.time()) > 0:
            producer.poll(min(wait_s, 0.001))
        h = due_ms.to_bytes(6, "big").hex()
        key = f"{h[:8]}-{h[8:]}-8000-8000-{i:012}".encode()
        producer.produce(to, value, key, -1, failures.report, failures.report)
    failures.none_of(producer, count)


class _Failures:
    """Counts what was not confirmed."""

    def __init__(self) -> None:
        self._count = 0

    def report(self, error: object, _: object) -> None:
        self._count += error is not None

    def none_of(self, producer: Producer, count: int) -> float:
        """When the last was confirmed; RuntimeError when some were not."""
        left = producer.flush(60)
        ended = time.perf_counter()
        if left or self._count:
            raise RuntimeError(f"{left} of {count} messages were not confirmed, {self._count} failed")
        return ended


def _producer(on: Broker, to: str) -> Producer:
    made = Producer({"bootstrap.servers": on.bootstrap, **SETTINGS})
    made.list_topics(to, timeout=10)
    return made


def reader(on: Broker, of: str, *, count: int, seconds: float, each: bool) -> Child:
    """A process that reads a topic; its first line says that it reads, its second what came."""
    options = {
        "bootstrap": on.bootstrap,
        "topic": of,
        "partitions": PARTITIONS,
        "count": count,
        "seconds": seconds,
        "each": each,
    }
    return Child(python("benchmarks.harness.kafka_reader", json.dumps(options)))
