"""Tasks as a caller writes them, on their way to the wire."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from delaybox.client import NewTask, Retry
from delaybox.client.tasks import calls_of, filter_of, seconds, selection_of, unix_ms
from delaybox.core.errors import InvalidTask
from delaybox.wire.call import BYTES, CONTENT_TYPE, Call, Codecs
from delaybox.wire.gen import scheduler_pb2 as pb

MS = 1_893_456_000_123


def test_what_is_left_out_is_left_to_the_node():
    assert NewTask.publish(b"x").message == pb.NewTask(payload=b"x")
    assert NewTask.call("f").message == pb.NewTask(type=pb.TASK_TYPE_WORKER, name="f")
    assert NewTask.shell("date").message == pb.NewTask(type=pb.TASK_TYPE_SHELL_CMD, payload=b"date")
    assert NewTask.shell(name="backup").message == pb.NewTask(type=pb.TASK_TYPE_SHELL_CMD, name="backup")


def test_every_option_reaches_the_wire():
    task = NewTask.call(
        "mail.send",
        {"to": "a@b"},
        delay="1h30m",
        queue="mail",
        priority="high",
        key="order-17",
        retry=Retry(3, initial="2s", factor=3, maximum=timedelta(minutes=1), jitter=0.5),
        timeout=30_000,
        expire_after="1d",
        labels={"customer": "c-17"},
        headers={"trace": "4bf9", "raw": b"\xff"},
        keep_result=timedelta(hours=1),
        reject_past=True,
    )
    assert task.message == pb.NewTask(
        payload=b'{"to":"a@b"}',
        delay_ms=5_400_000,
        type=pb.TASK_TYPE_WORKER,
        queue="mail",
        priority=pb.PRIORITY_HIGH,
        name="mail.send",
        headers={"trace": b"4bf9", "raw": b"\xff"},
        labels={"customer": "c-17"},
        idempotency_key="order-17",
        retry={"max_attempts": 3, "initial_ms": 2_000, "factor": 3, "max_ms": 60_000, "jitter": 0.5},
        timeout_ms=30_000,
        expire_after_ms=86_400_000,
        keep_result_ms=3_600_000,
        reject_past=True,
    )
    assert NewTask.publish(retry=1).message.retry.max_attempts == 1
    assert NewTask.publish(key=None, at=None, timeout=None).message == pb.NewTask()


@pytest.mark.parametrize(
    ("payload", "sent"), [(b"\x00", b"\x00"), ("é", "é".encode()), ({"a": [1]}, b'{"a":[1]}'), (bytearray(b"x"), b"x")]
)
def test_payloads_of_publish(payload: object, sent: bytes):
    assert NewTask.publish(payload).message.payload == sent


def test_bytes_for_a_function_say_so():
    message = NewTask.call("f", b"\x00").message
    assert (message.payload, message.headers[CONTENT_TYPE]) == (b"\x00", BYTES.encode())


@pytest.mark.parametrize(
    "at",
    [
        MS,
        str(MS),
        "2030-01-01T01:00:00.123+01:00",
        datetime(2030, 1, 1, 0, 0, 0, 123_000, UTC),
        datetime(2030, 1, 1, 0, 0, 0, 122_001, UTC),
        datetime(2029, 12, 31, 19, 0, 0, 123_000, timezone(timedelta(hours=-5))),
    ],
)
def test_moments(at: Any):
    assert unix_ms("at", at) == MS
    assert NewTask.publish(at=at).message.due_ms == MS


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"at": datetime(2030, 1, 1)}, r"no time zone; use datetime\.now\(UTC\)"),  # noqa: DTZ001
        ({"at": datetime(1970, 1, 1, tzinfo=UTC)}, "before 1973"),
        ({"at": 1_893_456_000}, "looks like seconds"),
        ({"at": "tomorrow"}, "not a moment"),
        ({"at": MS, "delay": 5}, "at and delay are both given"),
        ({"delay": timedelta(seconds=-1)}, "negative"),
        ({"delay": 1.5}, "neither text nor a whole number"),
        ({"delay": True}, "neither text nor a whole number"),
        ({"timeout": 0}, "less than 1 ms"),
        ({"delay": "15 minutes"}, "not a duration"),
        ({"priority": "urgent"}, "not a priority; .* critical"),
    ],
)
def test_mistakes_are_named(options: dict[str, Any], words: str):
    with pytest.raises(InvalidTask, match=words):
        NewTask.publish(b"", **options)


def test_an_option_that_does_not_exist_is_named():
    with pytest.raises(TypeError, match="'dealy' is not an option of a task; there are at, delay"):
        NewTask.publish(b"", dealy=5)
    with pytest.raises(TypeError, match="'colour' is no part of a filter"):
        filter_of({"colour": "red"})


def test_items_of_a_map_are_calls_with_one_argument():
    make = calls_of("f", {"queue": "q"}, Codecs(), keep_result_ms=5)
    payloads = [make(item).payload for item in ([1, 2], {"a": 1}, None, Call(1, x=2))]
    assert payloads == [b"[[1,2]]", b'[{"a":1}]', b"[null]", b'{"args":[1],"kwargs":{"x":2}}']
    assert make(b"x").headers[CONTENT_TYPE] == BYTES.encode() and CONTENT_TYPE not in make(1).headers
    assert (make(1).queue, make(1).keep_result_ms) == ("q", 5)
    assert calls_of("f", {"keep_result": "1s"}, Codecs(), keep_result_ms=5)(1).keep_result_ms == 1_000
    with pytest.raises(InvalidTask, match="one key"):
        calls_of("f", {"key": "k"}, Codecs(), keep_result_ms=5)


def test_filters():
    wanted = filter_of({"state": "ready", "queue": "q", "type": "worker", "labels": {"a": "b"}, "due_from": MS})
    assert wanted == pb.TaskFilter(
        state=pb.TASK_STATE_READY, queue="q", type=pb.TASK_TYPE_WORKER, labels={"a": "b"}, due_from_ms=MS
    )
    assert not filter_of({}).HasField("type")
    with pytest.raises(InvalidTask, match="everything=True"):
        selection_of({"queue": None}, everything=False, limit=0, dry_run=False)


def test_waiting_here_is_in_seconds():
    assert [seconds("timeout", value) for value in (None, 2, 0.5, "1m", timedelta(minutes=1))] == [None, 2, 0.5, 60, 60]
    with pytest.raises(InvalidTask, match="not a time to wait"):
        seconds("timeout", -1)
