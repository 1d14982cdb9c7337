"""T25, outwards: the broker is away under load, and nodes are killed.

Every accepted task arrives; what comes twice has the same id, and is no more than what was in flight. What waited for
the broker comes by priority, and what falls due afterwards is on time again.
"""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import pytest
from confluent_kafka import Consumer

from scripts.kafka_broker import Broker
from tests.faults.harness.scale import scaled
from tests.kafka import Kafka, take
from tests.nodes import Node
from tests.servers import RealServer
from tests.waiting import PATIENCE_S

pytestmark = [pytest.mark.faults, pytest.mark.kafka, pytest.mark.timeout(scaled(300, 900))]

AWAY_S = scaled(2.5, 30.0)
KILLS = scaled(2, 8)
ATTEMPTS = 3
BATCH = 50
PRIORITIES = ("critical", "high", "normal", "low")


class Load:
    """Posts batches of all priorities one after the other, to any node that answers, until stopped.

    ``accepted``: the ids so far; ``priority``: of each.
    """

    def __init__(self, ports: Callable[[], list[Node]], prefix: str) -> None:
        self.accepted: list[str] = []
        self._more = threading.Condition()
        self.priority: dict[str, str] = {}
        self._nodes = ports
        self._prefix = prefix
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def until(self, count: int) -> None:
        """Returns when so many are accepted."""
        with self._more:
            assert self._more.wait_for(lambda: len(self.accepted) >= count, PATIENCE_S), f"only {len(self.accepted)}"

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
                {
                    "type": "pub_sub",
                    "payload": key,
                    "delay": i * 10,
                    "idempotency_key": key,
                    "priority": PRIORITIES[i % 4],
                }
                for i, key in enumerate(keys)
            ]
            while not self._stop.is_set():
                try:
                    node = self._nodes()[n % len(self._nodes())]
                    status, _, answer = node.call("POST", "/v1/tasks/batch", {"tasks": tasks})
                except (OSError, IndexError, ValueError):
                    continue
                if status < 300:
                    ids = [item["id"] for item in answer["items"]]
                    self.priority |= {task: PRIORITIES[i % 4] for i, task in enumerate(ids)}
                    with self._more:
                        self.accepted += ids
                        self._more.notify_all()
                    break
                assert status in (429, 503), answer


class Arrivals:
    """How often each id came, and when (Unix ms) it was first sent, by the messages' timestamps."""

    def __init__(self, consumer: Consumer) -> None:
        self.came: Counter[str] = Counter()
        self.sent_ms: dict[str, int] = {}
        self._consumer = consumer

    def until(self, wanted: set[str], *, quiet_s: float, timeout_s: float) -> None:
        """Returns when all wanted ones came and nothing more comes for ``quiet_s``."""
        deadline, last = time.monotonic() + timeout_s, time.monotonic()
        while time.monotonic() - last < quiet_s or wanted - self.came.keys():
            missing = wanted - self.came.keys()
            assert time.monotonic() < deadline, f"{len(missing)} of {len(wanted)} tasks never came"
            for message in self._consumer.consume(500, 0.2):
                if message.error() is None:
                    task = (message.key() or b"").decode()
                    self.came[task] += 1
                    self.sent_ms.setdefault(task, message.timestamp()[1])
                    last = time.monotonic()

    def late_p99(self, tasks: Iterable[str]) -> int:
        """How late 99 % of them were sent at most, in ms."""
        late = sorted(self.sent_ms[task] - due_ms(task) for task in tasks)
        return late[len(late) * 99 // 100]


def due_ms(task: str) -> int:
    """The due time in an id."""
    return int(task[:8] + task[9:13], 16)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def arguments(server: RealServer, prefix: str, broker: Broker | Kafka, topic: str, *more: str) -> list[str]:
    settings = [f"storage.prefix={prefix}", "kafka.enabled=true", f"kafka.brokers={broker.bootstrap}"]
    settings += [
        f"kafka.taskExecutionTopic={topic}",
        f"kafka.schedulerTopic={topic}-in",
        "grpcServer.enabled=false",
        "kafka.deliveryTimeout=2s",
        *more,
    ]
    words = [word for one in settings for word in ("--set", one)]
    return ["--redis", server.url, "--http-port", "0", *words]


def resident_mib(node: Node) -> float:
    for line in Path(f"/proc/{node.process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no VmRSS")


def test_the_broker_is_away_under_load(
    tmp_path: Path, server: RealServer, prefix: str, make_kafka: Callable[..., Broker]
):
    # It may not come back before its session has ended, so that enough waits for it to be put in an order.
    broker = make_kafka(settings={"broker.session.timeout.ms": "9000"})
    kafka = Kafka(broker.bootstrap)
    topic = kafka.topic()
    kafka.topic(name=f"{topic}-in")
    node = Node(*arguments(server, prefix, broker, topic), folder=tmp_path)
    try:
        node.ready()
        load = Load(lambda: [node], prefix)
        load.until(1_000)
        before_mib, killed_ms = resident_mib(node), now_ms()
        broker.kill()
        node.wait_for("tasks for it wait")
        time.sleep(AWAY_S)
        assert node.call("GET", "/readyz")[2].startswith(b"ready; but PUB_SUB tasks wait")
        grown_mib, back_ms = resident_mib(node) - before_mib, now_ms()
        broker.start()
        node.wait_for("Kafka at .* answers after")
        wanted = load.stop()
        with kafka.consumer(topic) as consumer:
            arrivals = Arrivals(consumer)
            arrivals.until(wanted, quiet_s=scaled(1.5, 2.5), timeout_s=60 + AWAY_S)
            first = arrivals.late_p99(t for t in wanted if due_ms(t) < killed_ms - 1_000)
            fresh = set[str]()
            # Of a second or a minute of outage, nothing is left. While this machine stands still for a moment nothing
            # is sent, so one try may have bad luck.
            for attempt in range(ATTEMPTS):
                again = Load(lambda: [node], f"{prefix}-again-{attempt}")
                again.until(1_000)
                now = again.stop()
                fresh |= now
                arrivals.until(wanted | fresh, quiet_s=scaled(1.5, 2.5), timeout_s=60)
                after = arrivals.late_p99(now)
                if after <= 3 * first + 250:
                    break
        came = arrivals.came
        late = [n for n in came.values() if n > 1]
        # What was under way when the broker was killed may have been written all the same.
        assert len(late) <= 8_000
        assert set(came) <= wanted | fresh
        waited = [t for t in wanted if killed_ms < due_ms(t) < back_ms and arrivals.sent_ms[t] > back_ms]
        turn = [
            int(median(arrivals.sent_ms[t] for t in waited if load.priority[t] == priority)) - back_ms
            for priority in PRIORITIES
        ]
        # A claim takes what is due in a partition, all priorities together, so the order over all is one of medians.
        assert turn[0] == min(turn) and turn[-1] == max(turn) and turn[1] <= turn[2] + 100, (
            f"sent so many ms after the broker came back, by priority: {turn}"
        )
        assert after <= 3 * first + 250, f"p99 was {first} ms before the broker went away, and is {after} ms afterwards"
        assert grown_mib < 64, f"the node grew by {grown_mib:.0f} MiB while tasks waited in the store"
        assert node.call("GET", "/v1/dead")[2]["tasks"] == []
        assert node.call("GET", "/readyz")[2] == b"ready"
        print(
            f"T25 away={AWAY_S:.0f}s acked={len(wanted)} lost=0 dups={len(late)} grown={grown_mib:.1f}MiB "
            f"waited={len(waited)} sent after, by priority={turn}ms p99 before={first}ms after={after}ms"
        )
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


def test_nodes_are_killed_under_load(tmp_path: Path, server: RealServer, prefix: str, kafka: Kafka):
    topic = kafka.topic()
    kafka.topic(name=f"{topic}-in")
    lease = ("lease=2s", "heartbeat=500ms")

    def start() -> Node:
        return Node(*arguments(server, prefix, kafka, topic, *lease), folder=tmp_path)

    with pair(start) as nodes:
        load = Load(lambda: list(nodes), prefix)
        for kill in range(KILLS):
            load.until(len(load.accepted) + 4 * BATCH)
            nodes[kill % 2].process.kill()
            nodes[kill % 2].process.wait()
            nodes[kill % 2] = start().ready()
        wanted = load.stop()
        with kafka.consumer(topic) as consumer:
            arrivals = Arrivals(consumer)
            arrivals.until(wanted, quiet_s=scaled(2.0, 4.0), timeout_s=90)
    came = arrivals.came
    dups = sum(n - 1 for n in came.values())
    assert set(came) <= wanted
    # A claim of each partition at most is what a killed node had sent and not acked.
    assert dups <= KILLS * 16 * BATCH
    print(f"T25 kills={KILLS} acked={len(wanted)} lost=0 dups={dups}")


@pytest.mark.slow
def test_events_wait_for_a_broker_that_is_killed(
    tmp_path: Path, server: RealServer, prefix: str, make_kafka: Callable[..., Broker]
):
    """The topic of events: within the feed's bounds nothing is lost, and what comes twice has the same id."""
    broker = make_kafka()
    kafka = Kafka(broker.bootstrap)
    topic, events = kafka.topic(), kafka.topic(3)
    kafka.topic(name=f"{topic}-in")
    node = Node(*arguments(server, prefix, broker, topic, f"events.kafkaTopic={events}"), folder=tmp_path)

    def submit(count: int) -> list[str]:
        status, _, answer = node.call("POST", "/v1/tasks/batch", {"tasks": [{"payload": "x", "delay": "1h"}] * count})
        assert status < 300, answer
        return [item["id"] for item in answer["items"]]

    try:
        node.ready()
        node.wait_for(f"events go to topic {events} of Kafka, from position")
        ids = submit(20)
        with kafka.consumer(events) as consumer:
            came = take(consumer, 20)
            broker.kill()
            for _ in range(4):
                ids += submit(500)
            node.wait_for(f"events for topic {events} of Kafka wait in the feed")
            ids += submit(100)
            broker.start()
            wanted = set(ids)
            give_up = time.monotonic() + 60
            while wanted - {json.loads(m.value() or b"")["subject"] for m in came}:
                assert time.monotonic() < give_up, f"{len(came)} of {len(ids)} events came"
                came += [m for m in consumer.consume(500, 0.2) if m.error() is None]
        found = {event["id"]: event["subject"] for m in came if (event := json.loads(m.value() or b""))}
        assert Counter(found.values()) == Counter(ids)
        print(f"T25 events={len(ids)} lost=0 dups={len(came) - len(found)}")
    finally:
        node.stop()
