"""What a Kafka record asks for."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delaybox.core.errors import InvalidTask, PayloadTooLarge, TypeDisabled
from delaybox.core.retry import NO_RETRY, RetryPolicy
from delaybox.core.task import NewTask, Priority, TaskType
from delaybox.core.webhook import Webhook, WebhookRules
from delaybox.store.record import encoded_head
from delaybox.wire.encoded import encode
from delaybox.wire.gen import task_pb2
from delaybox.wire.kafka_record import Headers, RecordRules, of_record, plain
from delaybox.wire.original import request
from delaybox.wire.shell_rules import ShellRules

AT = 1_800_000_000_000
LIMIT = 1 << 20
SHELL = RecordRules(
    original=request.OriginalRules(types=frozenset({TaskType.PUB_SUB, TaskType.SHELL_CMD})),
    shell=ShellRules(payloads=True, commands=frozenset({"backup"})),
)


def read(
    value: bytes | None, *headers: tuple[str, bytes | str | None], rules: RecordRules = SHELL, at: int = AT
) -> NewTask:
    return of_record(value, headers, at, rules)


def test_a_record_of_the_original() -> None:
    task = read(b"pay", ("executionTimestamp", b"1900000000000"), ("taskType", b"PUB_SUB"), ("tenant", b"a"))
    assert (task.payload, task.due_ms, task.delay_ms, task.type) == (b"pay", 1_900_000_000_000, None, TaskType.PUB_SUB)
    assert task.header == {"executionTimestamp": b"1900000000000", "taskType": b"PUB_SUB", "tenant": b"a"}


@pytest.mark.parametrize("headers", [None, []])
def test_without_headers_it_is_published_at_once(headers: Headers | None) -> None:
    assert of_record(b"pay", headers, AT, SHELL) == NewTask(payload=b"pay", header={})


def test_without_time_it_fires_at_once() -> None:
    task = read(b"x", ("queue", b"mail"), ("priority", b"high"), ("name", b"n"))
    assert (task.due_ms, task.delay_ms, task.queue, task.priority) == (None, None, "mail", Priority.HIGH)
    assert task.name == "" and task.header["name"] == b"n", "a name means something to functions and commands alone"


def test_a_delay_counts_from_the_records_timestamp() -> None:
    assert read(b"", ("delay", b"1500")).due_ms == AT + 1_500
    no_timestamp = read(b"", ("delay", b"1500"), at=0)
    assert (no_timestamp.due_ms, no_timestamp.delay_ms) == (None, 1_500)


def test_shell_tasks_are_not_retried_and_may_have_a_name() -> None:
    task = read(b"date", ("taskType", b"SHELL_CMD"))
    assert (task.type, task.retry, task.payload) == (TaskType.SHELL_CMD, NO_RETRY, b"date")
    assert read(b"stdin\0", ("taskType", b"SHELL_CMD"), ("name", b"backup")).name == "backup"


def test_the_last_of_two_headers_counts_and_none_is_no_value() -> None:
    assert read(b"", ("queue", b"a"), ("queue", b"b"), ("priority", None)).queue == "b"


def test_a_key_is_the_idempotency_key() -> None:
    assert read(b"", ("idempotencyKey", b"order-1")).idempotency_key == "order-1"


@pytest.mark.parametrize("value", [None, b""])
def test_a_tombstone_is_an_empty_payload(value: bytes | None) -> None:
    assert read(value).payload == b""


POISON: list[tuple[bytes, Sequence[tuple[str, bytes]], str]] = [
    (b"", [("executionTimestamp", b"soon")], "not a number"),
    (b"", [("executionTimestamp", b"1721672590")], "looks like seconds"),
    (b"", [("executionTimestamp", b"\xff")], "not UTF-8"),
    (b"", [("delay", b"-1")], "negative"),
    (b"", [("executionTimestamp", b"1900000000000"), ("delay", b"5")], "both given"),
    (b"", [("priority", b"urgent")], "not a priority"),
    (b"", [("queue", b"a b")], "queue"),
    (b"", [("idempotencyKey", b"")], "idempotencyKey"),
    (b"a\0b", [("taskType", b"SHELL_CMD")], "NUL"),
    (b"", [("taskType", b"SHELL_CMD"), ("name", b"nobody")], "no command"),
    (b"", [("taskType", b"SHELL_CMD"), ("name", b"\xff")], "not UTF-8"),
    (b"\xff\xff", [("content-type", b"application/x-protobuf")], "not a serialized Task"),
    (b"", [("ce_specversion", b"1.0"), ("ce_delay", b"1"), ("delay", b"2")], "differ"),
]


@pytest.mark.parametrize(("value", "headers", "why"), POISON, ids=[p[2] for p in POISON])
def test_poison(value: bytes, headers: Sequence[tuple[str, bytes]], why: str) -> None:
    with pytest.raises(InvalidTask, match=why):
        of_record(value, headers, AT, SHELL)
    assert plain(value, headers, AT, LIMIT) is None


def test_types_that_are_off_and_payloads_too_large() -> None:
    with pytest.raises(TypeDisabled):
        read(b"date", ("taskType", b"SHELL_CMD"), rules=RecordRules())
    small = RecordRules(original=request.OriginalRules(max_payload_bytes=3))
    with pytest.raises(PayloadTooLarge):
        read(b"four", rules=small)
    assert plain(b"four", None, AT, 3) is None


def test_a_delay_past_the_end_of_time() -> None:
    with pytest.raises(InvalidTask, match="past 10"):
        read(b"", ("delay", b"1"), at=10**14)


# -- serialized tasks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [b"application/x-protobuf", b"Application/X-Protobuf; messageType=Task"])
def test_a_serialized_task(kind: bytes) -> None:
    message = task_pb2.Task(
        taskUuid="theirs", header={"delay": b"700", "queue": b"mail"}, payload=b"pay", labels={"a": "b"}
    )
    message.retry.max_attempts = 3
    task = read(message.SerializeToString(), ("Content-Type", kind))
    assert (task.payload, task.due_ms, task.queue, task.labels) == (b"pay", AT + 700, "mail", {"a": "b"})
    assert isinstance(task.retry, RetryPolicy) and task.retry.max_attempts == 3
    assert task.header == {"delay": b"700", "queue": b"mail"}


@pytest.mark.parametrize(
    "other", [("delay", b"5"), ("taskType", b"PUB_SUB"), ("ce_specversion", b"1.0")], ids=lambda h: h[0]
)
def test_protobuf_that_is_timed_by_headers_is_somebodys_payload(other: tuple[str, bytes]) -> None:
    value = task_pb2.Task(payload=b"inner").SerializeToString()
    task = read(value, ("content-type", b"application/x-protobuf"), other)
    assert task.payload == value


def test_another_content_type_is_a_header_like_any() -> None:
    assert read(b"{}", ("content-type", b"application/json")).header == {"content-type": b"application/json"}


# -- CloudEvents ------------------------------------------------------------------------------------------------


def test_a_cloud_event_travels_with_its_attributes_and_is_timed_by_extensions() -> None:
    headers = [
        ("ce_specversion", b"1.0"), ("ce_id", b"7"), ("ce_source", b"/orders"), ("ce_type", b"order.made"),
        ("content-type", b"application/json"), ("ce_delay", b"900"), ("ce_queue", b"mail"), ("ce_tasktype", b"PUB_SUB"),
        ("ce_idempotencykey", b"o7"), ("ce_priority", b"low"),
    ]  # fmt: skip
    task = read(b'{"n":1}', *headers)
    assert (task.due_ms, task.queue, task.priority, task.idempotency_key) == (AT + 900, "mail", Priority.LOW, "o7")
    assert dict(headers).items() <= task.header.items() and task.payload == b'{"n":1}'
    at = read(b"", ("ce_specversion", b"1.0"), ("ce_executiontimestamp", b"1900000000000"))
    assert at.due_ms == 1_900_000_000_000


def test_without_specversion_ce_headers_mean_nothing() -> None:
    assert read(b"", ("ce_delay", b"900")).due_ms is None


# -- the short way ----------------------------------------------------------------------------------------------

values = st.one_of(st.none(), st.binary(max_size=3_000))
digits = st.one_of(
    st.integers(0, 10**15).map(lambda n: b"%d" % n),
    st.sampled_from([b"", b"0", b"00", b"0000000000000", b"0123456789012", b"1.5", b"\xb2", b" 5", "٣".encode()]),
)
names = st.sampled_from(["executionTimestamp", "delay", "queue", "other"])
headers_ = st.one_of(st.none(), st.lists(st.tuples(names, st.one_of(st.none(), digits)), max_size=2))


@given(values, headers_, st.sampled_from([0, 1, AT, 10**14, -1]))
def test_the_short_way_stores_the_same(value: bytes | None, headers: Headers | None, at_ms: int) -> None:
    short = plain(value, headers, at_ms, LIMIT)
    if short is None:
        return
    whole = encode(of_record(value, headers, at_ms, SHELL))
    assert (short.due48, short.body) == (whole.due48, whole.body)
    assert encoded_head(short.kind, short.kind.queue) == encoded_head(whole.kind, whole.kind.queue)


@pytest.mark.parametrize("headers", [None, [("executionTimestamp", b"1900000000000")], [("delay", b"0")]])
def test_what_is_common_goes_the_short_way(headers: Headers | None) -> None:
    assert plain(b"pay", headers, AT, LIMIT) is not None


STRUCTURED = ("content-type", b"application/cloudevents+json")


def event(**attributes: object) -> bytes:
    return json.dumps(
        {"specversion": "1.0", "id": "7", "source": "/orders", "type": "order.made", **attributes}
    ).encode()


def test_an_event_in_structured_mode() -> None:
    value = event(executiontimestamp="1900000000000", queue="mail", priority="low", idempotencykey="o7", data={"a": 1})
    task = read(value, STRUCTURED)
    assert (task.due_ms, task.queue, task.priority) == (1_900_000_000_000, "mail", Priority.LOW)
    assert (task.idempotency_key, task.payload) == ("o7", value)
    assert read(event(delay=1500), STRUCTURED).due_ms == AT + 1_500
    assert read(event(delay="3s", partitionkey="p"), STRUCTURED).header["kafkaKey"] == b"p"


def test_the_trace_of_an_event_travels_with_the_task() -> None:
    trace = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    event_header = [("ce_specversion", b"1.0"), ("ce_id", b"1"), ("ce_source", b"/a"), ("ce_type", b"b")]
    mine = [*event_header, ("ce_traceparent", trace), ("ce_tracestate", b"a=b")]
    header = of_record(b"", mine, AT, SHELL).header
    assert (header["traceparent"], header["tracestate"]) == (trace, b"a=b")
    other = trace.replace(b"4bf9", b"5bf9")
    assert of_record(b"", [*mine, ("traceparent", other)], AT, SHELL).header["traceparent"] == other
    assert "traceparent" not in of_record(b"", [*event_header, ("ce_traceparent", b"00-x")], AT, SHELL).header


@pytest.mark.parametrize(
    ("value", "header", "words"),
    [
        (b"no json", STRUCTURED, "no JSON object"),
        (b"[]", STRUCTURED, "no JSON object"),
        (event(specversion="0.3"), STRUCTURED, "only 1.0"),
        (event(id=""), STRUCTURED, "has no id"),
        (event(source=None), STRUCTURED, "has no source"),
        (event(delay=[1]), STRUCTURED, "delay is no string, integer or boolean"),
        (event(delay="soon"), STRUCTURED, "delay"),
        (b"[]", ("content-type", b"application/cloudevents-batch+json"), "one by one"),
        (b"", ("content-type", b"application/cloudevents+avro"), "application/cloudevents\\+json"),
    ],
)
def test_structured_events_that_cannot_be_read(value: bytes, header: tuple[str, bytes], words: str) -> None:
    with pytest.raises(InvalidTask, match=words):
        read(value, header)


HTTP = RecordRules(
    original=request.OriginalRules(types=frozenset({TaskType.PUB_SUB, TaskType.HTTP})),
    webhooks=WebhookRules(enabled=True),
    pass_through=True,
)


def test_a_record_becomes_a_webhook() -> None:
    headers: Headers = [
        ("taskType", b"HTTP"),
        ("url", b"https://example.com/x"),
        ("method", b"PUT"),
        ("retryOn", b"404, 409"),
        ("delay", b"1500"),
        ("x-own", b"1"),
        ("ce_specversion", b"1.0"),
        ("ce_id", b"17"),
        ("ce_queue", b"mail"),
        ("traceparent", b"00-x"),
    ]
    task = of_record(b"body", headers, AT, HTTP, key=b"k")
    assert task.webhook == Webhook("https://example.com/x", "PUT", (404, 409))
    assert (task.type, task.payload, task.due_ms, task.queue) == (TaskType.HTTP, b"body", AT + 1_500, "mail")
    assert task.header == {"x-own": b"1", "ce-specversion": b"1.0", "ce-id": b"17", "traceparent": b"00-x"}


def test_a_record_may_ask_for_calls_and_an_event() -> None:
    headers: Headers = [
        ("taskType", b"HTTP"),
        ("url", b"https://example.com/x"),
        ("onSuccess", b"https://example.com/well"),
        ("onFailure", b"https://example.com/ill"),
        ("cloudevents", b"structured"),
        ("ce_type", b"com.example.order"),
    ]
    task = of_record(b"body", headers, AT, HTTP)
    called = ("https://example.com/well", "https://example.com/ill", "structured")
    assert task.webhook == Webhook("https://example.com/x", "POST", (), *called)
    assert task.header == {"ce-type": b"com.example.order"}


def test_a_serialized_task_becomes_a_webhook() -> None:
    message = task_pb2.Task(payload=b"body", header={"taskType": b"HTTP", "x": b"y"})
    message.webhook.url = "https://example.com/"
    task = of_record(message.SerializeToString(), [("content-type", b"application/x-protobuf")], AT, HTTP)
    assert task.webhook == Webhook("https://example.com/") and task.header == {"x": b"y"}


@pytest.mark.parametrize(
    ("headers", "field"),
    [
        ([("taskType", b"HTTP")], "url"),
        ([("taskType", b"HTTP"), ("url", b"\xff")], "url"),
        ([("taskType", b"HTTP"), ("url", b"http://10.0.0.1/")], "url"),
        ([("taskType", b"HTTP"), ("url", b"http://example.com/"), ("method", b"LIST")], "method"),
        ([("taskType", b"HTTP"), ("url", b"http://example.com/"), ("retryOn", b"all")], "retry_on"),
        ([("taskType", b"HTTP"), ("url", b"http://example.com/"), ("host", b"x")], "headers.host"),
        ([("taskType", b"HTTP"), ("url", b"http://example.com/"), ("onSuccess", b"\xff")], "onSuccess"),
        ([("taskType", b"HTTP"), ("url", b"http://example.com/"), ("onSuccess", b"http://10.0.0.1/")], "on_success"),
        ([("taskType", b"HTTP"), ("url", b"http://example.com/"), ("onFailure", b"x")], "on_failure"),
        ([("taskType", b"HTTP"), ("url", b"http://example.com/"), ("cloudevents", b"json")], "cloudevents"),
    ],
)
def test_a_record_that_is_no_webhook_is_refused(headers: Headers, field: str) -> None:
    with pytest.raises(InvalidTask) as caught:
        of_record(b"body", headers, AT, HTTP)
    assert caught.value.field == field


def test_webhooks_are_off_in_records_too() -> None:
    with pytest.raises(TypeDisabled, match=r"webhooks\.enabled"):
        read(b"", ("taskType", b"HTTP"), ("url", b"https://example.com/"))
