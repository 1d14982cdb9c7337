"""Sizes and counts are checked before a parser makes anything of a request."""

from __future__ import annotations

import time
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delaybox.api.grpc.work import profile_of
from delaybox.core import ids
from delaybox.core.durations import duration_ms
from delaybox.core.errors import DelayBoxError, InvalidTask, Overloaded, PayloadTooLarge
from delaybox.core.limits import MAX_FIELDS
from delaybox.core.task import TaskType
from delaybox.wire import body, kafka_record, strictjson
from delaybox.wire.bounds import check_batch_count, check_items
from delaybox.wire.gen import scheduler_pb2 as pb
from delaybox.wire.gen import task_pb2, worker_pb2
from delaybox.wire.json import tasks
from delaybox.wire.json.moments import moment_ms
from delaybox.wire.original import message, request
from delaybox.wire.proto.bulk import frames

MIB = 1 << 20
RULES = tasks.TaskRules()
_EMPTY = 3_000_000


def nested(tag: bytes, inner: bytes) -> bytes:
    return tag + body.varint(len(inner)) + inner


MANY: dict[str, tuple[Any, bytes]] = {
    "empty tasks": (pb.ScheduleBatchRequest, b"\x0a\x00" * _EMPTY),
    "empty ids": (pb.WatchRequest, b"\x0a\x00" * _EMPTY),
    "a task again and again": (pb.ScheduleRequest, b"\x0a\x00" * _EMPTY),
    "empty headers": (pb.ScheduleRequest, nested(b"\x0a", b"\x42\x00" * _EMPTY)),
    "empty labels": (pb.CancelManyRequest, nested(b"\x0a", nested(b"\x0a", b"\x22\x00" * _EMPTY))),
    "empty queues": (worker_pb2.FromWorker, nested(b"\x12", nested(b"\x22", b"\x1a\x00" * _EMPTY))),
    "packed numbers": (worker_pb2.FromWorker, nested(b"\x1a", b"\x01" * _EMPTY)),
    "single numbers": (worker_pb2.FromWorker, b"\x18\x01" * _EMPTY),
    "numbers of many bytes": (worker_pb2.FromWorker, nested(b"\x32", (b"\xff" * 9 + b"\x01") * (_EMPTY // 10))),
    "in many small messages": (
        worker_pb2.FromWorker,
        nested(b"\x12", nested(b"\x22", b"\x1a\x00" * 4_000) * 300),
    ),
    "unknown fields": (pb.GetRequest, b"\x78\x01" * _EMPTY),
    "groups": (pb.GetRequest, b"\x7b\x7c" * _EMPTY),
}


@pytest.mark.parametrize("name", MANY)
def test_a_message_of_many_items_is_refused_unparsed(name: str):
    kind, raw = MANY[name]
    started = time.process_time()
    with pytest.raises(PayloadTooLarge, match=f"more than {MAX_FIELDS} fields and numbers") as error:
        check_items(raw, kind)
    assert error.value.limit == MAX_FIELDS
    assert time.process_time() - started < 1.0


def test_what_callers_send_is_far_below_the_bound():
    for sent in (
        pb.WatchRequest(ids=["018f0000-0000-8000-8000-000000000000"] * 10_000),
        pb.ScheduleRequest(task=pb.NewTask(payload=b"x" * MIB, headers={f"h{n}": b"v" for n in range(5_000)})),
        worker_pb2.FromWorker(done=range(20_000), handed_back=range(20_000)),
        worker_pb2.FromWorker(succeeded=[worker_pb2.Succeeded(sequence=n, output=b"x" * 90) for n in range(10_000)]),
    ):
        check_items(sent.SerializeToString(), type(sent))


@settings(deadline=None, max_examples=50)
@given(st.binary(max_size=200), st.integers(0, 3))
def test_any_bytes_may_be_counted(raw: bytes, cut: int):
    many = raw * (1 + 20_000 // max(1, len(raw)))
    for kind in (pb.ScheduleRequest, worker_pb2.FromWorker, task_pb2.Task):
        try:
            check_items(many[: len(many) - cut], kind)
        except PayloadTooLarge:
            assert len(many) > 16_000


def test_a_batch_is_counted_while_it_is_taken_apart():
    with pytest.raises(PayloadTooLarge, match="more than 10000 tasks"):
        frames(b"\x0a\x00" * _EMPTY)
    with pytest.raises(PayloadTooLarge, match="fields and numbers"):
        frames(b"\x78\x01" + b"\x0a\x00" * _EMPTY)
    raw = b"\x0a\x00" * 10_000
    assert len(frames(raw)[1]) == 10_000


@pytest.mark.parametrize("item", [b"{}", b"1", b"[]", b'""', b'{"payload":"x"}', b"[{},{}]"])
def test_a_json_batch_of_millions_is_refused_before_anything_is_made_of_them(item: bytes):
    raw = b'{"tasks":[' + b",".join([item] * (8 * MIB // (len(item) + 1))) + b"]}"
    check_batch_count(b'{"tasks":' + b"," * 20_000)  # what it imports when it first counts is not the batch's
    tracemalloc.start()
    try:
        with pytest.raises(PayloadTooLarge, match="more than 10000 tasks"):
            check_batch_count(raw)
        assert tracemalloc.get_traced_memory()[1] < 2 * MIB
    finally:
        tracemalloc.stop()


def test_a_json_batch_of_few_large_tasks_is_none_of_millions():
    numbers = b'{"payload_json":[' + b",".join([b"1"] * 100_000) + b"]}"
    check_batch_count(b'{"tasks":[' + b",".join([numbers] * 5) + b"]}")
    check_batch_count(b'{"tasks":[' + b",".join([b'{"payload":"a,b,c"}'] * 10_000) + b"]}")
    check_batch_count(b'{"tasks":' + b"," * 20_000)  # no JSON: its reader says so


def test_one_task_of_a_batch_may_be_as_large_as_one_that_comes_alone():
    raw = b'{"payload_json":[' + b",".join([b"1"] * 3_000_000) + b"]}"
    started = time.process_time()
    with pytest.raises(PayloadTooLarge, match="the task holds 6000018 bytes, more than 1703936"):
        tasks.parse_task(raw, RULES)
    with pytest.raises(PayloadTooLarge, match="payload_json holds"):
        tasks.parse_task(b'{"payload_json":[' + b",".join([b"1"] * 600_000) + b"]}", RULES)
    assert time.process_time() - started < 0.5


def test_the_strict_reader_takes_no_millions_of_values():
    with pytest.raises(InvalidTask, match="more than 600000 values"):
        strictjson.loads(b"[" + b",".join([b"1"] * 2_000_000) + b"]")
    assert strictjson.loads(b'"' + b'\\",' * 700_000 + b'"') == '",' * 700_000


@pytest.mark.parametrize("text", ["1h" * 2_000_000, "1h1" * 1_000_000, "P" + "1" * 4_000_000, "1" * 4_000_000])
def test_the_length_of_a_time_is_looked_at_first(text: str):
    started = time.process_time()
    readers: tuple[Any, ...] = (duration_ms, moment_ms)
    for read in readers:
        with pytest.raises(
            InvalidTask, match=r"delay .* has \d+ characters, which is not a (duration|moment)"
        ) as error:
            read("delay", text)
        assert len(str(error.value)) < 300
    with pytest.raises(DelayBoxError):
        request.of_header({"delay": text.encode()})
    assert time.process_time() - started < 0.5


def test_an_id_is_not_repeated_whole():
    with pytest.raises(InvalidTask) as error:
        ids.parse("x" * 5_000_000)
    assert len(str(error.value)) < 200
    with pytest.raises(InvalidTask):
        ids.parse("018f0000-0000-8000-8000-000000000000" + "-" * 30 + "x")


def test_hello_is_counted_before_its_names_are_looked_at():
    hello = worker_pb2.Hello(
        queues=["BAD NAME"] * 900, functions=[worker_pb2.Function(name=f"f{n}") for n in range(2_500)]
    )
    with pytest.raises(Overloaded, match="hello names 2250000 pairs of function and queue, more than 1000"):
        profile_of(hello)
    hello = worker_pb2.Hello(queues=["q"] * 100_000, functions=[worker_pb2.Function(name="f", queues=["q"])])
    with pytest.raises(Overloaded, match="100000 pairs"):
        profile_of(hello)
    fits = worker_pb2.Hello(queues=[f"q{n}" for n in range(10)], labels={f"l{n}": "x" * 300 for n in range(100)})
    fits.functions.extend(worker_pb2.Function(name=f"f{n}") for n in range(100))
    profile = profile_of(fits)
    assert (len(profile.lanes), len(profile.labels)) == (1_000, 16)
    assert {len(value) for value in profile.labels.values()} == {200}


WRONG = {
    "labels": task_pb2.Task(labels={str(n): "" for n in range(17)}),
    "labels of any length": task_pb2.Task(labels={"a": "x" * 300}),
    "timeout_ms": task_pb2.Task(timeout_ms=1 << 60),
    "expire_after_ms": task_pb2.Task(expire_after_ms=1 << 60),
    "keep_result_ms": task_pb2.Task(keep_result_ms=1 << 60),
    "max_snooze_ms": task_pb2.Task(max_snooze_ms=1 << 60),
    "at_most_once": task_pb2.Task(at_most_once=True),
    "name": task_pb2.Task(name="f"),
    "retry.max_attempts": task_pb2.Task(retry=task_pb2.Retry(max_attempts=5_000)),
    "retry.factor": task_pb2.Task(retry=task_pb2.Retry(factor=float("nan"))),
    "body": task_pb2.Task(payload=b"x" * 2 * MIB),
}


@pytest.mark.parametrize("field", WRONG)
def test_the_channel_and_kafka_have_the_bounds_of_the_other_doors(field: str):
    raw = WRONG[field].SerializeToString()
    with pytest.raises(InvalidTask) as error:
        message.of_message(raw, request.DEFAULT_RULES)
    assert error.value.field == field.split(" ")[0]
    with pytest.raises(InvalidTask) as error:
        kafka_record.of_record(raw, [("content-type", b"application/x-protobuf")], 0, kafka_record.RecordRules())
    assert error.value.field == field.split(" ")[0]
    for many in (b"\x12\x00" * 500_000, b"\x4a\x00" * 500_000):
        with pytest.raises(PayloadTooLarge):
            message.of_message(many, request.DEFAULT_RULES)


def test_a_record_names_a_function_by_the_rules_of_names():
    rules = kafka_record.RecordRules(original=request.OriginalRules(types=frozenset(TaskType)))
    with pytest.raises(InvalidTask, match="not a name"):
        kafka_record.of_record(b"", [("taskType", b"WORKER"), ("name", b"a:b")], 0, rules)
    assert kafka_record.of_record(b"", [("taskType", b"WORKER"), ("name", b"f" * 128)], 0, rules).name == "f" * 128
