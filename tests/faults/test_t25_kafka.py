"""T25: from topic to topic by stock clients, while nodes are killed, the broker is restarted, and a stranger joins and
leaves the nodes' group."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from delaybox.store.fsck import fsck
from scripts.kafka_broker import Broker
from tests.faults.harness.oracle import OK, Call, Start, now_us
from tests.faults.harness.rig import Rig
from tests.faults.harness.scale import FULL, SEED, scaled
from tests.kafka import Kafka
from tests.nodes import Node
from tests.proc import children_of, lives
from tests.waiting import PATIENCE_S, until_async

pytestmark = [pytest.mark.faults, pytest.mark.kafka, pytest.mark.timeout(scaled(240, 1_800))]

PARTITIONS = 6
COUNT = scaled(3_000, 60_000)
SECONDS = scaled(8, 72)
# Short runs share two cores with other tests: there a node takes longer to start than to be killed again.
EVERY_S = scaled(4.0, 2.0)
STRANGER_S = 5.0
"""Between two visits of the stranger: each of them is two rebalances."""
GROUP = "t25"
DRAIN_S = scaled(120, 300)


class Clients:
    """A stock producer and a stock consumer, each in its thread, and what they saw."""

    def __init__(self, kafka: Kafka, topic: str, out: str) -> None:
        self._kafka, self._topic, self._out = kafka, topic, out
        self._random = random.Random(SEED)
        self.due: dict[str, int] = {}
        self.sent: dict[str, int] = {}
        self.acked: dict[str, int] = {}
        self.seen: list[tuple[str, str, int]] = []
        """Task id, key and broker's moment (ms) of each message."""
        self.keys: set[str] = set()
        self.read_to: dict[int, int] = defaultdict(int)
        self.visits = 0
        """How often the stranger was given partitions."""
        self.stop = threading.Event()
        self.enough = threading.Event()
        """The stranger comes no more."""

    def produce(self) -> None:
        producer = Producer({"bootstrap.servers": self._kafka.bootstrap, "acks": "all", "enable.idempotence": True})
        started = time.monotonic()
        for n in range(COUNT):
            while n / COUNT * SECONDS > time.monotonic() - started:
                producer.poll(0.01)
            key = f"r{n}"
            due = time.time_ns() // 1_000_000 + self._random.randrange(3_000)
            self.due[key], self.sent[key] = due, now_us()

            def acked(error: object, _: object, key: str = key) -> None:
                assert error is None, error
                self.acked[key] = now_us()

            producer.produce(
                self._topic, key.encode(), partition=n % PARTITIONS, headers={"executionTimestamp": str(due)},
                on_delivery=acked,
            )  # fmt: skip
        assert producer.flush(120) == 0

    def consume(self) -> None:
        consumer = Consumer(
            {"bootstrap.servers": self._kafka.bootstrap, "group.id": "stock", "enable.auto.commit": False}
        )
        consumer.assign([TopicPartition(self._out, p, 0) for p in range(PARTITIONS)])
        while not self.stop.is_set():
            for message in consumer.consume(500, 0.2):
                if message.error() is not None:
                    continue
                headers: dict[str, Any] = dict(message.headers() or [])
                key = _payload(message.value() or b"")
                self.seen.append((headers["delaybox-task-id"].decode(), key, message.timestamp()[1]))
                self.keys.add(key)
                self.read_to[message.partition() or 0] = (message.offset() or 0) + 1
        consumer.close()

    def disturb(self) -> None:
        """Joins the nodes' group again and again until it is given partitions, reads from them, commits nothing, and
        leaves."""
        while not self.enough.is_set():
            got = threading.Event()
            consumer = Consumer(
                {
                    "bootstrap.servers": self._kafka.bootstrap,
                    "group.id": GROUP,
                    "enable.auto.commit": False,
                    "session.timeout.ms": 6_000,
                    "partition.assignment.strategy": "range,roundrobin",
                }
            )

            def given(_: object, some: list[TopicPartition], got: threading.Event = got) -> None:
                if some:
                    got.set()

            consumer.subscribe([self._topic], on_assign=given)
            while not got.is_set() and not self.enough.is_set():
                consumer.poll(0.1)
            consumer.close()
            self.visits += got.is_set()
            self.enough.wait(STRANGER_S)

    def at_end(self) -> bool:
        """Whether every message of the out topic was read."""
        consumer = Consumer({"bootstrap.servers": self._kafka.bootstrap, "group.id": "look"})
        try:
            return all(
                self.read_to[p] == consumer.get_watermark_offsets(TopicPartition(self._out, p), timeout=PATIENCE_S)[1]
                for p in range(PARTITIONS)
            )
        finally:
            consumer.close()


def _payload(value: bytes) -> str:
    from delaybox.wire.gen.task_pb2 import Task

    return Task.FromString(value).payload.decode()


async def gone(processes: list[int]) -> None:
    await until(lambda: not any(map(lives, processes)), "a killed node's children are gone")


async def until(true: Callable[[], bool], what: str) -> None:
    await until_async(lambda: asyncio.to_thread(true), lambda: f"{what}: not within {DRAIN_S} s", within_s=DRAIN_S)


async def test_killed_nodes_and_a_restarted_broker_lose_and_double_nothing(
    tmp_path: Path, make_kafka: Callable[..., Broker]
) -> None:
    broker = await asyncio.to_thread(make_kafka)
    kafka = Kafka(broker.bootstrap)
    topic, out = kafka.topic(PARTITIONS), kafka.topic(PARTITIONS)
    async with Rig(tmp_path, "T25") as rig:
        store = await rig.store()

        def start(name: str) -> Node:
            folder = tmp_path / name
            folder.mkdir(exist_ok=True)
            settings = {
                "kafka.enabled": "true", "kafka.brokers": broker.bootstrap, "kafka.group": GROUP,
                "kafka.instance": name,
                "kafka.schedulerTopic": topic, "kafka.taskExecutionTopic": out, "grpcServer.enabled": "false",
                "lease": "3s", "heartbeat": "1s",
            }  # fmt: skip
            given = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
            return Node("--redis", rig.server.url, "--http-port", "0", *given, folder=folder)

        nodes = {name: start(name) for name in ("a", "b")}
        clients = Clients(kafka, topic, out)
        at_stake = 0

        @contextlib.asynccontextmanager
        async def counting() -> AsyncIterator[None]:
            """Adds the most that was leased at one moment of a fault: what may be on its way twice. The last look comes
            when it is over: until its parent is gone a child goes on, and what it leased then stays leased."""
            nonlocal at_stake
            most, over = 0, asyncio.Event()

            async def look() -> None:
                nonlocal most
                last = False
                while not last:
                    last = over.is_set()
                    most = max(most, sum(c.in_flight for c in await store.counts()))
                    await asyncio.sleep(0.005)

            looking = asyncio.create_task(look())
            try:
                yield
            finally:
                over.set()
                await looking
                at_stake += most

        try:
            for running in nodes.values():
                await asyncio.to_thread(running.ready)
            reading = asyncio.create_task(asyncio.to_thread(clients.consume))
            if FULL:  # A short run takes less time than a rebalance whose members die.
                disturbing = asyncio.create_task(asyncio.to_thread(clients.disturb))
            producing = asyncio.create_task(asyncio.to_thread(clients.produce))
            for turn, name in enumerate(itertools.cycle("ab")):
                await asyncio.wait({producing}, timeout=EVERY_S)
                if producing.done():
                    break
                async with counting(), rig.nemesis.during("kill", pid=nodes[name].process.pid):
                    # A claim of a child may be on its way while its parent is gone already.
                    members = children_of(nodes[name].process.pid)
                    nodes[name].process.kill()
                    await asyncio.to_thread(nodes[name].process.wait)
                    await gone(members)
                nodes[name] = start(name)
                if turn == 1:
                    async with counting(), rig.nemesis.during("broker"):
                        await asyncio.to_thread(broker.kill)
                        await asyncio.to_thread(broker.start)
            await producing
            if FULL:
                await until(lambda: clients.visits > 0, "the stranger is given partitions")
                clients.enough.set()
                await disturbing
            await until(lambda: len(clients.keys) >= COUNT, f"{COUNT} records come out")
            await rig.settled(timeout_s=DRAIN_S)
            await until(clients.at_end, "the out topic is read to its end")
            clients.stop.set()
            await reading
        except BaseException:
            for running in nodes.values():
                print(running.output()[-4_000:])
            print(f"{len(clients.acked)} acked, {len(clients.keys)} came out, {await store.counts()}")
            raise
        finally:
            clients.enough.set()
            clients.stop.set()
            for running in nodes.values():
                running.stop()

        judge(rig, clients)
        ids = Counter(task_id for task_id, _, _ in clients.seen)
        dups = sum(ids.values()) - len(ids)
        extra = {"records": COUNT, "dups_on_topic": dups, "at_stake": at_stake, "rebalances": 2 * clients.visits}
        verdict = await rig.passes(extra=extra)
        assert verdict.figures["acked"] == COUNT
        assert dups <= at_stake, "more was sent twice than was in flight when something died"
        assert (await fsck(store)).problems == []


def judge(rig: Rig, clients: Clients) -> None:
    """Gives the checker what the clients saw. A message sent twice has one id: it is counted apart."""
    first: dict[str, str] = {}
    once: set[str] = set()
    for task_id, key, at_ms in clients.seen:
        first.setdefault(key, task_id)
        if task_id not in once:
            once.add(task_id)
            rig.writer.write(Start(task_id, key, 0, 0, 0, at_ms * 1_000 + 999))
    for key, at_us in clients.acked.items():
        rig.writer.write(Call("schedule", key, first.get(key, ""), clients.due[key], OK, clients.sent[key], at_us))


async def test_the_checker_sees_a_lost_record_and_one_scheduled_twice(tmp_path: Path) -> None:
    """The negative control: without it a clean run proves nothing."""
    async with Rig(tmp_path, "T25-control") as rig:
        clients = Clients(Kafka("nowhere"), "in", "out")
        for n in range(4):
            clients.due[f"r{n}"], clients.sent[f"r{n}"], clients.acked[f"r{n}"] = 1_000, 1, 2
        clients.seen = [("id0", "r0", 1_001), ("id1", "r1", 1_001), ("id1", "r1", 1_002), ("other", "r1", 1_003),
                        ("id2", "r2", 900)]  # fmt: skip
        judge(rig, clients)
        verdict = await rig.judge()
    assert verdict.broken() == {"I1", "I2", "I3"}
    assert (verdict.figures["lost"], verdict.figures["dup_sched"], verdict.figures["early"]) == (1, 1, 1)
