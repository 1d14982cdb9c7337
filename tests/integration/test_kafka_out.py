"""Due tasks on a real Kafka topic, read by a stock consumer."""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Message

from delaybox.wire.gen.task_pb2 import Task
from scripts.kafka_broker import Broker
from tests.kafka import MORTAL, Kafka, need_broker, take
from tests.nodes import Node, node

pytestmark = pytest.mark.kafka

UP = 'delaybox_kafka_up{client="producer"}'
PAST = "1721672590913"


def serve(broker: str, topic: str, *more: str) -> tuple[str, ...]:
    """Arguments of a node with its own store that sends to ``topic``."""
    given = ["kafka.enabled=true", f"kafka.brokers={broker}", f"kafka.taskExecutionTopic={topic}"]
    # Other tests' topics are none of this node's.
    Kafka(broker).topic(1, f"{topic}-in")
    given += [f"kafka.schedulerTopic={topic}-in", "grpcServer.enabled=false"]
    settings = [word for one in (*given, *more) for word in ("--set", one)]
    return ("--http-port", "0", "--data-dir", "data", *settings)


def headers(message: Message) -> dict[str, bytes]:
    return dict(message.headers() or [])  # type: ignore[arg-type]


def post(to: Node, payload: str, **fields: Any) -> str:
    status, _, answer = to.call("POST", "/v1/tasks", {"type": "pub_sub", "payload": payload, **fields})
    assert status == 201, answer
    return str(answer["id"])


def metric(of: Node, name: str) -> float:
    """The sum of a metric's samples."""
    text = of.call("GET", "/metrics")[2].decode()
    return sum(float(value) for value in re.findall(rf"^{re.escape(name)}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE))


def test_tasks_arrive_on_the_topic_as_the_originals_do(tmp_path: Path, kafka: Kafka):
    topic = kafka.topic()
    with node(*serve(kafka.bootstrap, topic), folder=tmp_path) as ours:
        body = {"taskType": "PUB_SUB", "parameter": {"executionTimestamp": PAST, "tag": "a"}, "pyload": "VGVzdCBKYXkK"}
        task_id = ours.call("POST", "/task", body)[2]["taskUuid"]
        (message,) = kafka.read(topic, 1)
        task = Task.FromString(message.value() or b"")
        assert (task.taskUuid, task.payload, task.status) == (task_id, b"Test Jay\n", Task.SCHEDULED)
        assert task.header["executionTimestamp"] == PAST.encode()
        assert message.key() == task_id.encode()
        found = headers(message)
        assert found["delaybox-task-id"] == found["ce_id"] == task_id.encode()
        assert found["delaybox-attempt"] == b"1"
        assert found["ce_specversion"] == b"1.0"
        assert found["ce_type"] == b"delaybox.task.due"
        assert found["ce_source"] == b"/delaybox/delaybox"
        due_ms = int(found["delaybox-due"])
        assert re.fullmatch(rb"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", found["ce_time"])
        assert found["ce_time"].endswith(b".%03dZ" % (due_ms % 1000))
        # The broker's answer, and what the process counts, come a moment after the message.
        ours.until(lambda: metric(ours, UP) == metric(ours, "delaybox_kafka_out_messages_total") == 1)


def test_payload_key_and_topic_of_the_tasks_own(tmp_path: Path, kafka: Kafka):
    topic, other = kafka.topic(), kafka.topic()
    arguments = serve(kafka.bootstrap, topic, "kafka.value=payload", f"kafka.allowedTopics={other}")
    with node(*arguments, folder=tmp_path) as ours:
        trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        post(ours, "plain")
        named = {"kafkaTopic": other, "kafkaKey": "k1", "traceparent": trace, "ce_id": "mine", "ce_source": "/here"}
        post(ours, "x" * 3_000, headers=named)
        (plain,), (own,) = kafka.read(topic, 1), kafka.read(other, 1)
        assert plain.value() == b"plain"
        assert (own.value(), own.key()) == (b"x" * 3_000, b"k1")
        found = headers(own)
        assert found["traceparent"] == trace.encode()
        assert (found["ce_id"], found["ce_source"]) == (b"mine", b"/here")
        assert "ce_type" not in found and "kafkaKey" not in found
        refused = {"type": "pub_sub", "payload": "p", "headers": {"kafkaTopic": "secret"}}
        status, _, problem = ours.call("POST", "/v1/tasks", refused)
        assert status == 400
        assert "kafkaTopic 'secret' is none of kafka.allowedTopics" in json.dumps(problem)


def test_a_message_that_the_broker_finds_too_large_is_a_dead_letter_at_once(tmp_path: Path, kafka: Kafka):
    topic = kafka.topic(max_message_bytes="20000")
    with node(*serve(kafka.bootstrap, topic, "kafka.compression=none"), folder=tmp_path) as ours:
        large = post(ours, "x" * 30_000)
        small = [post(ours, f"small {n}") for n in range(20)]
        got = {headers(m)["delaybox-task-id"].decode() for m in kafka.read(topic, len(small))}
        assert got == set(small)
        dead = ours.until(lambda: ours.call("GET", "/v1/dead")[2]["tasks"])
        assert dead[0]["id"] == large
        assert "MSG_SIZE_TOO_LARGE" in dead[0]["reason"]
        assert dead[0].get("attempts", 1) <= 1


def test_messages_that_only_together_are_too_large_all_arrive(tmp_path: Path, kafka: Kafka):
    """A broker refuses a whole batch for its size, or for one message in it; the others are no dead letters."""
    topic = kafka.topic(partitions=1, max_message_bytes="20000")
    arguments = serve(kafka.bootstrap, topic, "kafka.compression=none", "partitions=1")
    with node(*arguments, folder=tmp_path) as ours:
        start = time.time_ns() // 1_000_000 + 1_000
        payloads = ["x" * 30_000, *(f"{n} " + "y" * 500 for n in range(200))]
        tasks = [{"type": "pub_sub", "payload": payload, "at": start} for payload in payloads]
        status, _, answer = ours.call("POST", "/v1/tasks/batch", {"tasks": tasks})
        assert status in (200, 201, 207), answer
        large, *good = [str(item["task"]["id"] if "task" in item else item["id"]) for item in answer["items"]]
        got = [headers(m)["delaybox-task-id"].decode() for m in kafka.read(topic, len(good))]
        assert sorted(got) == sorted(good)
        dead = ours.until(lambda: ours.call("GET", "/v1/dead")[2]["tasks"])
        assert [letter["id"] for letter in dead] == [large]
        assert "its messages are sent one by one" in ours.output()


def test_tasks_of_one_key_keep_the_order_of_their_due_times(tmp_path: Path, kafka: Kafka):
    topic = kafka.topic()
    with node(*serve(kafka.bootstrap, topic, "kafka.value=payload"), folder=tmp_path) as ours:
        # All are stored before the first is due, or later ones would overtake it.
        start = time.time_ns() // 1_000_000 + 4_000
        tasks = [
            {"type": "pub_sub", "payload": f"{key} {n}", "at": start + n, "headers": {"kafkaKey": f"key-{key}"}}
            for n in range(100)
            for key in range(5)
        ]
        # In requests of their own order and size: each lands in another partition but for its key.
        for at in range(0, len(tasks), 37):
            status, _, answer = ours.call("POST", "/v1/tasks/batch", {"tasks": tasks[at : at + 37][::-1]})
            assert status in (200, 201, 207), answer
        got = [(m.value() or b"").decode().split() for m in kafka.read(topic, len(tasks))]
        for key in range(5):
            assert [int(n) for k, n in got if k == str(key)] == list(range(100))


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker that tests kill or freeze, each of which has it back at the end."""
    need_broker()
    broker = Broker(tmp_path_factory.mktemp("mortal") / "kafka", settings=MORTAL)
    try:
        broker.start()
        yield broker
    finally:
        broker.close()


def test_tasks_wait_while_the_broker_is_away(tmp_path: Path, mortal: Broker):
    broker, kafka = mortal, Kafka(mortal.bootstrap)
    topic = kafka.topic(partitions=1)
    arguments = serve(broker.bootstrap, topic, "kafka.value=payload", "kafka.deliveryTimeout=1s", "partitions=1")
    with node(*arguments, folder=tmp_path) as ours:
        post(ours, "before")
        assert kafka.read(topic, 1)[0].value() == b"before"
        broker.kill()
        # These are on their way when it is noticed, or are due while it is known.
        early = [{"type": "pub_sub", "payload": f"early {n}"} for n in range(500)]
        assert ours.call("POST", "/v1/tasks/batch", {"tasks": early})[0] < 300
        ours.wait_for("no Kafka broker at .* tasks for it wait")
        ours.until(lambda: b"ready; but PUB_SUB tasks wait: no Kafka broker" in ours.call("GET", "/readyz")[2])
        for priority in ("low", "normal", "high", "critical"):
            batch = [{"type": "pub_sub", "payload": f"{priority} {n}", "priority": priority} for n in range(100)]
            assert ours.call("POST", "/v1/tasks/batch", {"tasks": batch})[0] < 300
        ours.until(lambda: not metric(ours, "delaybox_in_flight_tasks"))  # leased work is handed back
        ours.until(lambda: metric(ours, UP) == 0)
        broker.start()
        with kafka.consumer(topic) as consumer:
            got: list[str] = []
            # The broker that is back may be slower than the time-out at first, and then messages are sent again.
            while (left := 901 - len(set(got))) > 0:
                got += [(m.value() or b"").decode() for m in take(consumer, left)]
        # Nothing was lost, nothing was charged an attempt, and nothing died.
        assert {text.split()[0] for text in got} == {"before", "early", "low", "normal", "high", "critical"}
        assert len(set(got)) == 901
        assert ours.call("GET", "/v1/dead")[2]["tasks"] == []
        # Critical ones first, however late they were.
        first = {word: min(i for i, text in enumerate(got) if text.startswith(word)) for word in ("critical", "low")}
        assert first["critical"] < first["low"]
        ours.wait_for("Kafka at .* answers after")
        ours.until(lambda: ours.call("GET", "/readyz")[2] == b"ready")


def test_the_channel_is_used_when_kafka_is_off(tmp_path: Path, kafka: Kafka):
    topic = kafka.topic()
    off = ("--http-port", "0", "--data-dir", "data", "--set", f"kafka.brokers={kafka.bootstrap}")
    with node(*off, "--set", f"kafka.taskExecutionTopic={topic}", folder=tmp_path) as ours:
        post(ours, base64.b64encode(b"x").decode())
        ours.wait_for("listening")
        with kafka.consumer(topic) as consumer:
            assert consumer.consume(1, 1.0) == []
        ours.until(lambda: metric(ours, "delaybox_fired_tasks_total") == 1)


def test_a_broker_that_hangs_for_seconds_gets_each_message_once(tmp_path: Path, mortal: Broker):
    """After five seconds messages were given up, handed back and sent again, though the broker had taken them."""
    broker, kafka = mortal, Kafka(mortal.bootstrap)
    topic = kafka.topic(partitions=1)
    with node(*serve(broker.bootstrap, topic, "kafka.value=payload"), folder=tmp_path) as ours:
        post(ours, "before")
        assert kafka.read(topic, 1)[0].value() == b"before"
        with broker.frozen():
            batch = [{"type": "pub_sub", "payload": f"{n}"} for n in range(500)]
            assert ours.call("POST", "/v1/tasks/batch", {"tasks": batch})[0] < 300
            ours.wait_for("no Kafka broker at .* tasks for it wait")
            # Time itself is what is tested: longer than messages used to live.
            time.sleep(3.0)
        with kafka.consumer(topic) as consumer:
            got = [(m.value() or b"").decode() for m in take(consumer, 501)]
            ours.until(lambda: not metric(ours, "delaybox_in_flight_tasks"))
            assert consumer.consume(1, 0.5) == [], "nothing comes twice"
        assert sorted(got) == sorted(["before", *map(str, range(500))])
        assert metric(ours, "delaybox_kafka_out_errors_total") == 0
