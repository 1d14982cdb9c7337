"""Records of a real broker become tasks, each once, whatever happens to those who read them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient
from redis.asyncio import Redis

from delaybox import metrics
from delaybox.api.kafka import partitions
from delaybox.api.kafka.intake import KafkaIntake
from delaybox.api.kafka.settings import IntakeSettings
from delaybox.core import ids
from delaybox.core.errors import DelayBoxError, PartAway
from delaybox.core.query import TaskQuery
from delaybox.core.task import TaskView
from delaybox.service import RecordService, Service
from delaybox.store import keys
from delaybox.store.connect import make_client
from delaybox.store.fsck import fsck
from delaybox.store.kafka import Ingested, Span, Stream
from delaybox.store.servers import Servers
from delaybox.store.store import Store
from delaybox.targets.kafka_settings import KafkaSettings
from delaybox.wire.gen import task_pb2
from tests.kafka import Kafka, headers_of, numbered
from tests.servers import RealServer
from tests.waiting import PATIENCE_S, until_async

pytestmark = pytest.mark.kafka

FAR = str(time.time_ns() // 1_000_000 + 86_400_000)
QUICK = {"topic.metadata.refresh.interval.ms": "200"}
LATER = {"executionTimestamp": FAR}


class Bench:
    """A store, a topic, and those who read it."""

    def __init__(self, kafka: Kafka, store: Store, topic: str) -> None:
        self.kafka, self.store, self.topic = kafka, store, topic
        self.service = Service(store)
        self.records = RecordService(store)
        self.group = f"g-{topic}"
        self.troubles: list[str] = []
        self.admin = AdminClient({"bootstrap.servers": kafka.bootstrap})

    def settings(self, **changes: Any) -> IntakeSettings:
        given: dict[str, Any] = {
            "kafka": KafkaSettings(brokers=(self.kafka.bootstrap,)),
            "sources": (self.topic,),
            "group": self.group,
            "prefix": self.store.prefix,
        }
        return IntakeSettings(**given | changes)

    @contextlib.asynccontextmanager
    async def reading(self, **changes: Any) -> AsyncIterator[KafkaIntake]:
        """Reads as long as the block lasts, and stops cleanly."""
        intake = KafkaIntake(self.settings(**changes), self.records, self._receive)
        running = asyncio.create_task(intake.run())
        try:
            yield intake
        finally:
            intake.stop()
            await running

    def _receive(self, troubles: list[str]) -> None:
        self.troubles = troubles

    async def put(
        self, *values: bytes, headers: Mapping[str, str] | None = None, topic: str = "", partitions: int = 0
    ) -> None:
        where = topic or self.topic
        await asyncio.to_thread(self.kafka.produce, where, values, headers=headers or LATER, partitions=partitions)

    async def until(self, true: Callable[[], Any], what: str) -> None:
        await until_async(true, lambda: f"{what}: it never came; {self.troubles}")

    async def pending(self) -> int:
        return sum(c.pending for c in await self.store.counts())

    async def has(self, count: int) -> list[TaskView]:
        """All tasks, once there are so many."""
        await self.until(lambda: self._are(count), f"{count} tasks")
        return await self.tasks()

    async def _are(self, count: int) -> bool:
        return await self.pending() >= count

    async def tasks(self) -> list[TaskView]:
        found: list[TaskView] = []
        cursor = ""
        while True:
            page = await self.service.list_tasks(TaskQuery(), cursor=cursor, limit=1_000)
            found += page.items
            if not (cursor := page.cursor):
                return found

    def stream(self, partition: int = 0) -> Stream:
        described = self.admin.describe_topics(TopicCollection([self.topic]))
        return Stream(str(described[self.topic].result(PATIENCE_S).topic_id), partition)

    async def mark(self, offset: int | None = None, partition: int = 0) -> int | None:
        """The watermark; with ``offset`` it is put there first."""
        stream = await asyncio.to_thread(self.stream, partition)
        if offset is not None:
            key = keys.kafka(self.store.tags[stream.home(self.store.partitions)])
            await self.store.servers.ask("HSET", key, stream.field, offset)
        return (await self.records.watermarks([stream]))[0]


def once_each(tasks: Sequence[TaskView], count: int) -> None:
    assert Counter(int(t.payload) for t in tasks) == Counter(range(count))


@pytest.fixture
async def bench(kafka: Kafka, client: Redis, prefix: str) -> AsyncIterator[Bench]:
    store = await Store.open(Servers(client), prefix=prefix, partitions=4)
    made = Bench(kafka, store, await asyncio.to_thread(kafka.topic, 6))
    yield made
    assert (await fsck(store)).problems == []


@pytest.fixture
async def one(kafka: Kafka, client: Redis, prefix: str) -> AsyncIterator[Bench]:
    """A topic of one partition."""
    store = await Store.open(Servers(client), prefix=prefix, partitions=4)
    yield Bench(kafka, store, await asyncio.to_thread(kafka.topic, 1))
    assert (await fsck(store)).problems == []


# -- formats ------------------------------------------------------------------------------------------------------


async def test_a_record_of_the_original_is_scheduled_for_its_time(bench: Bench) -> None:
    await bench.put(
        b"pay", headers={**LATER, "taskType": "PUB_SUB", "tenant": "a", "queue": "mail", "priority": "high"}
    )
    async with bench.reading():
        (task,) = await bench.has(1)
    assert (task.payload, task.due_ms, task.queue, task.priority.name) == (b"pay", int(FAR), "mail", "HIGH")
    assert task.header["tenant"] == b"a" and task.header["executionTimestamp"] == FAR.encode()


async def test_a_delay_counts_from_the_records_time_and_without_time_it_is_due_at_once(bench: Bench) -> None:
    before = time.time_ns() // 1_000_000
    await bench.put(b"later", headers={"delay": "3600000"})
    await bench.put(b"now", headers={"other": "header"})
    after = time.time_ns() // 1_000_000
    async with bench.reading():
        due = {t.payload: t.due_ms for t in await bench.has(2)}
    assert before <= due[b"later"] - 3_600_000 <= after
    assert due[b"now"] <= time.time_ns() // 1_000_000


async def test_cloud_events_and_serialized_tasks(bench: Bench) -> None:
    event = {
        "ce_specversion": "1.0", "ce_id": "7", "ce_source": "/orders", "ce_type": "made", "ce_executiontimestamp": FAR,
    }  # fmt: skip
    message = task_pb2.Task(header={"executionTimestamp": FAR.encode()}, payload=b"inner", labels={"team": "a"})
    await bench.put(b"{}", headers=event)
    await bench.put(message.SerializeToString(), headers={"content-type": "application/x-protobuf"})
    async with bench.reading():
        tasks = {t.payload: t for t in await bench.has(2)}
    assert tasks[b"{}"].due_ms == tasks[b"inner"].due_ms == int(FAR)
    assert tasks[b"{}"].header["ce_source"] == b"/orders"
    assert tasks[b"inner"].labels == {"team": "a"}


async def test_large_payloads(bench: Bench) -> None:
    values = [os.urandom(900_000) for _ in range(12)]
    await bench.put(*values)
    async with bench.reading():
        assert {t.payload for t in await bench.has(12)} == set(values)


async def test_several_topics(bench: Bench) -> None:
    other = await asyncio.to_thread(bench.kafka.topic, 2)
    await bench.put(b"0")
    await bench.put(b"1", topic=other)
    async with bench.reading(sources=(bench.topic, other)):
        once_each(await bench.has(2), 2)


# -- once each ----------------------------------------------------------------------------------------------------


async def test_all_of_one_kafka_partition_lie_in_one_partition_of_the_store(bench: Bench) -> None:
    await bench.put(*numbered(0, 3_000), partitions=6)
    async with bench.reading():
        tasks = await bench.has(3_000)
    once_each(tasks, 3_000)
    homes = {bench.stream(p).home(4) for p in range(6)}
    assert {ids.partition(ids.parse(t.task_id)) for t in tasks} == homes


async def test_it_goes_on_at_the_watermark_and_not_at_the_groups_offset(bench: Bench) -> None:
    await bench.put(*numbered(0, 500))
    async with bench.reading():
        await bench.has(500)
    await bench.put(*numbered(500, 600))
    # Another group has committed nothing, so only the watermarks know.
    async with bench.reading(group=f"another-{bench.topic}"):
        once_each(await bench.has(600), 600)


async def test_the_very_first_start_takes_the_groups_offset(one: Bench) -> None:
    await one.put(*numbered(0, 10))
    given = ConsumerGroupTopicPartitions(one.group, [TopicPartition(one.topic, 0, 4)])
    one.admin.alter_consumer_group_offsets([given])[one.group].result(PATIENCE_S)
    async with one.reading():
        assert sorted(int(t.payload) for t in await one.has(6)) == list(range(4, 10))


async def test_offsets_are_committed_to_kafka_once_stored(one: Bench) -> None:
    await one.put(*numbered(0, 7))
    async with one.reading():
        await one.has(7)
    asked = one.admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(one.group)])
    (found,) = asked[one.group].result(PATIENCE_S).topic_partitions
    assert (found.offset, found.metadata) == (7, f"delaybox:{one.stream().topic_id}")


async def test_a_rebalance_between_two_loses_and_doubles_nothing(bench: Bench) -> None:
    await bench.put(*numbered(0, 2_000))
    async with bench.reading():
        await bench.has(1)
        async with bench.reading() as second:
            producing = asyncio.create_task(bench.put(*numbered(2_000, 6_000)))
            await bench.until(lambda: bool(second._partitions), "the second one has partitions")
            await producing
        await bench.put(*numbered(6_000, 7_000))
        once_each(await bench.has(7_000), 7_000)
        assert bench.troubles == []


async def test_one_that_was_thought_dead_changes_nothing(one: Bench) -> None:
    """Two groups read the same records: every span is stored by one and skipped by the other."""
    await one.put(*numbered(0, 3_000))
    async with one.reading(), one.reading(group=f"zombie-{one.topic}"):
        await one.has(3_000)
        await one.put(*numbered(3_000, 4_000))
        await one.has(4_000)
    once_each(await one.tasks(), 4_000)


async def test_keyed_records_are_scheduled_once_and_a_conflict_is_a_letter(one: Bench) -> None:
    await one.put(b"same", b"same", b"other", headers={**LATER, "idempotencyKey": "order-1"})
    await one.put(b"plain")
    async with one.reading():
        tasks = await one.has(2)
        await one.until(lambda: one.mark(), "watermark")
    assert sorted(t.payload for t in tasks) == [b"plain", b"same"]
    (letter,) = await asyncio.to_thread(one.kafka.read, f"{one.topic}.dlq", 1)
    assert letter.value() == b"other"
    assert headers_of(letter)["delaybox-dlq-code"] == b"idempotency_conflict"
    # Read again from the start, as after a crash before the watermark moved, the keys answer with what there is.
    await one.mark(0)
    async with one.reading():
        await one.until(lambda: _is(one, 4), "all read again")
    assert sum(t.payload == b"same" for t in await one.tasks()) == 1


async def _is(bench: Bench, offset: int) -> bool:
    return await bench.mark() == offset


# -- poison -------------------------------------------------------------------------------------------------------


async def test_poison_goes_to_the_dead_letter_topic_with_the_reason_and_blocks_nothing(one: Bench) -> None:
    await one.put(*numbered(0, 2))
    await one.put(b"bad", headers={"executionTimestamp": "tomorrow", "tenant": "a"})
    await one.put(b"date", headers={"taskType": "SHELL_CMD"})
    await one.put(b"2")
    async with one.reading():
        once_each(await one.has(3), 3)
        letters = await asyncio.to_thread(one.kafka.read, f"{one.topic}.dlq", 2)
        await one.until(lambda: counted("dead", one.topic) == 2, "they are counted")
    letters.sort(key=lambda m: headers_of(m)["delaybox-dlq-offset"])
    first, second = map(headers_of, letters)
    assert first.pop("delaybox-dlq-timestamp")
    assert b"'tomorrow' is not a number" in first.pop("delaybox-dlq-reason")
    assert first == {
        "executionTimestamp": b"tomorrow", "tenant": b"a", "delaybox-dlq-code": b"invalid_task",
        "delaybox-dlq-topic": one.topic.encode(), "delaybox-dlq-partition": b"0", "delaybox-dlq-offset": b"2",
    }  # fmt: skip
    assert letters[0].value() == b"bad"
    assert second["delaybox-dlq-code"] == b"type_disabled"


async def test_poison_that_is_too_large_for_the_dead_letter_topic_leaves_its_address(one: Bench) -> None:
    await asyncio.to_thread(one.kafka.topic, 1, f"{one.topic}.dlq", max_message_bytes="2000")
    await one.put(b"x" * 5_000, headers={"delay": "soon"})
    await one.put(b"0")
    async with one.reading():
        once_each(await one.has(1), 1)
    (letter,) = await asyncio.to_thread(one.kafka.read, f"{one.topic}.dlq", 1)
    headers = headers_of(letter)
    assert (
        not letter.value() and headers["delaybox-dlq-offset"] == b"0" and b"5000 bytes" in headers["delaybox-dlq-value"]
    )


def counted(outcome: str, topic: str) -> Any:
    return metrics.kafka._kafka_records.labels(topic, outcome)._value.get()


async def test_a_topic_that_does_not_exist_yet_is_waited_for(kafka: Kafka, client: Redis, prefix: str) -> None:
    bench = Bench(kafka, await Store.open(Servers(client), prefix=prefix), f"late-{prefix}")
    async with bench.reading(kafka=KafkaSettings(brokers=(kafka.bootstrap,), properties=QUICK)):
        await bench.until(lambda: bench.troubles == [f"Kafka: topic {bench.topic} does not exist"], "it is said")
        await asyncio.to_thread(kafka.topic, 1, bench.topic)
        await bench.put(b"0")
        once_each(await bench.has(1), 1)


# -- logs and stores that change under it -----------------------------------------------------------------------------


async def test_a_topic_that_is_created_again_is_a_new_stream(one: Bench) -> None:
    await one.put(*numbered(0, 50))
    async with one.reading():
        await one.has(50)
    one.admin.delete_topics([one.topic])[one.topic].result(PATIENCE_S)
    await one.until(lambda: _gone(one), "deleted")
    await asyncio.to_thread(one.kafka.topic, 1, one.topic)
    await one.put(*numbered(50, 60))
    async with one.reading():
        once_each(await one.has(60), 60)


async def test_a_topic_that_is_created_again_while_it_is_read(one: Bench) -> None:
    await one.put(*numbered(0, 50))
    async with one.reading(kafka=KafkaSettings(brokers=(one.kafka.bootstrap,), properties=QUICK)):
        await one.has(50)
        one.admin.delete_topics([one.topic])[one.topic].result(PATIENCE_S)
        await one.until(lambda: _gone(one), "deleted")
        await asyncio.to_thread(one.kafka.topic, 1, one.topic)
        await one.put(*numbered(50, 60))
        once_each(await one.has(60), 60)


def _gone(bench: Bench) -> bool:
    return bench.topic not in bench.admin.list_topics(timeout=PATIENCE_S).topics


async def test_a_watermark_past_the_end_stops_that_partition_and_says_so(bench: Bench, caplog: Any) -> None:
    await bench.put(*numbered(0, 600))
    await bench.mark(1_000, partition=2)
    async with bench.reading():
        await bench.until(lambda: bench.troubles, "it is said")
        (trouble,) = bench.troubles
        assert f"partition 2 of topic {bench.topic} is stopped: its watermark 1000 is past the end" in trouble
        assert any(r.levelname == "ERROR" and "is stopped" in r.getMessage() for r in caplog.records)
        assert metrics.kafka._kafka_stopped._value.get() == 1
        # What an operator decides: go on from there.
        await bench.mark(0, partition=2)
        once_each(await bench.has(600), 600)
        await bench.until(lambda: not bench.troubles, "it is over")
    assert metrics.kafka._kafka_stopped._value.get() == 0


async def test_records_that_retention_dropped_are_counted_and_the_rest_is_read(one: Bench, caplog: Any) -> None:
    await one.put(*numbered(0, 20))
    await one.mark(5)
    one.admin.delete_records([TopicPartition(one.topic, 0, 12)])
    await one.until(lambda: _starts_at(one, 12), "records dropped")
    async with one.reading():
        tasks = await one.has(8)
        await one.until(lambda: _is(one, 20), "the end")
    assert sorted(int(t.payload) for t in tasks) == list(range(12, 20))
    assert any("7 records were dropped" in r.getMessage() for r in caplog.records)
    assert metrics.kafka._kafka_missed.labels(one.topic)._value.get() == 7


def _starts_at(bench: Bench, offset: int) -> bool:
    with bench.kafka.consumer(bench.topic) as consumer:
        return consumer.get_watermark_offsets(TopicPartition(bench.topic, 0), timeout=PATIENCE_S)[0] == offset


async def test_a_store_that_lost_its_last_writes_gets_them_again(one: Bench) -> None:
    await one.put(*numbered(0, 30))
    async with one.reading():
        for task in await one.has(30):
            if int(task.payload) >= 10:
                await one.service.cancel(task.task_id)  # as a failover would have lost it
        await one.mark(10)
        await one.put(b"30")
        once_each(await one.has(31), 31)


async def test_a_full_store_is_waited_for(kafka: Kafka, prefix: str, make_server: Callable[..., RealServer]) -> None:
    own = make_server()
    client = make_client(own.settings)
    bench = Bench(kafka, await Store.open(Servers(client), prefix=prefix), await asyncio.to_thread(kafka.topic, 2))
    await bench.put(*numbered(0, 100))
    async with bench.reading():
        await bench.has(100)
        await client.config_set("maxmemory", "1mb")
        await bench.put(*numbered(100, 200))
        await bench.until(lambda: any("maxmemory" in t for t in bench.troubles), "it is said")
        await client.config_set("maxmemory", "0")
        once_each(await bench.has(200), 200)
        await bench.until(lambda: not bench.troubles, "it is over")
    await client.aclose()


async def test_a_server_that_is_away_holds_up_no_records_for_others(bench: Bench, monkeypatch: Any) -> None:
    monkeypatch.setattr(partitions, "LONGEST_PAUSE_S", 3_600.0)
    ingest, away = bench.records.ingest, True

    async def some(spans: Sequence[Span]) -> list[Ingested | DelayBoxError]:
        there = [span for span in spans if span.stream.partition or not away]
        answers = iter(await ingest(there))
        return [next(answers) if span in there else PartAway("away") for span in spans]

    def put(number: int) -> None:
        producer = bench.kafka.producer()
        producer.produce(bench.topic, b"%d" % number, partition=min(number, 1), headers=dict(LATER))
        assert producer.flush(PATIENCE_S) == 0

    monkeypatch.setattr(bench.records, "ingest", some)
    async with bench.reading():
        for n in range(12):
            await asyncio.to_thread(put, n)
            await bench.has(n)
            await bench.until(lambda: bench.troubles == ["away"], "the trouble")
        away = False


async def test_while_nothing_can_be_stored_what_waits_is_bounded(one: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from delaybox.api.kafka import intake as module
    from delaybox.core.errors import StoreUnavailable

    monkeypatch.setattr(module, "MOST_RECORDS", 1_000)
    monkeypatch.setattr(module, "POLL_RECORDS", 200)
    monkeypatch.setattr(module, "_PATIENCE_S", 0.05)
    away = True
    ingest = one.records.ingest

    async def sometimes(spans: Any) -> Any:
        if away:
            return [StoreUnavailable("away") for _ in spans]
        return await ingest(spans)

    monkeypatch.setattr(one.records, "ingest", sometimes)
    await one.put(*numbered(0, 8_000))
    async with one.reading() as intake:
        await one.until(lambda: intake._paused, "it pauses")
        assert one.troubles == ["away"] and intake._records < 1_000 + 2 * 200
        away = False
        once_each(await one.has(8_000), 8_000)
        assert intake._records == intake._bytes == 0


async def test_the_lag_is_0_when_all_is_read_though_the_log_ends_with_an_aborted_transaction(
    one: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its 50 records and its end have offsets of their own, and nobody ever reads them."""
    lags: list[int] = []
    monkeypatch.setattr(metrics, "kafka_lag", lambda topic, partition, records: lags.append(records))

    def produce() -> None:
        producer = one.kafka.producer(transactional_id=one.topic)
        producer.init_transactions(PATIENCE_S)
        for count, end in ((3, producer.commit_transaction), (50, producer.abort_transaction)):
            producer.begin_transaction()
            for n in range(count):
                producer.produce(one.topic, b"%d" % n, headers=dict(LATER))
            producer.flush(PATIENCE_S)
            end(PATIENCE_S)

    async with one.reading():
        await asyncio.to_thread(produce)
        once_each(await one.has(3), 3)
        lags.clear()
        await one.until(lambda: 0 in lags, f"a lag of 0 among {lags}")

    def committed() -> int:
        asked = [ConsumerGroupTopicPartitions(one.group, [TopicPartition(one.topic, 0)])]
        found = one.admin.list_consumer_group_offsets(asked)[one.group].result(PATIENCE_S)
        return int(found.topic_partitions[0].offset)

    assert await asyncio.to_thread(committed) >= 54, "tools that ask the brokers see no lag either"
