"""Parts of the dashboard without a server: sessions, the brake, what is shown of bytes, forms, lines."""

from __future__ import annotations

import ast
import json
import shlex
from dataclasses import replace
from typing import Any
from unittest.mock import AsyncMock

import pytest

from delaybox.api.dashboard import filters, life, lines, served, showing
from delaybox.api.dashboard.sessions import LASTS_S, Brake, Sessions
from delaybox.api.dashboard.settings import DashboardSettings
from delaybox.api.dashboard.totals import NodeTotals
from delaybox.api.rest.app import build_app
from delaybox.api.rest.settings import ApiSettings
from delaybox.core import ids
from delaybox.core.errors import InvalidTask
from delaybox.core.membership import Activity, Member, nodes_of
from delaybox.core.scopes import Access, Token
from delaybox.core.task import FailedAttempt, Priority, TaskState, TaskType, TaskView

READER, OTHER = Token.of("reader-of-tasks-0001", (Access.READ,)), Token.of("another-token-000002", (Access.ADMIN,))


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def test_a_session_holds_what_its_token_holds_and_ends_with_it() -> None:
    clock = Clock()
    sessions = Sessions("s" * 32, [READER, OTHER], now_s=clock)
    cookie = sessions.encode(sessions.begin("reader-of-tasks-0001"))
    assert sessions.grant(sessions.read(cookie)) == frozenset({Access.READ})
    assert READER.digest not in cookie and "reader" not in cookie
    assert sessions.grant(sessions.begin()) is None, "nobody is logged in"
    without = Sessions("s" * 32, [OTHER], now_s=clock)
    assert without.grant(without.read(cookie)) is None, "the token was taken away"
    expired = Sessions("s" * 32, [replace(READER, expires_ms=1)], now_s=clock)
    assert expired.grant(expired.read(cookie)) is None
    assert Sessions("t" * 32, [READER], now_s=clock).read(cookie) is None, "signed by another node"
    clock.now += LASTS_S + 1
    assert sessions.read(cookie) is None


@pytest.mark.parametrize("cookie", ["", ".", "a.b", "e30.", "é.é", "x" * 9_000, "W10.0"])
def test_a_cookie_that_is_none_opens_nothing(cookie: str) -> None:
    assert Sessions("s" * 32, [READER]).read(cookie) is None
    assert Sessions("s" * 32, [READER]).read_note(cookie) == ""


def test_a_forged_cookie_opens_nothing() -> None:
    sessions = Sessions("s" * 32, [READER])
    body, _, mac = sessions.encode(sessions.begin()).partition(".")
    good, _, _ = sessions.encode(sessions.begin("reader-of-tasks-0001")).partition(".")
    assert sessions.read(f"{good}.{mac}") is None
    assert sessions.read(sessions.note("hello")) is None, "another kind of cookie"
    assert sessions.read(f"{body}.{mac}") is not None


def test_form_tokens_are_each_session_own() -> None:
    sessions = Sessions("s" * 32, [])
    one, two = sessions.begin(), sessions.begin()
    assert sessions.genuine(one, sessions.form_token(one))
    for given in ("", "x", sessions.form_token(two), "é"):
        assert not sessions.genuine(one, given)


def test_whoever_guesses_waits_longer_and_longer() -> None:
    clock = Clock()
    brake = Brake(now_s=clock)
    for _ in range(Brake.FREE):
        assert brake.wait_s("10.0.0.1") == 0
        brake.failed("10.0.0.1")
    waits = []
    for _ in range(8):
        waits.append(brake.wait_s("10.0.0.1"))
        clock.now += waits[-1]
        assert brake.wait_s("10.0.0.1") == 0
        brake.failed("10.0.0.1")
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    assert brake.wait_s("10.0.0.2") == 0
    brake.succeeded("10.0.0.1")
    assert brake.wait_s("10.0.0.1") == 0


def test_many_addresses_together_are_slowed_down_too() -> None:
    clock = Clock()
    brake = Brake(now_s=clock)
    for number in range(Brake.TOGETHER):
        brake.failed(f"10.0.{number // 250}.{number % 250}")
    assert 0 < brake.wait_s("192.0.2.1") <= 60
    clock.now += 60
    assert brake.wait_s("192.0.2.1") == 0
    for _ in range(Brake.FREE):
        brake.failed("2001:db8:1:2::1")
    assert brake.wait_s("2001:db8:1:2:ffff::9") > 0, "one holds a whole net of addresses"
    assert brake.wait_s("2001:db8:1:3::1") == 0


def test_nothing_in_a_text_is_hidden() -> None:
    assert showing.plain("a\x1b[31m\x07\x00\x7f\x9b‮b‎​") == "a␛[31m␇␀\\x7f\\x9b\\u202eb\\u200e\\u200b"
    assert showing.plain("\tä\n漢") == "\tä\n漢"
    assert showing.plain("\ud800") == "\\ud800"


def test_bytes_are_shown_in_the_way_that_fits() -> None:
    assert showing.shown_bytes(b'{"b": [1, "\xc3\xa4"]}').text == '{\n  "b": [\n    1,\n    "ä"\n  ]\n}'
    written = r'{"price": 10.10,"a":{ }, "b" : [], "a": "x,\"{\u00e4]", "n": [[1e400, -0]]}'
    assert showing.shown_bytes(written.encode()).text == (
        '{\n  "price": 10.10,\n  "a": {},\n  "b": [],\n  "a": "x,\\"{\\u00e4]",\n  "n": [\n    [\n'
        "      1e400,\n      -0\n    ]\n  ]\n}"
    ), "values stand as they were written"
    deep = showing.shown_bytes(b"[" * 500 + b"1," * 100_000 + b"1" + b"]" * 500)
    assert (deep.how, deep.cut, len(deep.text)) == ("json", True, showing.SHOWN)
    assert showing.shown_bytes(b"hello").how == "text"
    assert showing.shown_bytes(b"\xff\xfe\x00").how == "hex"
    assert showing.shown_bytes(b"\xff\xfe\x00A").text.endswith("...A")
    assert showing.shown_bytes(b"\xff<", "text").text == "\\xff<"
    assert showing.shown_bytes(b"[1", "json").how == "text"
    assert showing.shown_bytes(b"[" * 100_000 + b"]" * 100_000).how == "text"
    long = showing.shown_bytes(b"x" * (1 << 20))
    assert (len(long.text), long.cut, long.size) == (showing.SHOWN, True, 1 << 20)
    split = showing.shown_bytes("ä".encode() * showing.SHOWN + b"x")
    assert split.how == "text"


def test_numbers_and_spans_are_for_people() -> None:
    assert [showing.number(n) for n in (None, 0, 1_234_567, 0.0, 2.26, 99.9, 1234.5)] == [
        "–", "0", "1,234,567", "0", "2.3", "99.9", "1,234",
    ]  # fmt: skip
    assert [showing.span(ms) for ms in (0, 999, 1_500, 61_000, 5_400_000, 90_000_000)] == [
        "0 ms", "999 ms", "1.5 s", "1 m 1 s", "1 h 30 m", "1 d 1 h",
    ]  # fmt: skip
    assert showing.moment(1_800_000_000_000) == "2027-01-15 08:00:00 UTC"
    assert showing.moment(10**15) == "1000000000000000 ms" and showing.iso(10**15) == ""
    assert showing.ranges([0, 1, 2, 5, 7, 8]) == "0–2, 5, 7–8"


def test_a_filter_is_read_from_its_form() -> None:
    form = {"state": "ready", "queue": "mail", "type": "worker", "name": "send", "label": "a=b, c=d=e"}
    wanted = filters.filter_of({**form, "due_from": "2027-01-15T08:00", "due_to": "2027-01-15T09:00:00.000Z"})
    assert wanted.labels == {"a": "b", "c": "d=e"}
    assert (wanted.name, wanted.due_from_ms, wanted.due_to_ms) == ("send", 1_800_000_000_000, 1_800_003_600_000)
    assert (
        filters.query_of(form, cursor="x")
        == "state=ready&queue=mail&type=worker&name=send&label=a%3Db%2C+c%3Dd%3De&cursor=x"
    )
    for value in ("a, b", "\\", "a\\,b", " c ", "x=y", "C:\\dir", ""):
        assert filters.labels("label", f"{filters.written('n', value)}, m=1") == {"n": value, "m": "1"}, value
    for field, text in (("state", "lost"), ("label", "a"), ("due_from", "soon"), ("queue", "no queue"), ("type", "x")):
        with pytest.raises(InvalidTask):
            filters.filter_of({field: text})


def test_lines_say_what_the_form_does() -> None:
    body = {"delay": "15m", "queue": "mail", "payload_json": {"text": "it's <b>", "n": None}, "labels": {"a": "b"}}
    words = shlex.split(lines.curl(body, "http://localhost:8088/api", token=True).replace("\\\n", ""))
    assert words[:4] == ["curl", "-X", "POST", "http://localhost:8088/api/v1/tasks"]
    assert json.loads(words[-1]) == body and "Authorization: Bearer $DELAYBOX_TOKEN" in words
    for kind, extra, call in (
        ("pub_sub", {}, "publish"),
        ("worker", {"name": "mail.send", "retry": {"max_attempts": 3}}, "schedule"),
        ("shell", {"name": "backup", "idempotency_key": "k"}, "shell"),
        ("http", {"url": "https://example.org/x", "method": "PUT"}, "webhook"),
        ("pub_sub", {"at": "2027-01-15T08:00:00Z"}, "publish"),
    ):
        text = lines.python({**body, "type": kind, **extra}, "localhost:9099", token=True, tls=True)
        assert "Client(\"localhost:9099\", token=os.environ['DELAYBOX_TOKEN'], tls=True)" in text
        tree = ast.parse(text)
        last = tree.body[-1]
        assert isinstance(last, ast.Expr) and isinstance(last.value, ast.Call)
        assert isinstance(last.value.func, ast.Attribute) and last.value.func.attr == call
        named = {one.arg for one in last.value.keywords}
        assert "queue" in named and "idempotency_key" not in named


def test_lateness_is_taken_between_two_looks() -> None:
    before = NodeTotals(0, 0, {0.001: 10.0, 0.01: 0.0, float("inf"): 0.0})
    after = NodeTotals(0, 0, {0.001: 10.0, 0.01: 90.0, float("inf"): 10.0})
    assert after.late_ms(0.5, after) is None
    assert after.late_ms(0.9, before) == 10.0
    assert after.late_ms(0.45, before) == 5.5
    assert after.late_ms(0.99, before) == 10.0, "past the last bound that is one"


def test_functions_are_listed_with_who_serves_them_and_how_fast() -> None:
    beats = [
        Member(id="a", activity=Activity(lanes=(b"wmail:send", b"w:call!2"), service_ms={"wmail:send": 12.0})),
        Member(id="b", activity=Activity(lanes=(b"wmail:send", b"zx"), fired_per_s={"wmail": 1.5, "w": 2.0})),
    ]
    found, count = served.functions(nodes_of([replace(one, node=one.id) for one in beats]))
    assert count == 2
    assert [(one.queue, one.name, one.nodes, one.took_ms, one.per_s) for one in found] == [
        ("default", "call", ["a"], 0.0, 2.0),
        ("mail", "send", ["a", "b"], 12.0, 1.5),
    ]


def failed(attempt: int, at_ms: int) -> FailedAttempt:
    return FailedAttempt(attempt=attempt, fired_ms=at_ms - 1, failed_ms=at_ms, reason=f"reason {attempt}")


def titles(**fields: Any) -> list[str]:
    due_ms = fields.pop("due_ms", 5_000)
    task_id = ids.render((1_000).to_bytes(6, "big") + bytes([0x80]) + bytes(9))
    view = TaskView(
        task_id=task_id, due_ms=due_ms, type=TaskType.WORKER, queue="q", priority=Priority.NORMAL, payload=b"",
        header={}, **fields,
    )  # fmt: skip
    return [moment.title for moment in life.of(view)]


def test_a_life_has_each_failed_attempt_at_its_time() -> None:
    first, second = failed(1, 1_100), failed(2, 2_100)
    assert titles(state=TaskState.SCHEDULED, attempt=2, deliveries=2, failures=(first, second)) == [
        "First due", "Attempt 1 failed", "Attempt 2 failed", "Due",
    ]  # fmt: skip
    # Its last failure is its end.
    last = failed(3, 5_100)
    dead = titles(state=TaskState.FAILED, attempt=3, failures=(first, second, last), reason="reason 3")
    assert dead == ["First due", "Attempt 1 failed", "Attempt 2 failed", "Due", "Failed for good"]
    # Those that are not remembered are counted; so are those of a life before it was brought back.
    assert "Failed 1 time" in titles(state=TaskState.SCHEDULED, attempt=2, failures=(second,))
    assert "Failed 2 times" in titles(state=TaskState.SCHEDULED, attempt=2)
    again = titles(state=TaskState.SCHEDULED, attempt=1, failures=(first, second, failed(1, 3_000)))
    assert again.count("Attempt 1 failed") == 2 and not [title for title in again if title.startswith("Failed")]


async def test_files_of_pages_do_not_wait_for_the_secret_in_the_store() -> None:
    """A server that hangs would hold up each of them."""
    service = AsyncMock()
    service.dashboard_secret.return_value = "s" * 64
    app = build_app(service, ApiSettings(dashboard=DashboardSettings()))
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    for path, asked in (("/dashboard/static/dashboard.js", 0), ("/dashboard/login", 1)):
        scope = {"type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "query_string": b""}
        await app(scope | {"headers": [(b"host", b"localhost")]}, receive, send)
        assert service.dashboard_secret.await_count == asked, path
    assert sent[0]["status"] == 200
