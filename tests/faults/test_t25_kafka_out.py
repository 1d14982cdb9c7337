"""T25, outwards: the broker is away under load, and nodes are killed.

Every accepted task arrives; what comes twice has the same id, and is no more than what was in flight.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from confluent_kafka import Consumer

from scripts.kafka_broker import Broker
from tests.faults.harness.scale import scaled
from tests.kafka import Kafka
from tests.nodes import Node
from tests.servers import RealServer

pytestmark = [pytest.mark.faults, pytest.mark.kafka, pytest.mark.timeout(scaled(180, 900))]

AWAY_S = scaled(4.0, 60.0)
KILLS = scaled(2, 10)
BATCH = 50


class Load:
    """Posts batches one after the other, to any node that answers, until stopped. ``accepted``: the ids so far."""

    def __init__(self, ports: Callable[[], list[Node]], prefix: str) -> None:
        self.accepted: list[str] = []
        self._nodes = ports
        self._prefix = prefix
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> set[str]:
        self._stop.set()
        self._thread.join()
        return set(self.accepted)

    def _run(self) -> None:
        for n in itertools.count():
            if self._stop.wait(0.05):
                return
            # Sent again with the same keys until a node says that it has them: an answer may be lost with its node.
            keys = [f"{self._prefix}-{n}-{i}" for i in range(BATCH)]
            tasks = [
                {"type": "pub_sub", "payload": key, "delay": i * 10, "idempotency_key": key}
                for i, key in enumerate(keys)
            ]
            while not self._stop.is_set():
                try:
                    node = self._nodes()[n % len(self._nodes())]
                    status, _, answer = node.call("POST", "/v1/tasks/batch", {"tasks": tasks})
                except (OSError, IndexError, ValueError):
                    continue
                if status < 300:
                    self.accepted += [item["id"] for item in answer["items"]]
                    break
                assert status in (429, 503), answer


def arrivals(consumer: Consumer, wanted: set[str], *, quiet_s: float, timeout_s: float) -> Counter[str]:
    """How often each id came, until all wanted ones did and nothing more comes for ``quiet_s``."""
    came: Counter[str] = Counter()
    deadline, last = time.monotonic() + timeout_s, time.monotonic()
    while time.monotonic() - last < quiet_s or wanted - came.keys():
        assert time.monotonic() < deadline, f"{len(wanted - came.keys())} of {len(wanted)} tasks never came"
        for message in consumer.consume(500, 0.2):
            if message.error() is None:
                came[(message.key() or b"").decode()] += 1
                last = time.monotonic()
    return came


def arguments(server: RealServer, prefix: str, broker: Broker, topic: str, *more: str) -> list[str]:
    settings = [f"storage.prefix={prefix}", "kafka.enabled=true", f"kafka.brokers={broker.bootstrap}"]
    settings += [
        f"kafka.taskExecutionTopic={topic}",
        f"kafka.schedulerTopic={topic}-in",
        "kafka.deliveryTimeout=2s",
        *more,
    ]
    words = [word for one in settings for word in ("--set", one)]
    return ["--redis", server.url, "--http-port", "0", "--grpc-port", "0", *words]


def resident_mib(node: Node) -> float:
    for line in Path(f"/proc/{node.process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no VmRSS")


def test_the_broker_is_away_under_load(
    tmp_path: Path, server: RealServer, prefix: str, make_kafka: Callable[..., Broker]
):
    broker = make_kafka()
    kafka = Kafka(broker.bootstrap)
    topic = kafka.topic()
    kafka.topic(name=f"{topic}-in")
    node = Node(*arguments(server, prefix, broker, topic), folder=tmp_path)
    try:
        node.ready()
        load = Load(lambda: [node], prefix)
        while not load.accepted:
            time.sleep(0.05)
        before_mib = resident_mib(node)
        broker.kill()
        node.wait_for("tasks for it wait")
        time.sleep(AWAY_S)
        assert node.call("GET", "/readyz")[2].startswith(b"ready; but PUB_SUB tasks wait")
        grown_mib = resident_mib(node) - before_mib
        broker.start()
        node.wait_for("Kafka at .* answers after")
        wanted = load.stop()
        with kafka.consumer(topic) as consumer:
            came = arrivals(consumer, wanted, quiet_s=2.5, timeout_s=60 + AWAY_S)
        late = [n for n in came.values() if n > 1]
        # What was under way when the broker was killed may have been written all the same.
        assert len(late) <= 8_000
        assert set(came) <= wanted
        assert grown_mib < 64, f"the node grew by {grown_mib:.0f} MiB while tasks waited in the store"
        assert node.call("GET", "/v1/dead")[2]["tasks"] == []
        assert node.call("GET", "/readyz")[2] == b"ready"
        print(f"T25 away={AWAY_S:.0f}s acked={len(wanted)} lost=0 dups={len(late)} grown={grown_mib:.1f}MiB")
    finally:
        node.stop()


@contextmanager
def pair(start: Callable[[], Node]) -> Iterator[list[Node]]:
    nodes = [start(), start()]
    try:
        for node in nodes:
            node.ready()
        yield nodes
    finally:
        for node in nodes:
            node.stop()


def test_nodes_are_killed_under_load(
    tmp_path: Path, server: RealServer, prefix: str, make_kafka: Callable[..., Broker]
):
    broker = make_kafka()
    kafka = Kafka(broker.bootstrap)
    topic = kafka.topic()
    kafka.topic(name=f"{topic}-in")
    lease = ("lease=2s", "heartbeat=500ms")

    def start() -> Node:
        return Node(*arguments(server, prefix, broker, topic, *lease), folder=tmp_path)

    with pair(start) as nodes:
        load = Load(lambda: list(nodes), prefix)
        for kill in range(KILLS):
            seen = len(load.accepted)
            while len(load.accepted) < seen + 4 * BATCH:
                time.sleep(0.05)
            nodes[kill % 2].process.kill()
            nodes[kill % 2].process.wait()
            nodes[kill % 2] = start().ready()
        wanted = load.stop()
        with kafka.consumer(topic) as consumer:
            came = arrivals(consumer, wanted, quiet_s=4.0, timeout_s=90)
    dups = sum(n - 1 for n in came.values())
    assert set(came) <= wanted
    # A claim of each partition at most is what a killed node had sent and not acked.
    assert dups <= KILLS * 16 * BATCH
    print(f"T25 kills={KILLS} acked={len(wanted)} lost=0 dups={dups}")
