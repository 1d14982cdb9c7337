"""What a due task becomes on a Kafka topic."""

from __future__ import annotations

import pytest

from delaybox.core.delivery import Delivery
from delaybox.core.errors import InvalidTask
from delaybox.core.retry import RetryPolicy
from delaybox.core.task import NewTask
from delaybox.targets.kafka_message import composer, payload_of
from delaybox.wire import body
from delaybox.wire.gen.task_pb2 import Task
from delaybox.wire.topics import TopicRules

ID = bytes.fromhex("0190d3a8cb918001a123456789abcdef")
SHOWN = "0190d3a8-cb91-8001-a123-456789abcdef"
RULES = TopicRules("out", frozenset({"other"}))


def delivery(task: NewTask, *, attempt: int = 0) -> Delivery:
    return Delivery(ID, 1, b"lease", 1, attempt, 0, 1_721_672_590_913, b"p", False, body.encode(task))


def test_the_common_case() -> None:
    topic, value, key, headers = composer(RULES, value="task", source="/delaybox/x")(delivery(NewTask(payload=b"abc")))
    assert (topic, key) == ("out", SHOWN.encode())
    assert Task.FromString(value) == Task(taskUuid=SHOWN, payload=b"abc")
    assert dict(headers) == {
        "delaybox-task-id": SHOWN.encode(),
        "delaybox-attempt": b"1",
        "delaybox-due": b"1721672590913",
        "ce_specversion": b"1.0",
        "ce_type": b"delaybox.task.due",
        "ce_source": b"/delaybox/x",
        "ce_id": SHOWN.encode(),
        "ce_time": b"2024-07-22T18:23:10.913Z",
    }


@pytest.mark.parametrize("attempt", [0, 4, 62, 63, 500])
def test_attempts_are_counted_from_one(attempt: int) -> None:
    made = composer(RULES, value="task", source="/")(delivery(NewTask(), attempt=attempt))
    assert dict(made[3])["delaybox-attempt"] == b"%d" % (attempt + 1)


def test_what_the_task_names_itself() -> None:
    header = {"topic": b"other", "key": b"k", "traceparent": b"t", "ce_id": b"e", "ce_type": b"order.due", "tag": b"x"}
    compose = composer(RULES, value="payload", source="/")
    topic, value, key, headers = compose(delivery(NewTask(payload=b"p", header=header)))
    assert (topic, value, key) == ("other", b"p", b"k")
    found = dict(headers)
    assert found.keys() == {"delaybox-task-id", "delaybox-attempt", "delaybox-due", "traceparent", "ce_id", "ce_type"}
    assert found["ce_type"] == b"order.due"


@pytest.mark.parametrize(
    ("header", "topic"),
    [
        ({}, "out"),
        ({"kafkaTopic": b"out"}, "out"),
        ({"kafkaTopic": b"other", "topic": b"no"}, "other"),
        ({"topic": b""}, "out"),
    ],
)
def test_topics_that_are_allowed(header: dict[str, bytes], topic: str) -> None:
    assert RULES.topic(header) == topic


@pytest.mark.parametrize("header", [{"topic": b"secret"}, {"kafkaTopic": b"\xff"}])
def test_topics_that_are_not(header: dict[str, bytes]) -> None:
    with pytest.raises(InvalidTask, match=r"is none of kafka.allowedTopics \(other\); add it there"):
        RULES.topic(header)
    with pytest.raises(InvalidTask):
        composer(RULES, value="task", source="/")(delivery(NewTask(header=header)))


def test_where_no_topics_are_allowed_a_parameter_may_be_called_topic() -> None:
    assert TopicRules("out").topic({"topic": b"news"}) == "out"
    with pytest.raises(InvalidTask, match="which is empty"):
        TopicRules("out").topic({"kafkaTopic": b"news"})


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_383, 16_384, 300_000])
@pytest.mark.parametrize(
    "more", [{}, {"header": {"a": b"b"}}, {"labels": {"a": "b"}}, {"retry": RetryPolicy()}, {"timeout_ms": 5}]
)
def test_the_payload_alone(size: int, more: dict[str, object]) -> None:
    payload = bytes(n % 251 for n in range(size))
    assert payload_of(body.encode(NewTask(payload=payload, **more))) == payload  # type: ignore[arg-type]
