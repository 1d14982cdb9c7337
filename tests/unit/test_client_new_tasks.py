"""Tasks as a caller writes them, on their way to the wire."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from delaybox.client import Client, NewTask, Retry, calls
from delaybox.client.new_tasks import MapCalls, filter_of, history_of, selection_of
from delaybox.client.values import unix_ms
from delaybox.core.durations import span_ms, span_s
from delaybox.core.errors import InvalidTask
from delaybox.wire.call import BYTES, CONTENT_TYPE, Call, Codecs
from delaybox.wire.gen import scheduler_pb2 as pb
from delaybox.worker import RetryLater, TaskFunction, Worker

MS = 1_893_456_000_123


def _function() -> None: ...


def _initial(function: TaskFunction[..., Any]) -> int:
    assert function.retry is not None
    return function.retry.initial_ms


DUE = datetime(2030, 1, 1, 0, 0, 0, 123_000, UTC)


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
        timeout=30,
        expire_after="1d",
        labels={"customer": "c-17"},
        headers={"trace": "4bf9", "raw": b"\xff"},
        keep_result=timedelta(hours=1),
        max_snooze="3d",
        on_conflict="replace",
        max_wait="5m",
        unique_while="running",
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
        max_snooze_ms=259_200_000,
        on_conflict=pb.ON_CONFLICT_REPLACE,
        max_wait_ms=300_000,
        unique_while=pb.UNIQUE_WHILE_RUNNING,
        reject_past=True,
    )
    assert NewTask.publish(key=None, at=None, timeout=None).message == pb.NewTask()
    assert NewTask.publish(delivery="at_most_once").message == pb.NewTask(delivery=pb.DELIVERY_AT_MOST_ONCE)


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
        "2030-01-01T01:00:00.123+01:00",
        datetime(2030, 1, 1, 0, 0, 0, 123_000, UTC),
        datetime(2030, 1, 1, 0, 0, 0, 122_001, UTC),
        datetime(2029, 12, 31, 19, 0, 0, 123_000, timezone(timedelta(hours=-5))),
    ],
)
def test_moments(at: Any):
    assert unix_ms("at", at) == MS
    assert NewTask.publish(at=at).message.due_ms == MS
    assert NewTask.publish(at_ms=MS).message.due_ms == MS


LONG = [30, 30.0, timedelta(seconds=30), "30s", "PT30S"]


@pytest.mark.parametrize("span", LONG)
def test_a_number_is_seconds_wherever_a_length_of_time_is_asked_for(span: Any):
    options = {"delay": span, "timeout": span, "expire_after": span, "keep_result": span, "max_snooze": span}
    message = NewTask.call("f", **options, retry=Retry(initial=span, maximum=span)).message
    assert {message.delay_ms, message.timeout_ms, message.expire_after_ms, message.keep_result_ms} == {30_000}
    assert (message.retry.initial_ms, message.retry.max_ms) == (30_000, 30_000)
    for request in (
        calls.reschedule("id", {"delay": span}, priority=None, payload=None, labels=None).request,
        calls.reschedule_many({}, {"delay": span}, everything=True, limit=0, dry_run=False).request,
    ):
        assert request.delay_ms == 30_000  # type: ignore[attr-defined]
    assert calls.forecast(None, None, span).request.step_ms == 30_000  # type: ignore[attr-defined]
    worker = Worker("w", grace=span)
    made = worker.task(timeout=span, keep_result=span, retries=Retry(initial=span))(_function)
    assert (worker.grace_s, made.timeout_ms, made.keep_result_ms, _initial(made)) == (30, 30_000, 30_000, 30_000)
    assert NewTask.call(made).message.keep_result_ms == 30_000
    assert RetryLater(after=span).after == 30
    assert Client(timeout=span)._session.timeout_s == 30


def test_parts_of_a_millisecond_are_rounded_up_and_a_floats_dust_is_not_counted():
    spans = (0.3, 0.1 + 0.2, 1.001, 0.0001, Fraction(1, 3), Decimal("0.0015"))
    assert [span_ms("delay", span) for span in spans] == [300, 300, 1001, 1, 334, 2]  # type: ignore[arg-type]


@pytest.mark.parametrize("retry", [0, 3])
def test_a_number_of_retries_is_further_attempts_on_both_sides(retry: int):
    scheduled = NewTask.call("f", retry=retry).message.retry
    decorated = Worker("w").task(retries=retry)(_function).described([]).retry
    assert scheduled == decorated
    assert scheduled.max_attempts == retry + 1
    assert scheduled == NewTask.call("f", retry=Retry(retry + 1)).message.retry


def test_waits_that_are_not_given_fit_the_other():
    long = NewTask.call("f", retry=Retry(initial="2h")).message.retry
    short = NewTask.call("f", retry=Retry(maximum=0.5)).message.retry
    assert (long.initial_ms, long.max_ms, short.initial_ms, short.max_ms) == (7_200_000, 7_200_000, 500, 500)


def test_a_bare_delay_above_a_day_is_warned_of():
    with pytest.warns(FutureWarning, match=r"delay=90000 is 1 day, 1:00:00 .* a number is seconds") as seen:
        assert NewTask.publish(delay=90_000).message.delay_ms == 90_000_000
    assert seen[0].filename == __file__, "at the caller's line"
    for quiet in (86_400, "25h", timedelta(hours=25)):
        NewTask.publish(delay=quiet)  # warnings are errors here


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"at": datetime(2030, 1, 1)}, r"no time zone; use datetime\.now\(UTC\)"),  # noqa: DTZ001
        ({"at": datetime(1970, 1, 1, tzinfo=UTC)}, "before 1973"),
        ({"at": MS}, "is a number, not a moment; .* or Unix milliseconds as at_ms"),
        ({"at": str(MS)}, "is text, not a moment; .* or Unix milliseconds as at_ms"),
        ({"at": 1.9e9}, "is a number, not a moment"),
        ({"at": "tomorrow"}, "not a moment"),
        ({"at_ms": 1_893_456_000}, "looks like seconds"),
        ({"at_ms": 1.5e12}, "give whole Unix milliseconds"),
        ({"at_ms": MS, "delay": 5}, "at_ms and delay are both given"),
        ({"delay": timedelta(seconds=-1)}, "negative"),
        ({"delay": True}, "True is not a duration; give seconds"),
        ({"delay": float("nan")}, "nan is not a length of time"),
        ({"delay": float("inf")}, "inf is not a length of time"),
        ({"delay": 1e11}, "more than 10"),
        ({"delay": "30"}, "'30' has no unit; write '30s' for seconds"),
        ({"delay": b"30s"}, "is not a duration; give seconds, a timedelta"),
        ({"timeout": 0}, "less than 1 ms; give seconds"),
        ({"delay": "15 minutes"}, "not a duration"),
        ({"priority": "urgent"}, "not a priority; did you mean critical. there are low, normal, high, critical"),
        ({"priority": 3}, "priority 3 is a number, not text; there are low, normal, high, critical"),
        ({"retry": "x"}, "retry 'x' is text; give how many further attempts"),
        ({"retry": True}, "retry True is a truth value"),
        ({"retry": -1}, "retry -1 is not in range; .* 0 to 999"),
        ({"retry": Retry(0)}, r"retry\.attempts 0 is not in range; give 1 \(no retry\)"),
        ({"retry": Retry(jitter=2)}, r"retry\.jitter 2 is not in range"),
        ({"retry": Retry(factor=float("nan"))}, r"retry\.factor nan is not in range"),
        ({"retry": Retry(initial="2h", maximum="1h")}, r"retry\.initial \(7200000 ms\) is more than retry\.maximum"),
        ({"labels": {"n": None}}, r"labels: the value of 'n' is None \(nothing\), not text; leave it out"),
        ({"labels": {"n": 5}}, r"labels: the value of 'n' is 5 \(a number\), not text; write '5'"),
        ({"labels": {5: "n"}}, r"labels: a name is 5 \(a number\), not text"),
        ({"labels": ["a"]}, "labels .* give"),
        ({"headers": {"n": 5}}, "headers: the value of 'n' is 5 .*; give text or bytes"),
        ({"queue": 5}, "queue 5 is a number, not text"),
        ({"key": b"k"}, "key .* is bytes, not text"),
        ({"key": ""}, "key has 0 bytes; use 1 to 256, or leave it out"),
        ({"key": "ä" * 129}, "key has 258 bytes; use 1 to 256"),
        ({"queue": ""}, "queue is empty; give a name, or leave it out for the default"),
        ({"group": ""}, "group is empty; give a name, or leave it out for none"),
        ({"fairness_key": ""}, "fairness_key is empty; give a name, or leave it out for none"),
        ({"queue": "\ud800"}, "half a character"),
        ({"reject_past": "yes"}, "reject_past 'yes' is neither True nor False"),
    ],
)
def test_mistakes_are_named(options: dict[str, Any], words: str):
    with pytest.raises(InvalidTask, match=words) as caught:
        NewTask.publish(b"", **options)
    assert caught.value.field.partition(".")[0] in options


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"retries": "x"}, "retries 'x' is text"),
        ({"retries": Retry(factor=0)}, r"retries\.factor 0 is not in range"),
        ({"timeout": "10"}, "no unit"),
    ],
)
def test_a_workers_decorator_checks_by_the_same_rules(options: dict[str, Any], words: str):
    with pytest.raises(InvalidTask, match=words):
        Worker("w").task(**options)(_function)


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ({"paused": "no"}, "paused 'no' is text; give True or False"),
        ({"concurrency": True}, "concurrency True is not a whole number from 1 on"),
        ({"slack": 5}, r"slack 5 is no dictionary; give one such as \{"),
        ({"keys": 5}, r"keys 5 is no list of limits; give them such as \[\{"),
        ({"keys": {"by": "group"}}, "is no list of limits"),
        ({"keys": ["group"]}, r"keys\[0\] 'group' is no dictionary; give one such as \{"),
    ],
)
def test_wrong_rules_of_a_queue_are_named(rules: dict[str, Any], words: str):
    with pytest.raises(InvalidTask, match=words):
        calls.set_queue("q", rules, replace=False)


def test_a_filter_of_ends_that_names_nothing_is_refused():
    for wanted in ({"queue": ""}, {"function": ""}):
        with pytest.raises(InvalidTask, match="is empty; give a name, or leave it out for any"):
            history_of(wanted)


def test_a_move_that_says_nothing_is_refused_in_the_words_of_python():
    with pytest.raises(InvalidTask, match="nothing would change; give at, at_ms or delay, priority"):
        calls.reschedule("x", {"at": None, "at_ms": None, "delay": None}, priority=None, payload=None, labels=None)


def test_an_empty_key_names_no_task():
    with pytest.raises(InvalidTask, match="key has 0 bytes; use 1 to 256"):
        calls.get(None, "")


def test_ids_are_text():
    with pytest.raises(InvalidTask, match="id 5 is a number"):
        calls.get(5)  # type: ignore[arg-type]


def test_an_option_that_does_not_exist_is_named():
    with pytest.raises(TypeError, match="'dealy' is not an option of a task; there are at, at_ms, delay"):
        NewTask.publish(b"", dealy=5)
    with pytest.raises(TypeError, match="'colour' is no part of a filter"):
        filter_of({"colour": "red"})


def test_items_of_a_map_are_calls_with_one_argument():
    make = MapCalls("f", {"queue": "q"}, Codecs(), keep_result_ms=5)
    payloads = [make.one(item).payload for item in ([1, 2], {"a": 1}, None, Call(1, x=2))]
    assert payloads == [b"[[1,2]]", b'[{"a":1}]', b"[null]", b'{"args":[1],"kwargs":{"x":2}}']
    assert make.one(b"x").headers[CONTENT_TYPE] == BYTES.encode() and CONTENT_TYPE not in make.one(1).headers
    assert (make.one(1).queue, make.one(1).keep_result_ms) == ("q", 5)
    assert MapCalls("f", {"keep_result": "1s"}, Codecs(), keep_result_ms=5).one(1).keep_result_ms == 1_000
    with pytest.raises(InvalidTask, match="one key"):
        MapCalls("f", {"key": "k"}, Codecs(), keep_result_ms=5)
    assert MapCalls("f", {}, Codecs(), keep_result_ms=5, key=str).one(7).idempotency_key == "7"
    assert (make.again, MapCalls("f", {"retry": 0}, Codecs(), keep_result_ms=5).again) == (True, False)


def test_a_result_can_be_switched_off():
    for nothing in (0, "0s", timedelta()):
        message = NewTask.call("f", keep_result=nothing).message
        assert (message.keep_result_ms, message.no_result) == (0, True)
    assert not NewTask.call("f", keep_result=1).message.no_result
    with pytest.raises(InvalidTask, match="leaves a map without results"):
        MapCalls("f", {"keep_result": 0}, Codecs(), keep_result_ms=5)


def test_filters():
    wanted = filter_of({"state": "ready", "queue": "q", "type": "worker", "labels": {"a": "b"}, "due_from": DUE})
    assert wanted == pb.TaskFilter(
        state=pb.TASK_STATE_READY, queue="q", type=pb.TASK_TYPE_WORKER, labels={"a": "b"}, due_from_ms=MS
    )
    assert not filter_of({}).HasField("type")
    with pytest.raises(InvalidTask, match="everything=True"):
        selection_of({"queue": None}, everything=False, limit=0, dry_run=False)


@pytest.mark.parametrize("limit", [-1, True, 1.5, 1 << 63])
def test_a_limit_that_is_none_is_told_by_its_name(limit: Any) -> None:
    with pytest.raises(InvalidTask, match="0 for no limit") as caught:
        selection_of({"queue": "q"}, everything=False, limit=limit, dry_run=False)
    assert caught.value.field == "limit"


def test_a_weight_of_0_is_not_left_out() -> None:
    """On the wire it would be no weight at all."""
    with pytest.raises(InvalidTask, match="give 0") as caught:
        NewTask.call("f", fairness_key="a", fairness_weight=0)
    assert caught.value.field == "fairness_weight"


def test_a_pause_is_true_or_false() -> None:
    with pytest.raises(InvalidTask, match="give True or False") as caught:
        calls.set_queue("mail", {"paused": "yes"}, replace=False)
    assert caught.value.field == "paused"


def test_waiting_here_is_in_seconds():
    assert [span_s("timeout", value) for value in (None, 2, 0.5, "1m", timedelta(minutes=1))] == [None, 2, 0.5, 60, 60]
    for wrong in (-1, float("nan"), "5"):
        with pytest.raises(InvalidTask, match="timeout"):
            span_s("timeout", wrong)


@pytest.mark.parametrize("part", ["queue", "function", "group"])
def test_an_empty_name_in_a_filter_does_not_mean_any(part: str) -> None:
    """As over REST and on the command line: else an empty variable would cancel a whole queue."""
    with pytest.raises(InvalidTask, match=f"^{part} is empty; give a name"):
        filter_of({"type": "worker", part: ""})
    assert getattr(filter_of({part: "mail"}), part) == "mail"


@pytest.mark.parametrize(
    ("wanted", "options", "words"),
    [
        ({"queue": "q"}, {"dry_run": "no"}, "dry_run 'no' is text; give True or False"),
        ({"queue": "q"}, {"dry_run": None}, "dry_run None is"),
        ({}, {"everything": "no"}, "everything 'no' is text; give True or False"),
        ({"labels": {}}, {}, "no filter is given; give one, or everything=True"),
        ({"type": "pub_sub"}, {"everything": True}, "everything is given with a filter; give one of them"),
    ],
)
def test_a_wrong_selection_is_refused_in_the_words_of_python(
    wanted: dict[str, Any], options: dict[str, Any], words: str
) -> None:
    """Before anything is changed: what was meant as a dry run must not delete."""
    with pytest.raises(InvalidTask, match=words):
        selection_of(wanted, **{"everything": False, "limit": 0, "dry_run": False} | options)
    assert selection_of({"type": "pub_sub"}, everything=False, limit=0, dry_run=True).dry_run
    assert selection_of({}, everything=True, limit=0, dry_run=False).all
