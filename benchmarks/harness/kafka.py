"""A Kafka broker for the scenarios, and what a stock client does on it: the ceiling of ours."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from benchmarks.harness.process import Child, python
from scripts.kafka_broker import VERSION, Broker, why_not

PARTITIONS = 6
SETTINGS = {"enable.idempotence": True, "acks": "all", "compression.type": "lz4", "linger.ms": 1}
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


def produce(on: Broker, to: str, count: int, *, value: bytes, headers: list[tuple[str, bytes]] | None = None) -> float:
    """Seconds until all are confirmed; each message with a key of its own."""
    producer = Producer({"bootstrap.servers": on.bootstrap, **SETTINGS})
    producer.list_topics(to, timeout=10)
    failed = 0

    def reported(error: object, _: object) -> None:
        nonlocal failed
        failed += error is not None

    started = time.perf_counter()
    for i in range(count):
        while True:
            try:
                producer.produce(to, value, b"%036d" % i, -1, reported, reported, 0, headers and list(headers))
                break
            except BufferError:
                producer.poll(0.01)
        if not i % 500:
            producer.poll(0)
    left = producer.flush(60)
    seconds = time.perf_counter() - started
    if left or failed:
        raise RuntimeError(f"{left} of {count} messages were not confirmed, {failed} failed")
    return seconds


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
