"""Section 1 of the API: each row, each wrong input with its words, and numbers exactly (fault row T23)."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delaybox.core.errors import InvalidTask, PayloadTooLarge, TypeDisabled
from delaybox.core.retry import NO_RETRY
from delaybox.core.task import NewTask, Priority, TaskState, TaskType, TaskView
from delaybox.wire.original import request
from delaybox.wire.original.answer import render_created, render_error, render_tasks
from delaybox.wire.original.request import OriginalRules, parse_task

FIRST_CURL = b'{"taskType":"PUB_SUB","parameter":{"executionTimestamp":"1721672590913"},"pyload":"VGVzdCBKYXkK"}'
SECOND_CURL = b'{"parameter":{"executionTimestamp":"1720672590913","taskType":"SHELL_CMD"},"pyload":"ZGF0ZQ=="}'
WITH_SHELL = OriginalRules(types=frozenset({TaskType.PUB_SUB, TaskType.SHELL_CMD}))


def body(**fields: object) -> bytes:
    return json.dumps(fields).encode()


def with_time(literal: str) -> bytes:
    return b'{"parameter":{"executionTimestamp":' + literal.encode() + b"}}"


def refusal(raw: bytes, rules: OriginalRules = request.DEFAULT_RULES) -> InvalidTask:
    with pytest.raises(InvalidTask) as caught:
        parse_task(raw, rules)
    message = str(caught.value)
    assert len(message) < 400
    assert "\n" not in message
    return caught.value


def test_the_users_own_curl():
    assert parse_task(FIRST_CURL) == NewTask(
        payload=b"Test Jay\n",
        due_ms=1721672590913,
        header={"executionTimestamp": b"1721672590913", "taskType": b"PUB_SUB"},
    )


def test_shell_is_refused_with_the_way_to_enable_it():
    error = refusal(SECOND_CURL)
    assert isinstance(error, TypeDisabled)
    assert "--enable-shell" in str(error)


def test_shell_where_it_is_enabled_is_not_tried_again():
    task = parse_task(SECOND_CURL, WITH_SHELL)
    assert (task.type, task.retry, task.payload) == (TaskType.SHELL_CMD, NO_RETRY, b"date")


@pytest.mark.parametrize("name", ["HTTP", "WORKER"])
def test_types_without_a_target_are_refused(name):
    assert isinstance(refusal(body(taskType=name)), TypeDisabled)


def test_an_unknown_type_is_published_with_its_name():
    for raw in (body(taskType="BILLING"), body(parameter={"taskType": "BILLING"})):
        task = parse_task(raw)
        assert (task.type, dict(task.header)) == (TaskType.PUB_SUB, {"taskType": b"BILLING"})


def test_the_type_may_be_given_twice_but_not_two_types():
    same = parse_task(body(taskType="PUB_SUB", parameter={"taskType": "PUB_SUB"}))
    assert dict(same.header) == {"taskType": b"PUB_SUB"}
    assert "differ" in str(refusal(body(taskType="PUB_SUB", parameter={"taskType": "OTHER"})))


@pytest.mark.parametrize(
    "raw",
    [b"{}", b'{"parameter":{}}', b'{"parameter":null,"pyload":null,"taskType":null}', b'{"taskType":""}', b" {} \n"],
)
def test_nothing_given_is_an_empty_task_at_once(raw):
    assert parse_task(raw) == NewTask(header={})


def test_header_carries_every_parameter():
    task = parse_task(
        b'{"parameter":{"executionTimestamp":1.7e12,"a":"x","n":7,"d":1.10,"e":1.5e3,"z":-0,"small":1e-7,'
        b'"queue":"mail","priority":"high","idempotencyKey":"k"}}'
    )
    assert task.due_ms == 1_700_000_000_000
    assert (task.queue, task.priority, task.idempotency_key) == ("mail", Priority.HIGH, "k")
    assert dict(task.header) == {
        "executionTimestamp": b"1700000000000",
        "a": b"x",
        "n": b"7",
        "d": b"1.10",
        "e": b"1500",
        "z": b"0",
        "small": b"0.0000001",
        "queue": b"mail",
        "priority": b"high",
        "idempotencyKey": b"k",
    }


def test_names_match_without_case_as_in_go():
    task = parse_task(b'{"TaskType":"X","Parameter":{"delay":"5"},"Pyload":"aGk="}')
    assert (task.delay_ms, task.payload, dict(task.header)) == (5, b"hi", {"delay": b"5", "taskType": b"X"})


def test_unknown_top_level_fields_are_ignored_as_in_go():
    assert parse_task(b'{"taskUuid":"x","status":"scheduled","pyload":"aGk=","more":[{"a":1}]}').payload == b"hi"


@pytest.mark.parametrize(
    ("raw", "field", "words"),
    [
        (b"", "body", "empty"),
        (b"  ", "body", "empty"),
        (b"null", "body", "must be a JSON object, not null"),
        (b"[]", "body", "not a list"),
        (b"3", "body", "not the number 3"),
        (b'"x"', "body", "not a string"),
        (b"true", "body", "not true"),
        (b'{"pyload":', "body", "line 1 column"),
        (b"{} {}", "body", "Extra data"),
        (b"{'a':1}", "body", "not valid JSON"),
        (b'{"pyload":"\xff"}', "body", "UTF-8"),
        (b"\xef\xbb\xbf{}", "body", "byte order mark"),
        (b'{"a":' + b"[" * 40 + b"]" * 40 + b"}", "body", "deeper than 32"),
        (b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}", "body", "deeper than 32"),
        (b'{"a":[' + b"[]," * 30_000 + b"1]}", "body", "lists and objects"),
        (b'{"parameter":{"x":NaN}}', "body", "NaN"),
        (b'{"parameter":{"x":-Infinity}}', "body", "Infinity"),
        (b'{"parameter":{"x":1e400}}', "parameter.x", "out of range"),
        (b'{"parameter":{"x":1e-400}}', "parameter.x", "out of range"),
        (b'{"parameter":{"x":true}}', "parameter.x", "is true; give a string or a number"),
        (b'{"parameter":{"x":null}}', "parameter.x", "is null"),
        (b'{"parameter":{"x":{}}}', "parameter.x", "an object"),
        (b'{"parameter":{"x":"\\ud800"}}', "body", "surrogate"),
        (b'{"parameter":{"\\ud800":"x"}}', "body", "surrogate"),
        (b'{"parameter":[]}', "parameter", "not a list"),
        (b'{"parameter":"x"}', "parameter", "not a string"),
        (b'{"pyload":"YQ==","pyload":"Yg=="}', "body", "'pyload' twice"),
        (b'{"pyload":"YQ==","Pyload":"Yg=="}', "pyload", "twice"),
        (b'{"parameter":{"delay":"1","delay":"1"}}', "body", "'delay' twice"),
        (b'{"executionTimestamp":"1721672590913"}', "executionTimestamp", "put it into parameter"),
        (b'{"delay":5,"pyload":""}', "delay", "put it into parameter"),
        (b'{"taskType":5}', "taskType", "the number 5"),
        (b'{"pyload":5}', "pyload", "must be a string"),
        (b'{"pyload":["YQ=="]}', "pyload", "not a list"),
        (b'{"pyload":"YQ"}', "pyload", "pyload (2 characters) is not standard base64"),
        (b'{"pyload":"Y_-="}', "pyload", "alphabet with + and /"),
        (b'{"payload":"===="}', "payload", "leave it out"),
        (b'{"pyload":"YQ==","payload":"Yg=="}', "payload", "differ"),
        (b'{"pyload":"","payload":"Yg=="}', "payload", "differ"),
        (b'{"parameter":{"queue":"Mail"}}', "parameter.queue", "'Mail' is not a queue name"),
        (b'{"parameter":{"queue":""}}', "parameter.queue", "1 to 64"),
        (b'{"parameter":{"queue":"' + b"q" * 65 + b'"}}', "parameter.queue", "1 to 64"),
        (b'{"parameter":{"queue":"a\\n"}}', "parameter.queue", "1 to 64"),
        (b'{"parameter":{"priority":"urgent"}}', "parameter.priority", "low, normal, high or critical"),
        (b'{"parameter":{"priority":1}}', "parameter.priority", "low, normal, high or critical"),
        (b'{"parameter":{"idempotencyKey":""}}', "parameter.idempotencyKey", "1 to 256"),
        (b'{"parameter":{"idempotencyKey":"' + "é".encode() * 129 + b'"}}', "parameter.idempotencyKey", "258 bytes"),
        (b'{"parameter":{"delay":-1}}', "parameter.delay", "negative"),
        (b'{"parameter":{"delay":"15 parsecs"}}', "parameter.delay", "15m"),
        (b'{"parameter":{"delay":1.5}}', "parameter.delay", "not a whole number"),
        (b'{"parameter":{"delay":true}}', "parameter.delay", "is true"),
        (b'{"parameter":{"delay":10000000000001}}', "parameter.delay", "317 years"),
        (b'{"parameter":{"delay":5,"executionTimestamp":"0"}}', "parameter.delay", "both given"),
        (b'{"parameter":{"fairnessKey":"a","fairnessWeight":"1_0"}}', "parameter.fairnessWeight", "give 0.01 to 100"),
        (b'{"parameter":{"fairnessKey":"a","fairnessWeight":"\\u0662"}}', "parameter.fairnessWeight", "is no weight"),
        (b'{"parameter":{"fairnessWeight":"2"}}', "parameter.fairnessWeight", "give that as well"),
    ],
)
def test_wrong_input(raw, field, words):
    error = refusal(raw)
    assert error.field == field
    assert words in str(error)


@pytest.mark.parametrize(
    ("literal", "words"),
    [
        ("1721672590", "looks like seconds; multiply by 1000"),
        ('"1721672590"', "looks like seconds; multiply by 1000"),
        ("1721672590913000", "looks like microseconds; divide by 1000"),
        ("1721672590913000000", "looks like nanoseconds; divide by 1000000"),
        ("9007199254740991", "microseconds"),
        ("9007199254740993", "microseconds"),
        ("-1721672590913", "negative"),
        ("-1", "negative"),
        ("5", "outside 10^11 to 10^14"),
        ("99999999999", "looks like seconds"),
        ("100000000000001", "outside 10^11 to 10^14"),
        ("253402300799000", "outside 10^11 to 10^14"),  # 9999-12-31
        ("1e20", "outside 10^11 to 10^14"),
        ("18446744073709551617721672590913", "outside 10^11 to 10^14"),
        ("1.5", "not a whole number"),
        ("1721672590913.5", "not a whole number"),
        ("1e400", "range"),
        ('"1e400"', "not a number in range"),
        ('""', "is empty"),
        ('" 1721672590913"', "not a number"),
        ('"1721672590913 "', "not a number"),
        ('"1_721_672_590_913"', "not a number"),
        ('"0x190dd0f0a21"', "not a number"),
        ('"NaN"', "not a number"),
        ('"inf"', "not a number"),
        ('"true"', "not a number"),
        ('"2024-07-22T18:23:10Z"', "not a number"),
        ('"\u0661\u0667\u0662\u0661\u0666\u0667\u0662\u0665\u0669\u0660\u0669\u0661\u0663"', "not a number"),
        ("true", "is true"),
        ("null", "is null"),
    ],
)
def test_wrong_times(literal, words):
    error = refusal(with_time(literal))
    assert error.field == "parameter.executionTimestamp"
    assert words in str(error)


@pytest.mark.parametrize(
    ("literal", "due"),
    [
        ("1721672590913", 1721672590913),
        ('"1721672590913"', 1721672590913),
        ('"+1721672590913"', 1721672590913),
        ('"0001721672590913"', 1721672590913),
        ("1.7e12", 1_700_000_000_000),
        ("1721672590913.0", 1721672590913),
        ("17216725909130e-1", 1721672590913),
        ('"1.7e12"', 1_700_000_000_000),
        ("100000000000", 10**11),
        ("100000000000000", 10**14),
        ("1e14", 10**14),
        ("0", None),
        ("-0", None),
        ("0.0", None),
        ('"0"', None),
        ('"0000000000000"', None),
    ],
)
def test_right_times(literal, due):
    assert parse_task(with_time(literal)).due_ms == due


JSON_NUMBERS = st.one_of(
    st.integers(-(10**25), 10**25),
    st.integers(10**11 - 5, 10**14 + 5),
    st.sampled_from([2**53 - 1, 2**53, 2**53 + 1, 10**14, 10**14 + 1, 2**63, 2**64 + 1721672590913]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.decimals(allow_nan=False, allow_infinity=False, places=3),
)


def _literal(number: int | float | Decimal) -> str:
    return json.dumps(number) if not isinstance(number, Decimal) else format(number, "f")


@given(number=JSON_NUMBERS, exponent=st.sampled_from(["", "e0", "E+2", "e-3", "e12", "e400"]), quoted=st.booleans())
def test_times_are_refused_or_exact(number, exponent, quoted):
    literal = _literal(number)
    if "e" not in literal and "E" not in literal:
        literal += exponent
    exact = Decimal(literal)
    try:
        due = parse_task(with_time(f'"{literal}"' if quoted else literal)).due_ms
    except InvalidTask:
        assert not (10**11 <= exact <= 10**14 and exact == exact.to_integral_value())
    else:
        if due is None:
            assert exact == 0
        else:
            assert exact == due
            assert 10**11 <= due <= 10**14


@given(number=st.integers(-5, 10**13 + 5), quoted=st.booleans())
def test_delays_are_refused_or_exact(number, quoted):
    raw = f'{{"parameter":{{"delay":{json.dumps(str(number)) if quoted else number}}}}}'.encode()
    try:
        assert parse_task(raw).delay_ms == number
    except InvalidTask:
        assert not 0 <= number <= 10**13


@given(text=st.text(max_size=20))
def test_any_string_as_time_is_refused_or_exact(text):
    try:
        due = parse_task(with_time(json.dumps(text))).due_ms
    except InvalidTask:
        return
    assert Decimal(text) == (due or 0)


GO_BASE64 = re.compile(r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")


@given(text=st.text(alphabet="AZaz09+/=\r\n-_ é", max_size=16))
def test_base64_is_what_go_takes(text):
    stripped = text.replace("\r", "").replace("\n", "")
    raw = body(pyload=text)
    if GO_BASE64.fullmatch(stripped):
        assert parse_task(raw).payload == base64.b64decode(stripped)
    else:
        refusal(raw)


def test_base64_with_line_breaks_and_either_spelling():
    data = bytes(range(256))
    lines = base64.encodebytes(data).decode()
    assert parse_task(body(pyload=lines)).payload == data
    assert parse_task(body(payload=lines.replace("\n", "\r\n"))).payload == data
    assert parse_task(body(pyload=lines, payload=base64.b64encode(data).decode())).payload == data


def test_sizes():
    rules = OriginalRules(max_payload_bytes=10)
    assert parse_task(body(pyload=base64.b64encode(b"x" * 10).decode()), rules).payload == b"x" * 10
    error = refusal(body(pyload=base64.b64encode(b"x" * 11).decode()), rules)
    assert isinstance(error, PayloadTooLarge)
    assert error.limit == 10
    assert isinstance(refusal(body(parameter={"a": "x" * 70_000})), PayloadTooLarge)
    assert isinstance(refusal(body(taskType="x" * 70_000)), PayloadTooLarge)


def test_messages_keep_values_short():
    assert len(str(refusal(body(pyload="*" * 100_000)))) < 200
    assert len(str(refusal(body(parameter={"q" * 1000: None})))) < 200


VALUES = st.one_of(
    st.text(max_size=8),
    st.integers(-(10**20), 10**20),
    st.sampled_from(
        ["1721672590913", 1721672590913, 1.7e12, 0, "PUB_SUB", "SHELL_CMD", "X", "YQ==", "high", None, True]
    ),
)
NAMES = st.sampled_from(["executionTimestamp", "delay", "taskType", "queue", "priority", "idempotencyKey", "a", "b:c"])
BODIES = st.fixed_dictionaries(
    {},
    optional={
        "taskType": VALUES,
        "pyload": VALUES,
        "payload": VALUES,
        "parameter": st.dictionaries(NAMES, VALUES, max_size=4),
        "other": VALUES,
    },
)


@given(BODIES, st.booleans())
def test_both_readers_agree(fields, ascii_only):
    raw = json.dumps(fields, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")

    def outcome(read: Callable[[bytes, OriginalRules], NewTask]) -> object:
        try:
            return read(raw, WITH_SHELL)
        except InvalidTask as error:
            return type(error), error.field, str(error)

    assert outcome(parse_task) == outcome(request._parse_strictly)


@given(st.binary(max_size=40))
def test_any_bytes_are_refused_or_read(raw):
    try:
        parse_task(raw)
    except InvalidTask as error:
        assert str(error)


def test_render():
    view = TaskView(
        task_id="018f",
        state=TaskState.SCHEDULED,
        due_ms=1,
        type=TaskType.PUB_SUB,
        queue="default",
        priority=Priority.NORMAL,
        payload=b"Test Jay\n",
        header={"executionTimestamp": b"1721672590913", "raw": b"\xff"},
    )
    bare = TaskView(
        task_id="0190",
        state=TaskState.READY,
        due_ms=1,
        type=TaskType.PUB_SUB,
        queue="default",
        priority=Priority.NORMAL,
        payload=b"",
        header={},
    )
    assert json.loads(render_tasks([view, bare])) == [
        {
            "taskUuid": "018f",
            "parameter": {"executionTimestamp": "1721672590913", "raw": "\ufffd"},
            "pyload": "VGVzdCBKYXkK",
            "status": "scheduled",
        },
        {"taskUuid": "0190", "pyload": "", "status": "ready"},
    ]
    assert render_tasks([]) == b"[]"
    assert json.loads(render_created("abc")) == {"message": "task created", "taskUuid": "abc"}
    assert json.loads(render_error('say "x"')) == {"error": 'say "x"'}


@pytest.mark.parametrize(("text", "ms"), [("3s", 3_000), ("1h30m", 5_400_000), ("PT2S", 2_000), ("250ms", 250)])
def test_a_delay_may_have_a_unit_and_leaves_as_the_originals_subscribers_read_it(text: str, ms: int) -> None:
    task = request.of_header({"delay": text.encode(), "tag": b"a"})
    assert (task.delay_ms, task.header) == (ms, {"delay": b"%d" % ms, "tag": b"a"})
