"""Addresses, answers and errors of the command line's client, without a node."""

from __future__ import annotations

import json

import pytest

from delaybox.cli.client import NodeAnswer, NodeRefused, NodeUnreachable, RestClient, segment
from delaybox.cli.exits import MEANINGS, Exit, of_error, of_status
from delaybox.core.errors import (
    ConfigError,
    DelayBoxError,
    InvalidTask,
    Overloaded,
    StoreRefused,
    StoreUnavailable,
    TaskFinished,
)


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("http://127.0.0.1:8088", "http://127.0.0.1:8088"),
        ("127.0.0.1:8088", "http://127.0.0.1:8088"),
        ("http://host/api/", "http://host/api"),
        ("https://host:1/", "https://host:1"),
        (" http://[::1]:8088 ", "http://[::1]:8088"),
    ],
)
def test_addresses(given: str, url: str) -> None:
    assert RestClient(given).url == url


@pytest.mark.parametrize(
    "given",
    [
        "",
        "ftp://h",
        "http://",
        "http://h:x",
        "http://h:99999",
        "http://h/?a=1",
        "http://h/#a",
        "http://a b/",
        "redis://h",
    ],
)
def test_what_is_no_address_is_refused_by_name(given: str) -> None:
    with pytest.raises(ConfigError, match=r"--server \(or DELAYBOX_SERVER\)"):
        RestClient(given)


def test_metrics_that_a_proxy_hides_lead_to_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    client = RestClient("https://delaybox.internal")
    hidden = NodeAnswer(404, {}, b"<html><h1>404 Not Found</h1></html>")
    monkeypatch.setattr(client, "raw", lambda *_: hidden)
    with pytest.raises(NodeRefused) as refused:
        client.metrics()
    assert "name the node itself with --server (or DELAYBOX_SERVER)" in str(refused.value)


def test_a_password_in_the_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError) as refused:
        RestClient("http://me:hunter2@h")
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("token", ["a\nb", "a b", "ä", "\x00"])
def test_a_token_that_none_can_be_is_refused_and_not_repeated(token: str) -> None:
    with pytest.raises(ConfigError) as refused:
        RestClient("h", token)
    assert token not in str(refused.value)


def answer(status: int, body: object = None, **headers: str) -> NodeAnswer:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return NodeAnswer(status, {name.replace("_", "-"): value for name, value in headers.items()}, data)


def test_a_problem_is_told_in_the_nodes_words() -> None:
    problem = {"status": 409, "code": "idempotency_conflict", "detail": "taken", "field": "idempotency_key"}
    error = RestClient("h").refusal(answer(409, problem))
    assert (str(error), error.code, error.field, error.exit) == (
        "taken", "idempotency_conflict", "idempotency_key", Exit.CONFLICT,
    )  # fmt: skip


def test_what_to_do_from_here_is_added() -> None:
    plain, holder = RestClient("http://h"), RestClient("http://h", "t" * 20)
    unauthenticated = answer(401, {"code": "unauthenticated", "detail": "this node asks for a token"})
    assert "DELAYBOX_TOKEN, and neither is set" in str(plain.refusal(unauthenticated))
    assert str(holder.refusal(unauthenticated)).endswith("comes from --token or DELAYBOX_TOKEN")
    scope = answer(403, {"code": "scope_missing", "detail": "this token lacks the scope admin"})
    assert "delaybox token --scope" in str(holder.refusal(scope))
    assert "contextPath" in str(plain.refusal(answer(404, {"detail": "no such path", "code": "no_such_path"})))
    assert "contextPath" not in str(plain.refusal(answer(404, {"detail": "no task", "code": "not_found"})))


def test_answers_of_something_else() -> None:
    client = RestClient("http://h")
    assert "may not be DelayBox" in str(client.refusal(answer(404, b"<html>nothing here</html>")))
    assert "<html>" not in str(client.refusal(answer(500, b"<html>oops</html>")))
    assert str(client.refusal(answer(502, b"bad gateway"))) == "http://h answered 502: bad gateway"
    assert str(client.refusal(answer(500, [1]))) == "http://h answered 500: [1]"


def test_retry_after_is_heeded_within_reason() -> None:
    client = RestClient("h")
    assert client.refusal(answer(503, {}, retry_after="7")).retry_after_s == 7
    assert client.refusal(answer(503, {}, retry_after="86400")).retry_after_s == 30
    assert client.refusal(answer(503, {}, retry_after="soon")).retry_after_s == 1


def test_parts_of_a_path_cannot_lead_elsewhere() -> None:
    assert segment("../nodes?a=1#b") == "..%2Fnodes%3Fa%3D1%23b"


def test_nobody_there() -> None:
    with pytest.raises(NodeUnreachable, match="start one with `delaybox serve`") as refused:
        RestClient("http://127.0.0.1:1").get("/v1/nodes")
    assert not refused.value.sent


def test_every_exit_code_has_a_meaning() -> None:
    assert set(MEANINGS) == set(Exit)


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, 2), (422, 2), (401, 4), (403, 4), (404, 5), (410, 5), (409, 6), (429, 3), (503, 3), (500, 1)],
)
def test_exit_codes_of_answers(status: int, code: int) -> None:
    assert of_status(status) == code
    assert of_error(RestClient("h").refusal(answer(status, {}))) == code


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("x"), 2),
        (InvalidTask("at", "x"), 2),
        (StoreRefused("x"), 3),
        (StoreUnavailable("x"), 3),
        (Overloaded("x"), 3),
        (NodeUnreachable("x"), 3),
        (TaskFinished("x"), 5),
        (DelayBoxError("x"), 1),
    ],
)
def test_exit_codes_of_errors(error: DelayBoxError, code: int) -> None:
    assert of_error(error) == code
