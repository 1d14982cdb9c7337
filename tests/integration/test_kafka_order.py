"""Messages of one Kafka key leave a fleet in the order in which they are due."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from redis.asyncio import Redis

from delaybox.core.task import NewTask, Submitted, TaskType
from delaybox.service import Service
from delaybox.store.servers import Servers
from delaybox.store.store import Store
from delaybox.targets.kafka import KafkaTarget
from delaybox.targets.kafka_settings import KafkaSettings
from delaybox.wire.topics import TopicRules
from tests.engines import running, until
from tests.kafka import Kafka

pytestmark = pytest.mark.kafka

MEMBERS, PARTITIONS, KEYS, EACH = 3, 8, 8, 60


async def test_messages_of_one_key_leave_a_fleet_of_three_in_order(client: Redis, prefix: str, kafka: Kafka):
    topic = kafka.topic(3)
    rules = TopicRules(default=topic)
    store = await Store.open(Servers(client), prefix=prefix, partitions=PARTITIONS)
    async with contextlib.AsyncExitStack() as stack:
        fleet = []
        for n in range(MEMBERS):
            target = KafkaTarget(KafkaSettings(brokers=(kafka.bootstrap,)), rules, value="payload")
            await target.start()
            stack.push_async_callback(target.stop)
            options = {"node": f"n{n}", "kind": "clock", "roles": ("clock",), "channel": ""}
            engine = running(store, {TaskType.PUB_SUB: target}, node_id=f"n{n}", **options)
            fleet.append(await stack.enter_async_context(engine))
        await until(lambda: sorted(p for one in fleet for p in one._ownership.kept) == list(range(PARTITIONS)))
        start = await store.ping() + 500
        # A task of each key falls due every 4 ms, so most claims have one of a few keys.
        tasks = [
            NewTask(payload=b"%d %04d" % (key, n), due_ms=start + 4 * n, header={"kafkaKey": b"key%d" % key})
            for n in range(EACH)
            for key in range(KEYS)
        ]
        for answer in await Service(store, topics=rules).submit_many(tasks):
            assert isinstance(answer, Submitted), answer
        messages = await asyncio.to_thread(kafka.read, topic, len(tasks))
    by_key: dict[bytes | None, list[bytes]] = {}
    for message in messages:
        value = message.value() or b""
        by_key.setdefault(value.split()[0], []).append(value)
    assert {key: len(values) for key, values in by_key.items()} == {b"%d" % k: EACH for k in range(KEYS)}
    for values in by_key.values():
        assert values == sorted(values)
