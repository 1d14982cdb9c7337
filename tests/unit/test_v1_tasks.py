"""Section 2 of the API: each field, and each wrong input with its words."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delaybox.core.errors import InvalidTask, PayloadTooLarge, TypeDisabled
from delaybox.core.query import TaskQuery
from delaybox.core.retry import RetryPolicy
from delaybox.core.task import NewTask, OnConflict, Priority, TaskChange, TaskState, TaskType, UniqueWhile
from delaybox.wire import controls
from delaybox.wire.json import queries
from delaybox.wire.json.tasks import TaskRules, parse_change, parse_task
from delaybox.wire.shell_rules import ShellRules

RULES = TaskRules()
SHELL = TaskRules(shell=ShellRules(payloads=True))


def body(**fields: object) -> bytes:
    return json.dumps(fields).encode()


def refusal(raw: bytes, rules: TaskRules = RULES, **more: Any) -> InvalidTask:
    with pytest.raises(InvalidTask) as caught:
        parse_task(raw, rules, **more)
    message = str(caught.value)
    assert len(message) < 480
    assert "\n" not in message
    return caught.value


def test_an_empty_object_is_a_task_at_once():
    assert parse_task(b"{}", RULES) == NewTask()


def test_every_field():
    raw = body(
        type="worker",
        queue="mail",
        priority="critical",
        at="2030-01-31T09:00:00+01:00",
        payload="héllo",
        headers={"trace": "4bf9"},
        name="mail.send",
        retry={"max_attempts": 8, "backoff": {"initial": "2s", "factor": 3, "max": "10m", "jitter": 0.5}},
        timeout="30s",
        expire_after="PT10M",
        idempotency_key="order-17",
        labels={"customer": "c:17"},
        keep_result="1d",
        max_snooze="3d",
        on_conflict="replace",
        max_wait="5m",
        unique_while="running",
        reject_past=True,
    )
    assert parse_task(raw, RULES) == NewTask(
        type=TaskType.WORKER,
        queue="mail",
        priority=Priority.CRITICAL,
        due_ms=1896076800000,
        payload="héllo".encode(),
        header={"trace": b"4bf9"},
        name="mail.send",
        retry=RetryPolicy(max_attempts=8, initial_ms=2000, factor=3.0, max_ms=600_000, jitter=0.5),
        timeout_ms=30_000,
        expire_after_ms=600_000,
        idempotency_key="order-17",
        labels={"customer": "c:17"},
        keep_result_ms=86_400_000,
        max_snooze_ms=259_200_000,
        on_conflict=OnConflict.REPLACE,
        max_wait_ms=300_000,
        unique_while=UniqueWhile.RUNNING,
        reject_past=True,
    )


def test_null_is_the_same_as_nothing():
    names = [
        "type", "queue", "priority", "at", "delay", "payload", "payload_base64", "headers", "name", "retry", "timeout",
        "expire_after", "idempotency_key", "labels", "keep_result", "max_snooze", "reject_past",
        "on_conflict", "max_wait", "unique_while",
    ]  # fmt: skip
    assert parse_task(body(**dict.fromkeys(names)), RULES) == NewTask()


@pytest.mark.parametrize(
    ("raw", "payload"),
    [
        (b'{"payload":"hi"}', b"hi"),
        (b'{"payload":""}', b""),
        (b'{"payload":"\\u00e9"}', "é".encode()),
        (b'{"payload_base64":"AAE="}', b"\x00\x01"),
        (b'{"payload_json":null}', b""),
        (b'{"payload":"a","payload_json":null,"payload_base64":null,"at":null,"delay":null,"retry":null}', b"a"),
        (b'{"payload":"null"}', b"null"),
        (b'{"payload_json": {"b": [1.10, 1e5],"a":"x:y"} }', b'{"b": [1.10, 1e5],"a":"x:y"}'),
    ],
)
def test_payloads(raw, payload):
    assert parse_task(raw, RULES).payload == payload


@pytest.mark.parametrize(
    ("literal", "due"),
    [(b"1.7e12", 1_700_000_000_000), (b"1721672590913.0", 1721672590913), (b'"1721672590913"', 1721672590913)],
)
def test_whole_numbers_however_they_are_spelled(literal, due):
    assert parse_task(b'{"at":' + literal + b"}", RULES).due_ms == due


def test_a_float_is_not_rounded_to_a_whole_number():
    error = refusal(b'{"at":1721672590913.00000000001}')
    assert "is not a whole number" in str(error)


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"foo": 1}, "foo", "'foo' is not a field of a task; there are type, queue"),
        ({"pyload": "x"}, "pyload", "did you mean payload?"),
        ({"executionTimestamp": 1}, "executionTimestamp", "did you mean at?"),
        ({"taskType": "x"}, "taskType", "did you mean type?"),
        ({"priorty": "x"}, "priorty", "did you mean priority?"),
        ({"retry": {"attempts": 3}}, "retry.attempts", "is not a field of retry; did you mean max_attempts?"),
        ({"retry": {"backoff": {"min": 3}}}, "retry.backoff.min", "is not a field of retry.backoff"),
        ({"at": 1721672590913, "delay": 5}, "delay", "at 1721672590913 and delay 5 are both given; give one"),
        ({"at": "yesterday"}, "at", "at 'yesterday' is not a moment; give RFC 3339 with an offset"),
        ({"at": 1721672590}, "at", "looks like seconds"),
        ({"at": True}, "at", "at must be an object or a string or a number, not true"),
        ({"at": []}, "at", "at must be an object or a string or a number, not a list"),
        ({"delay": "15"}, None, ""),
        ({"delay": "a while"}, "delay", "delay 'a while' is not a duration; give milliseconds, or text such as"),
        ({"delay": -1}, "delay", "is negative"),
        ({"delay": 1.5}, "delay", "delay 1.5 is not a whole number"),
        ({"type": "PUB_SUB"}, "type", "type 'PUB_SUB' is not a task type; did you mean pub_sub?"),
        ({"type": "webhook"}, "type", "did you mean http?"),
        ({"type": 5}, "type", "type must be a string, not the number 5"),
        ({"queue": "Mail Box"}, "queue", "queue 'Mail Box' is not a queue name; use 1 to 64 of"),
        ({"queue": ""}, "queue", "is not a queue name"),
        ({"queue": "a" * 65}, "queue", "is not a queue name"),
        ({"queue": "a\n"}, "queue", "is not a queue name"),
        ({"priority": "urgent"}, "priority", "priority 'urgent' is not a priority; did you mean critical?"),
        ({"priority": 1}, "priority", "priority must be a string, not the number 1"),
        ({"payload": {"a": 1}}, "payload", "payload must be a string, not an object; give JSON as payload_json"),
        ({"payload": "a", "payload_json": 1}, "payload_json", "payload and payload_json are both given; give one"),
        ({"payload_json": 1, "payload_base64": ""}, "payload_base64", "are both given"),
        ({"payload_base64": "a"}, "payload_base64", "is not standard base64"),
        ({"payload_base64": "YR=="}, "payload_base64", "is not standard base64; the bits after the last byte must be"),
        ({"at": {"local": "2030-01-01T00:00:00", "tz": "UTC"}}, "at.tz", "; there are local, zone, fold"),
        ({"payload_base64": "YWF="}, "payload_base64", "is not standard base64"),
        ({"payload_base64": "YWFh\nYWFh"}, "payload_base64", "is not standard base64"),
        ({"headers": {"a": 1}}, "headers", "headers: the value of 'a' must be a string, not the number 1"),
        ({"headers": []}, "headers", "headers must be an object, not a list"),
        ({"labels": {str(i): "" for i in range(17)}}, "labels", "labels holds 17 pairs; give at most 16"),
        ({"labels": {"a b": ""}}, "labels", "'a b' is not a label's name"),
        ({"labels": {"a": "x" * 257}}, "labels", "has 257 characters; use at most 256"),
        ({"retry": 3}, "retry", "retry must be an object, not the number 3"),
        ({"retry": {"max_attempts": 0}}, "retry.max_attempts", "0 is not in range; give 1 (no retry) to 1000"),
        ({"retry": {"max_attempts": 2.5}}, "retry.max_attempts", "2.5 is not a whole number"),
        ({"retry": {"backoff": {"factor": 0.5}}}, "retry.backoff.factor", "0.5 is not in range; give 1 to 100"),
        ({"retry": {"backoff": {"jitter": 2}}}, "retry.backoff.jitter", "2 is not in range; give 0 to 1"),
        ({"retry": {"backoff": {"initial": "x"}}}, "retry.backoff.initial", "'x' is not a duration"),
        ({"retry": {"backoff": {"initial": "2h", "max": "1h"}}}, "retry.backoff.initial", "is more than"),
        ({"timeout": 0}, "timeout", "timeout 0 is less than 1 ms"),
        ({"timeout": "P1Y"}, "timeout", "years or months, which have no fixed length"),
        ({"expire_after": "never"}, "expire_after", "expire_after 'never' is not a duration"),
        ({"max_snooze": 0}, "max_snooze", "max_snooze 0 is less than 1"),
        ({"on_conflict": "replace"}, "on_conflict", "is given and no idempotency key; give one as well"),
        ({"unique_while": "running"}, "unique_while", "is given and no idempotency key"),
        ({"idempotency_key": "k", "on_conflict": "merge"}, "on_conflict", "'merge' is not a way"),
        ({"idempotency_key": "k", "unique_while": "ever"}, "unique_while", "'ever' is not a span"),
        ({"idempotency_key": "k", "max_wait": "1m"}, "max_wait", "goes with on_conflict replace"),
        ({"delivery": "twice"}, "delivery", "'twice' is not a way"),
        ({"delivery": "at_most_once", "keep_result": "1h"}, "keep_result", "leaves no result"),
        ({"delivery": "at_most_once", "retry": {"max_attempts": 3}}, "retry", "is never tried again"),
        ({"delivery": "at_most_once", "idempotency_key": "k", "unique_while": "running"}, "unique_while", "not known"),
        ({"keep_result": -5}, "keep_result", "keep_result -5 is negative"),
        ({"idempotency_key": ""}, "idempotency_key", "has 0 bytes; use 1 to 256"),
        ({"idempotency_key": "é" * 129}, "idempotency_key", "has 258 bytes; use 1 to 256"),
        ({"reject_past": 1}, "reject_past", "reject_past must be true or false, not the number 1"),
        ({"name": "f"}, "name", "name 'f' says nothing to a pub_sub task"),
        ({"type": "worker"}, "name", "name is missing; a worker task names the function"),
        ({"type": "worker", "name": "a\tb"}, "name", "is not a name"),
    ],
)  # fmt: skip
def test_wrong_fields(fields, field, words):
    if field is None:
        assert parse_task(body(**fields), RULES).delay_ms == 15
        return
    error = refusal(body(**fields))
    assert words in str(error)
    assert error.field == field


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "body is empty"),
        (b"null", "body must be an object, not null"),
        (b"[]", "body must be an object, not a list"),
        (b'"x"', "body must be an object, not a string"),
        (b"{", "body is not valid JSON"),
        (b'{"a":1,}', "body is not valid JSON"),
        (b'{"queue":"a","queue":"b"}', "body names 'queue' twice"),
        (b'{"queue":"a","queue":null}', "body names 'queue' twice"),
        (b'{"queue":"a:","queue":"b"}', "body names 'queue' twice"),
        (b'{"labels":{"a":"1","a":"2"}}', "body names 'a' twice"),
        (b'{"retry":{"max_attempts":1,"max_attempts":2}}', "body names 'max_attempts' twice"),
        (b'{"delay":NaN}', "NaN, which is not JSON"),
        (b'{"delay":Infinity}', "Infinity, which is not JSON"),
        (b'{"delay":1e400}', "delay holds a number that is out of range; give one that"),
        (b'{"payload":"\\ud800"}', "half a surrogate pair"),
        (b'{"payload":"\xff"}', "body is not UTF-8"),
        (b'\xef\xbb\xbf{"payload":""}', "byte order mark"),
        (b'{"payload_json":' + b"[" * 40 + b"]" * 40 + b"}", "deeper than"),
        (b'{"payload_json":' + b"[" * 5000 + b"]" * 5000 + b"}", "deeper than"),
        (b'{"payload_json":{"a":1,"a":2}}', "names 'a' twice"),
        (b'{"payload_json":{"\\u0061":1,"a":2}}', "names 'a' twice"),
        (b'{"payload_json":"\xff"}', "not UTF-8"),
    ],
)
def test_wrong_bodies(raw, words):
    assert words in str(refusal(raw))


def test_a_number_that_no_float_holds_is_refused_inside_a_payload_too():
    assert refusal(b'{"payload_json":[1e400]}').field == "payload_json"


def test_sizes():
    assert len(parse_task(body(payload="x" * 1024 * 1024), RULES).payload) == 1024 * 1024
    for raw in (
        b'{"payload":"%b"}' % ("é" * (512 * 1024 + 1)).encode(),
        body(payload_json=["x" * 1024 * 1024]),
        body(payload_base64="AAAA" * (350 * 1024)),
    ):
        error = refusal(raw)
        assert isinstance(error, PayloadTooLarge)
        assert "more than 1048576; store it elsewhere" in str(error)
    error = refusal(body(headers={"a": "x" * 65_536}))
    assert isinstance(error, PayloadTooLarge)
    assert error.field == "headers"


def test_shell_and_http_say_how_to_enable_them():
    error = refusal(body(type="shell", payload="date"))
    assert isinstance(error, TypeDisabled)
    assert "--enable-shell" in str(error)
    error = refusal(body(type="http"))
    assert isinstance(error, TypeDisabled)
    assert "webhooks.enabled: true" in str(error)


def test_shell_where_it_is_enabled():
    assert parse_task(body(type="shell", payload="date"), SHELL).type is TaskType.SHELL_CMD
    assert "NUL" in str(refusal(body(type="shell", payload_base64="AA=="), SHELL))
    assert refusal(body(type="shell", name="backup"), SHELL).field == "name"


def test_the_key_comes_in_the_body_or_in_the_header():
    assert parse_task(b"{}", RULES, key="k").idempotency_key == "k"
    assert parse_task(body(idempotency_key="k"), RULES, key="k").idempotency_key == "k"
    error = refusal(body(idempotency_key="k"), key="l")
    assert "idempotency_key 'k' and the header Idempotency-Key 'l' differ; give one" in str(error)


def test_a_longer_first_wait_lifts_the_longest():
    task = parse_task(body(retry={"backoff": {"initial": "2h"}}), RULES)
    assert task.retry == RetryPolicy(initial_ms=7_200_000, max_ms=7_200_000)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda s: st.lists(s) | st.dictionaries(st.text(), s)
    )
)
def test_any_json_is_a_payload(value):
    raw = json.dumps(value).encode()
    payload = parse_task(b'{"payload_json":' + raw + b"}", RULES).payload
    assert payload == b"" if value is None else json.loads(payload) == value


_names = st.text(max_size=5).filter(lambda name: name not in controls.RESERVED)


@given(st.dictionaries(_names, st.text(max_size=5), max_size=5), st.text(max_size=20))
def test_colons_and_escapes_are_no_names(headers, payload):
    for ascii_only in (True, False):
        raw = json.dumps({"headers": headers, "payload": payload}, ensure_ascii=ascii_only).encode()
        task = parse_task(raw, RULES)
        assert task.payload == payload.encode()
        assert task.header == {name: text.encode() for name, text in headers.items()}


@given(st.binary(max_size=40))
def test_nothing_but_words_comes_of_nonsense(raw):
    try:
        parse_task(raw, RULES)
    except InvalidTask as error:
        assert str(error)


def test_a_change():
    assert parse_change(body(delay="1h", priority="low", payload="", labels={}), RULES) == TaskChange(
        delay_ms=3_600_000, priority=Priority.LOW, payload=b"", labels={}
    )
    for raw, words in (
        (b"{}", "body changes nothing"),
        (body(at=None), "body changes nothing"),
        (body(queue="x"), "'queue' is not a field that can be changed"),
        (body(at=1721672590913, delay=0), "are both given"),
        (b'{"delay":1,"delay":2}', "names 'delay' twice"),
    ):
        with pytest.raises(InvalidTask) as caught:
            parse_change(raw, RULES)
        assert words in str(caught.value)


def test_a_query():
    asked = queries.parse_tasks(
        b"state=ready&queue=mail&type=worker&label=a=b&label=c=d%3De&due_from=1721672590913"
        b"&due_to=2030-01-31T09:00:00%2B01:00&cursor=abc&limit=7"
    )
    assert asked.filter == TaskQuery(
        state=TaskState.READY,
        queue="mail",
        type=TaskType.WORKER,
        labels={"a": "b", "c": "d=e"},
        due_from_ms=1721672590913,
        due_to_ms=1896076800000,
    )
    assert (asked.cursor, asked.limit) == ("abc", 7)
    assert queries.parse_tasks(b"") == queries.Listing(TaskQuery(), "", 100)


@pytest.mark.parametrize(
    ("query", "field", "words"),
    [
        (b"foo=1", "foo", "'foo' is not a parameter here; there are state, queue"),
        (b"status=ready", "status", "did you mean state?"),
        (b"offset=2", "offset", "did you mean cursor?"),
        (b"state=due", "state", "state 'due' is not a state; there are scheduled"),
        (b"state=ready&state=ready", "state", "state is given more than once"),
        (b"type=x", "type", "is not a task type"),
        (b"queue=A", "queue", "is not a queue name"),
        (b"label=a", "label", "label 'a' has no value; write label=name=value"),
        (b"label==a", "label", "is not a label's name"),
        (b"label=a=1&label=a=2", "label", "asked for with two values"),
        (b"limit=0", "limit", "limit '0' is not in range; give a number from 1 to 1000"),
        (b"limit=1e2", "limit", "is not in range"),
        (b"limit=", "limit", "is not in range"),
        (b"due_from=2030-01-31T09:00:00+01:00", "due_from", "is not a moment"),
        (b"due_to=soon", "due_to", "is not a moment"),
        (b"cursor=" + b"a" * 2000, "cursor", "cursor is too long"),
        (b"queue=%ff", "query", "not percent-encoded UTF-8"),
        (b"&".join(b"label=a=1" for _ in range(70)), "query", "more than 60 fields"),
    ],
)
def test_wrong_queries(query, field, words):
    with pytest.raises(InvalidTask) as caught:
        queries.parse_tasks(query)
    assert words in str(caught.value)
    assert caught.value.field == field


def test_a_forecasts_query():
    now = 1_800_000_000_000
    assert queries.parse_forecast(b"", now) == (now, now + 86_400_000, 3_600_000)
    assert queries.parse_forecast(b"from=1721672590913&to=1721672650913&step=1m", now) == (
        1721672590913,
        1721672650913,
        60_000,
    )
    for query, words in (
        (b"step=often", "is not a duration"),
        (b"step=0", "less than 1 ms"),
        (b"until=1", "from, to, step"),
    ):
        with pytest.raises(InvalidTask) as caught:
            queries.parse_forecast(query, now)
        assert words in str(caught.value)


@pytest.mark.parametrize("parse", [queries.parse_replay, queries.parse_discard])
def test_a_selection_of_dead_letters(parse):
    chosen = parse(body(queue="mail", type="shell", labels={"a": "b"}, group="g", limit=5.0, dry_run=True))
    wanted = chosen.wanted
    assert (wanted.queue, wanted.type, dict(wanted.labels)) == ("mail", TaskType.SHELL_CMD, {"a": "b"})
    assert (wanted.group, chosen.limit, chosen.dry_run) == ("g", 5, True)
    assert parse(body(all=True)) == queries.Chosen(TaskQuery(), 1000, False)
    for raw, words in (
        (body(queue="a", limit=0), "limit 0 is not in range; give a number from 1 to 10000"),
        (body(queue="a", limit=10_001), "limit 10001 is not in range"),
        (body(state="failed"), "'state' is not a field of a "),
        (body(due_from=5), "due_from 5 is outside"),
        (body(all=True, queue="a"), "all is given with a filter"),
        (b'{"queue":"a","queue":"b"}', "names 'queue' twice"),
    ):
        with pytest.raises(InvalidTask) as caught:
            parse(raw)
        assert words in str(caught.value)


def test_all_dead_letters_are_brought_back_without_a_word_and_deleted_only_with_one():
    assert queries.parse_replay(b"{}") == queries.Chosen(TaskQuery(), 1000, False)
    with pytest.raises(InvalidTask, match="names no dead letters; give queue"):
        queries.parse_discard(b"{}")
