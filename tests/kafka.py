"""A real Kafka broker for tests: the one that DELAYBOX_TEST_KAFKA names, else one of scripts/kafka_broker.py.

The workers of a test run share one, which ends with the last of them, even when they are killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from scripts.kafka_broker import FETCH_S, START_S, Broker, why_not
from tests.waiting import PATIENCE_S, until

_ANY = -1  # the producer chooses (source: RD_KAFKA_PARTITION_UA of librdkafka)
ROOT = Path(__file__).parent.parent
MORTAL = {"broker.session.timeout.ms": "3000", "broker.heartbeat.interval.ms": "500"}
"""Settings of a broker that is killed: it may not come back before its session has ended, by default after 9 s."""


def numbered(start: int, end: int) -> list[bytes]:
    """Values of messages that are told apart."""
    return [b"%d" % n for n in range(start, end)]


def headers_of(message: Message) -> dict[str, Any]:
    return dict(message.headers() or [])


class Kafka:
    """A broker as a stock client sees it. Make your own topics: others use the broker too."""

    def __init__(self, bootstrap: str, settings: Mapping[str, str] | None = None) -> None:
        self.bootstrap = bootstrap
        self._settings = {"bootstrap.servers": bootstrap, **(settings or {})}

    def topic(self, partitions: int = 6, name: str = "", **settings: str) -> str:
        """A new topic's name."""
        name = name or f"t{uuid.uuid4().hex[:12]}"
        admin = AdminClient(dict(self._settings))
        config = {key.replace("_", "."): value for key, value in settings.items()}
        admin.create_topics([NewTopic(name, num_partitions=partitions, config=config)])[name].result(PATIENCE_S)
        return name

    def producer(self, **settings: object) -> Producer:
        """A stock producer."""
        return Producer({**self._settings, **{key.replace("_", "."): value for key, value in settings.items()}})

    def produce(
        self,
        topic: str,
        values: Sequence[bytes],
        *,
        key: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        partitions: int = 0,
    ) -> None:
        """Returns when the broker has them all. ``partitions``: so many get records, by turns; 0: as the producer
        likes, which may be one for all."""
        producer = self.producer(linger_ms=5)
        found: dict[str, str | bytes | None] | None = dict(headers) if headers else None
        for n, value in enumerate(values):
            partition = n % partitions if partitions else _ANY
            while True:
                try:
                    producer.produce(topic, value, key=key, partition=partition, headers=found)
                    break
                except BufferError:
                    producer.poll(0.1)
        assert producer.flush(PATIENCE_S) == 0

    @contextlib.contextmanager
    def consumer(self, topic: str) -> Iterator[Consumer]:
        """A stock consumer from the beginning of a topic."""
        settings = {
            **self._settings,
            "group.id": uuid.uuid4().hex,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "allow.auto.create.topics": True,
            "topic.metadata.refresh.interval.ms": 200,
        }
        made = Consumer(settings)
        try:
            found = made.list_topics(topic, timeout=PATIENCE_S).topics[topic]
            if found.error is None and found.partitions:
                # Its partitions are known: to join a group takes the broker as long as to read them.
                made.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in found.partitions])
            else:
                made.subscribe([topic])
            yield made
        finally:
            made.close()

    def read(self, topic: str, count: int, *, timeout_s: float = PATIENCE_S) -> list[Message]:
        """The first ``count`` messages of a topic, or AssertionError."""
        with self.consumer(topic) as consumer:
            return take(consumer, count, timeout_s=timeout_s)


def take(consumer: Consumer, count: int, *, timeout_s: float = PATIENCE_S) -> list[Message]:
    """The next ``count`` messages; AssertionError when they do not come."""
    found: list[Message] = []
    deadline = time.monotonic() + timeout_s
    while len(found) < count:
        assert time.monotonic() < deadline, f"{len(found)} of {count} messages came"
        for message in consumer.consume(min(500, count - len(found)), 0.2):
            error = message.error()
            if error is None:
                found.append(message)
            elif not error.retriable() and error.code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise KafkaException(error)
    return found


def need_broker() -> None:
    """Skips the test where no broker can be started; fails it in CI."""
    if problem := why_not():
        reason = f"no Kafka broker: {problem}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)


@contextlib.contextmanager
def shared(folder: Path) -> Iterator[Kafka]:
    """The broker of a test run, whose workers all name this folder; started by the first who asks."""
    if named := os.environ.get("DELAYBOX_TEST_KAFKA"):
        yield Kafka(named)
        return
    need_broker()
    folder.mkdir(exist_ok=True)
    # Users hold the lock shared; the keeper ends the broker once it can have it alone. Locks end with processes.
    with (folder / "users").open("w") as users, (folder / "start").open("w") as start:
        fcntl.flock(users, fcntl.LOCK_SH)
        fcntl.flock(start, fcntl.LOCK_EX)
        address = folder / "address"
        if not address.exists():
            _start_keeper(folder, address)
        fcntl.flock(start, fcntl.LOCK_UN)
        yield Kafka(address.read_text())


def _start_keeper(folder: Path, address: Path) -> None:
    """A process that outlives this one, should others still use the broker; returns when ``address`` holds it."""
    log_path = folder / "log"
    with log_path.open("ab") as log:
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-m", "tests.kafka", str(folder)],
            {**os.environ, "PYTHONPATH": str(ROOT)},
            file_actions=[(os.POSIX_SPAWN_DUP2, log.fileno(), 1), (os.POSIX_SPAWN_DUP2, log.fileno(), 2)],
            setsid=True,
        )

    def settled() -> bool:
        return address.exists() or bool(os.waitpid(pid, os.WNOHANG)[0])

    until(settled, within_s=START_S + FETCH_S)
    if not address.exists():
        pytest.fail(f"the Kafka broker does not start: {log_path.read_text()[-3000:]}")


def keep(folder: Path) -> None:
    """Runs the shared broker until nobody uses it."""
    broker = Broker(folder / "broker")
    address = folder / "address"
    try:
        broker.start()
        made = folder / "address.new"
        made.write_text(broker.bootstrap)
        made.rename(address)
        with (folder / "users").open("w") as users:
            fcntl.flock(users, fcntl.LOCK_EX)
            address.unlink()
            broker.close()
    finally:
        broker.close()


if __name__ == "__main__":
    keep(Path(sys.argv[1]))
