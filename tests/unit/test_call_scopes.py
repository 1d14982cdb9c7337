"""S1: every route against every kind of caller, and routes that the table does not know."""

from __future__ import annotations

import asyncio
import contextlib
import json
from itertools import combinations
from typing import Any, cast
from urllib.parse import unquote

import pytest

from delaybox.api import call_scopes
from delaybox.api.dashboard.settings import DashboardSettings
from delaybox.api.rest import app as app_module
from delaybox.api.rest.app import AsgiApp, build_app
from delaybox.api.rest.routing import Route, Router
from delaybox.api.rest.settings import ApiSettings
from delaybox.core.errors import TaskNotFound
from delaybox.core.scopes import EVERYTHING, Access, Token
from delaybox.core.task import Priority, TaskState, TaskType, TaskView
from delaybox.service import Service
from delaybox.service.shedding import Shedding

ID = "018f0000-0000-8000-8000-000000000000"
SUBSETS = [subset for size in range(len(Access) + 1) for subset in combinations(Access, size)]


class Spy:
    """A service that remembers what was asked of it, and knows no task but one that runs a command."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.shedding = Shedding()

    def __getattr__(self, name: str) -> Any:
        async def call(*_: Any, **__: Any) -> Any:
            self.asked.append(name)
            if name == "get":
                return TaskView(
                    task_id=ID,
                    type=TaskType.SHELL_CMD,
                    state=TaskState.SCHEDULED,
                    due_ms=1,
                    queue="default",
                    priority=Priority.NORMAL,
                    header={},
                    payload=b"",
                )
            raise TaskNotFound("none")

        return call


@pytest.fixture
def routers(monkeypatch: pytest.MonkeyPatch) -> list[Router]:
    """The routers that `build_app` fills."""
    made: list[Router] = []

    class Recorded(Router):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

    monkeypatch.setattr(app_module, "Router", Recorded)
    return made


def secret(scopes: tuple[Access, ...]) -> str:
    return "token-with-" + ("-".join(scopes) or "nothing")


def settings(**changes: Any) -> ApiSettings:
    tokens = tuple(Token.of(secret(subset), subset) for subset in SUBSETS)
    return ApiSettings(tokens=tokens, dashboard=DashboardSettings(secret="of the tests"), **changes)


async def call(
    app: AsgiApp, method: str, path: str, token: str | None, body: bytes = b"{}", **headers: str
) -> tuple[int, dict[str, str], dict[str, Any]]:
    given = {"host": "localhost", "content-type": "application/json"} | headers
    if token is not None:
        given["authorization"] = token
    sent: list[Any] = []
    incoming = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Any:
        return incoming.pop(0) if incoming else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)
        if message.get("more_body"):
            raise asyncio.CancelledError  # a stream: its caller has seen enough

    scope = {
        "type": "http",
        "method": method,
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
    }
    with contextlib.suppress(asyncio.CancelledError):
        await app(scope, receive, send)
    out = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    is_json = "json" in out.get("content-type", "")
    return sent[0]["status"], out, json.loads(sent[1]["body"] or b"{}") if is_json and method != "HEAD" else {}


def cells(routers: list[Router], app: AsgiApp) -> list[tuple[str, str, call_scopes.Rule]]:
    (router,) = routers
    served = [(method, route) for route in router.routes() for method in route.handlers]
    assert len(served) > 20
    return [(method, route.name, call_scopes.rule(method, route.name)) for method, route in served]


def address(route: str) -> str:
    return route.replace("{id}", ID).replace("{queue}", "default").replace("{file}", "x.css")


async def test_every_route_against_every_caller(routers: list[Router]):
    service = Spy()
    app = build_app(cast(Service, service), settings())
    count = 0
    strangers = [
        None,
        "Bearer ",
        "Bearer unknown-token-unknown",
        "Basic " + secret(tuple(Access)),
        secret(tuple(Access)),
    ]
    for method, route, rule in cells(routers, app):
        for token in strangers:
            status, headers, _ = await call(app, method, address(route), token)
            if isinstance(rule, Access):
                assert (status, service.asked) == (401, []), (method, route, token)
                assert headers["www-authenticate"].startswith("Bearer")
            else:
                assert status not in (401, 403), (method, route, token)
            service.asked.clear()
            count += 1
        for subset in SUBSETS:
            status, headers, answer = await call(app, method, address(route), "Bearer " + secret(subset))
            if isinstance(rule, Access) and rule not in subset:
                assert (status, service.asked) == (403, []), (method, route, subset)
                assert f'scope="{rule}"' in headers["www-authenticate"]
                if method != "HEAD":
                    assert f"the scope {rule}" in (answer.get("error") or answer["detail"])
            else:
                assert status not in (401, 403), (method, route, subset)
            service.asked.clear()
            count += 1
    assert count > 800


async def test_without_tokens_everything_is_allowed_to_whoever_may_connect(routers: list[Router]):
    app = build_app(cast(Service, Spy()), ApiSettings())
    for method, route, _ in cells(routers, app):
        status, _, _ = await call(app, method, address(route), None)
        assert status not in (401, 403), (method, route)


async def test_host_and_origin_are_asked_of_every_route_but_the_probes(routers: list[Router]):
    service = Spy()
    app = build_app(cast(Service, service), settings())
    token = "Bearer " + secret(tuple(Access))
    for method, route, rule in cells(routers, app):
        for headers in ({"host": "evil.example"}, {"host": ""}, {"origin": "https://evil.example"}, {"origin": "null"}):
            service.asked.clear()
            status, _, _ = await call(app, method, address(route), token, b"{}", **headers)
            if rule is call_scopes.WithoutToken.PROBE:
                assert status != 403, (method, route)
            else:
                assert (status, service.asked) == (403, []), (method, route, headers)
    elsewhere = build_app(cast(Service, service), settings(host="0.0.0.0"))
    assert (await call(elsewhere, "GET", f"/v1/tasks/{ID}", token, host="evil.example"))[0] == 200
    named = build_app(cast(Service, service), settings(host="0.0.0.0", allowed_hosts=("good.example",)))
    assert (await call(named, "GET", f"/v1/tasks/{ID}", token, host="evil.example"))[0] == 403
    assert (await call(named, "GET", f"/v1/tasks/{ID}", token, host="127.0.0.1"))[0] == 403
    assert (await call(named, "GET", f"/v1/tasks/{ID}", token, host="good.example:8088"))[0] == 200


def test_the_table_has_no_line_for_what_is_not_served(routers: list[Router]):
    app = build_app(cast(Service, Spy()), settings())
    served = {(method, route) for method, route, _ in cells(routers, app)}
    assert {(method, route) for method, route in call_scopes.RULES if (method, route) not in served} == set()


def test_a_route_without_a_rule_cannot_be_made():
    async def handler(*_: Any) -> Any: ...

    with pytest.raises(LookupError, match=r"PUT /v1/tasks/\{id\} has no rule"):
        Route("/v1/tasks/{id}", {"GET": handler, "PUT": handler})
    with pytest.raises(LookupError, match="GET /v1/secrets has no rule"):
        Route("/v1/secrets", {"GET": handler})


SHELL = [
    ("POST", "/task", {"taskType": "SHELL_CMD", "pyload": "ZGF0ZQ=="}, "submit"),
    ("POST", "/task", {"parameter": {"taskType": "SHELL_CMD"}, "pyload": "ZGF0ZQ=="}, "submit"),
    ("POST", "/v1/tasks", {"type": "shell", "payload": "date"}, "submit"),
    ("POST", "/v1/tasks/batch", {"tasks": [{"type": "shell", "payload": "date"}]}, "submit_many"),
    ("PATCH", f"/v1/tasks/{ID}", {"payload": "date"}, "update"),
]


@pytest.mark.parametrize(("method", "path", "body", "asks"), SHELL)
async def test_a_command_needs_the_scope_shell_as_well(method: str, path: str, body: dict[str, Any], asks: str):
    service = Spy()
    app = build_app(cast(Service, service), settings(shell=True))
    text = json.dumps(body).encode()
    for subset in SUBSETS:
        service.asked.clear()
        status, _, answer = await call(app, method, path, "Bearer " + secret(subset), text)
        if Access.SCHEDULE not in subset:
            assert (status, asks in service.asked) == (403, False)
        elif Access.SHELL not in subset:
            assert asks not in service.asked, subset
            assert "scope shell" in json.dumps(answer)
        else:
            assert asks in service.asked, (subset, answer)


def test_the_grant_of_no_tokens_is_everything():
    assert frozenset(Access) == EVERYTHING
