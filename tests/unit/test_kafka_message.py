"""What a due task becomes on a Kafka topic."""

from __future__ import annotations

import pytest
from opentelemetry import trace

from delaybox.core.delivery import Delivery
from delaybox.core.errors import InvalidTask
from delaybox.core.retry import RetryPolicy
from delaybox.core.task import NewTask
from delaybox.otel import tracing
from delaybox.otel.spans import Spans
from delaybox.targets.kafka_message import Message, composer, payload_of
from delaybox.wire import body
from delaybox.wire.gen.task_pb2 import Task
from delaybox.wire.kafka_record import RecordRules, of_record
from delaybox.wire.topics import TopicRules

ID = bytes.fromhex("0190d3a8cb918001a123456789abcdef")
SHOWN = "0190d3a8-cb91-8001-a123-456789abcdef"
RULES = TopicRules("out", frozenset({"other"}))


def delivery(task: NewTask, *, attempt: int = 0) -> Delivery:
    return Delivery(ID, 1, b"lease", 1, attempt, 0, 1_721_672_590_913, b"p", False, body.encode(task))


def test_the_common_case() -> None:
    topic, value, key, headers = composer(RULES, value="task", source="/delaybox/x")(delivery(NewTask(payload=b"abc")))
    assert (topic, key) == ("out", SHOWN.encode())
    assert value is not None and Task.FromString(value) == Task(taskUuid=SHOWN, payload=b"abc")
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
    ours = {"delaybox-task-id", "delaybox-attempt", "delaybox-due"}
    assert found.keys() == {*ours, "topic", "key", "tag", "traceparent", "ce_id", "ce_type"}
    assert found["ce_type"] == b"order.due"


def test_where_the_node_traces_a_message_has_the_trace_of_its_firing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "spans", Spans(trace.NoOpTracer()))
    parent = b"00-" + b"1" * 32 + b"-" + b"2" * 16 + b"-01"
    scheduling = {"traceparent": parent, "tracestate": b"a=b", "baggage": b"u=7"}
    one = delivery(NewTask(payload=b"p", header=scheduling))
    compose = composer(RULES, value="task", source="/")
    assert scheduling.items() <= dict(compose(one)[3]).items(), "one that is not recorded keeps that of its scheduling"
    one.trace = parent.replace(b"1", b"3")
    _, value, _, headers = compose(one)
    names = [name for name, _ in headers]
    assert dict(headers)["traceparent"] == one.trace and "tracestate" not in names and names.count("traceparent") == 1
    assert dict(headers)["baggage"] == b"u=7"
    assert value is not None and Task.FromString(value).header["traceparent"] == parent


def passed(value: bytes | None, *headers: tuple[str, bytes], key: bytes | None = None) -> Message:
    """What a record comes back as where messages pass through; without the headers that we add."""
    task = of_record(value, headers, 1_800_000_000_000, RecordRules(pass_through=True), key)
    topic, value, key, out = composer(RULES, value="payload", source="/")(delivery(task))
    added = ("delaybox-", "ce_") if not any(name.startswith("ce_") for name, _ in headers) else ("delaybox-",)
    return topic, value, key, [h for h in out if not h[0].startswith(added)]


def test_a_record_passes_through_as_it_came() -> None:
    app = [("tenant", b"\xff\x00"), ("content-type", b"text/plain"), ("topic-of-talk", b"x")]
    topic, value, key, out = passed(b"pay", ("delay", b"3s"), ("queue", b"mail"), *app, key=b"\x00order")
    assert (topic, value, key, sorted(out)) == ("out", b"pay", b"\x00order", sorted(app))


def test_a_tombstone_passes_through_and_empty_is_not_null() -> None:
    assert passed(None, ("delay", b"5"), key=b"k")[1:3] == (None, b"k")
    assert passed(b"", ("delay", b"5"), key=b"k")[1:3] == (b"", b"k")
    assert passed(None, ("executionTimestamp", b"1900000000000"), key=b"k")[1:3] == (None, b"k")


def test_a_key_that_the_record_names_wins_over_its_own() -> None:
    assert passed(b"", ("kafkaKey", b"named"), key=b"own")[2] == b"named"


def test_without_a_key_the_id_is_the_key() -> None:
    assert passed(b"x", ("executionTimestamp", b"1900000000000"))[1:3] == (b"x", SHOWN.encode())


def test_what_an_earlier_pass_added_is_added_once() -> None:
    _, _, _, out = composer(RULES, value="payload", source="/")(
        delivery(of_record(b"x", [("delaybox-attempt", b"9"), ("tag", b"a")], 0, RecordRules(pass_through=True)))
    )
    assert [value for name, value in out if name == "delaybox-attempt"] == [b"1"]


BINARY = [
    ("ce_specversion", b"1.0"), ("ce_id", b"7"), ("ce_source", b"/orders"), ("ce_type", b"order.made"),
    ("ce_partitionkey", b"order-7"), ("content-type", b"application/json"),
]  # fmt: skip


def test_an_event_in_binary_mode_keeps_its_attributes_content_type_and_partition_key() -> None:
    _, value, key, out = passed(b"{}", ("ce_delay", b"3s"), *BINARY)
    assert (value, key) == (b"{}", b"order-7")
    assert dict(out) == {"ce_delay": b"3s", **dict(BINARY)}


def test_an_event_inside_a_task_says_that_the_value_is_protobuf() -> None:
    task = of_record(b"{}", [("ce_delay", b"3s"), *BINARY], 0, RecordRules())
    _, value, key, out = composer(RULES, value="task", source="/")(delivery(task))
    assert value is not None and Task.FromString(value).payload == b"{}"
    assert (key, dict(out)["content-type"], dict(out)["ce_id"]) == (b"order-7", b"application/protobuf", b"7")


def test_an_event_in_structured_mode_passes_through_whole() -> None:
    event = b'{"specversion":"1.0","id":"7","source":"/o","type":"t","delay":1500,"partitionkey":"p","data":{"a":[1]}}'
    kind = ("content-type", b"application/cloudevents+json; charset=utf-8")
    topic, value, key, out = passed(event, kind)
    assert (topic, value, key, out) == ("out", event, b"p", [kind])
    task = of_record(event, [kind], 1_800_000_000_000, RecordRules(pass_through=True))
    assert task.due_ms == 1_800_000_001_500, "its delay is heeded"
    all_of_it = composer(RULES, value="payload", source="/")(delivery(task))[3]
    assert not any(name.startswith("ce_") for name, _ in all_of_it), "it is an event in one mode alone"


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
