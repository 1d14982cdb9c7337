"""The feed of events on a topic of a real broker."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Message
from redis.asyncio import Redis

from delaybox.core.events import EventRules
from delaybox.core.task import NewTask, Submitted
from delaybox.service import Service
from delaybox.store import events as feed
from delaybox.store.servers import Servers
from delaybox.store.store import Store
from delaybox.targets.event_mover import EventMover
from delaybox.targets.kafka_events import EventTopic
from delaybox.targets.kafka_link import KafkaLink
from delaybox.targets.kafka_settings import KafkaSettings
from tests.kafka import Kafka, take
from tests.nodes import node
from tests.servers import RealServer

pytestmark = pytest.mark.kafka

CONFIG = """
frequency: 1000
httpServer: {{port: 0}}
grpcServer: {{enabled: false}}
roles: [api, clock]
kafka: {{enabled: true, brokers: "{brokers}", group: "g-{out}", schedulerTopic: "{topic}", taskExecutionTopic: "{out}"}}
events: {{kafkaTopic: "{events}"}}
"""


def shown(messages: Sequence[Message]) -> list[dict[str, Any]]:
    found = []
    for message in messages:
        event = json.loads(message.value() or b"")
        assert dict(message.headers() or []) == {"content-type": b"application/cloudevents+json"}
        assert (message.key() or b"").decode() == event["subject"]
        found.append(event)
    return found


async def test_a_killed_node_loses_no_event(
    tmp_path: Path, kafka: Kafka, server: RealServer, client: Redis, prefix: str
) -> None:
    topics = {"topic": kafka.topic(1), "out": kafka.topic(1), "events": kafka.topic(3)}
    (tmp_path / "config").mkdir()
    text = CONFIG.format(brokers=kafka.bootstrap, **topics)
    storage = {"redisUrl": server.url, "prefix": prefix}
    (tmp_path / "config" / "config.yaml").write_text(text + f"storage: {json.dumps(storage)}\n")

    async def submit(service: Service, count: int) -> list[str]:
        answers = await service.submit_many([NewTask(delay_ms=600_000, labels={"a": "b"}) for _ in range(count)])
        return [a.task_id for a in answers if isinstance(a, Submitted)]

    with node(folder=tmp_path) as first:
        first.wait_for("from position")
        store = await Store.open(Servers(client), prefix=prefix)
        service = Service(store, events=EventRules())
        store.events.wanted = True
        ids = await submit(service, 20)
        await store.events.flush()
        events = shown(kafka.read(topics["events"], 20))
        assert sorted(e["subject"] for e in events) == sorted(ids)
        assert {e["type"] for e in events} == {"io.delaybox.task.scheduled"}
        assert events[0]["data"]["labels"] == {"a": "b"}
        os.kill(first.process.pid, signal.SIGKILL)
        first.process.wait()
    # While no node is there.
    later = await submit(service, 500)
    await service.close()
    await store.events.close()
    with node(folder=tmp_path) as second:
        second.wait_for("from position")
        # What the first had sent, and not written down as sent when it was killed, comes a second time.
        by_id: dict[str, str] = {}
        with kafka.consumer(topics["events"]) as consumer:
            while len(by_id) < 520:
                by_id |= {event["id"]: event["subject"] for event in shown(take(consumer, 1))}
        assert sorted(by_id.values()) == sorted(ids + later)
        second.until(lambda: b'events_to_topic_total{outcome="sent"}' in second.call("GET", "/metrics")[2])


async def test_what_the_feed_dropped_is_reported_and_one_of_two_sends(kafka: Kafka, client: Redis, prefix: str) -> None:
    store = await Store.open(Servers(client), prefix=prefix, partitions=2)
    tag = store.tags[0]
    service = Service(store, events=EventRules(entries=1_000, always=True))
    # The brokers were away for longer than the feed reaches back.
    await feed.keep_position(store.servers, tag, "topic", "1-0.1")
    for _ in range(4):
        await service.submit_many([NewTask(delay_ms=600_000) for _ in range(500)])
        await store.events.flush()
    assert await feed.take_place(store.servers, tag, "topic", "another", 600_000)
    topic = kafka.topic(1)
    link = KafkaLink(
        KafkaSettings(brokers=(kafka.bootstrap,)),
        topic=topic,
        compression="lz4",
        linger_ms=2,
        delivery_timeout_ms=10_000,
        max_message_bytes=1 << 20,
    )
    await link.start(30.0)
    sender = EventMover(store, EventTopic(link, topic=topic, source="/delaybox"), member="this")
    assert not await feed.take_place(store.servers, tag, "topic", "this", 3_000)
    await feed.give_place(store.servers, tag, "topic", "this")
    assert not await feed.take_place(store.servers, tag, "topic", "this", 3_000)
    await feed.give_place(store.servers, tag, "topic", "another")
    sender.start()
    first, second = await asyncio.to_thread(kafka.read, topic, 2)
    assert json.loads(first.value() or b"")["type"] == "io.delaybox.events.missed" and first.key() is None
    assert json.loads(second.value() or b"")["type"] == "io.delaybox.task.scheduled"
    await sender.stop()
    # A stop gives the place back at once.
    assert await feed.take_place(store.servers, tag, "topic", "another", 3_000)
    await link.stop()
    await service.close()
