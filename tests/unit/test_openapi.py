"""The OpenAPI document of /v1, and the page that shows it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from delaybox.api import call_scopes
from delaybox.api.rest.v1.openapi import build, semantic
from delaybox.api.rest.v1.routes import CALLS
from delaybox.core.scopes import Token
from tests.v1_apps import JSON, FakeService, call


def test_the_document_is_whole():
    document = build("/api", tokens=True)
    assert document["openapi"] == "3.0.3"
    assert document["servers"] == [{"url": "/api"}]
    assert document["security"] == [{"token": []}]
    items = document["paths"].items()
    made = {(method.upper(), path) for path, methods in items for method in methods if method != "servers"}
    described = {route for route, rule in call_scopes.RULES.items() if rule is not call_scopes.WithoutToken.PAGE}
    assert made == {route for route in described if not route[1].startswith("/dashboard")}
    for path, methods in items:
        for method in methods.keys() - {"servers"}:
            open_ = call_scopes.RULES[method.upper(), path] is call_scopes.WithoutToken.PROBE
            assert (methods[method].get("security") == []) == open_ == ("servers" in methods)
    names = set(document["components"]["schemas"])
    used = set(re.findall(r"#/components/schemas/(\w+)", json.dumps(document)))
    assert used == names
    assert "x-is" not in json.dumps(document)
    operations = [one for _, methods in items for method, one in methods.items() if method != "servers"]
    assert len({one["operationId"] for one in operations}) == len(operations)
    for call_ in CALLS:
        one = document["paths"][call_.path][call_.method.lower()]
        assert {"400", "401", "403", "503"} <= set(one["responses"])


def schemas_of(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every schema of the document, with those inside it."""

    def inside(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield schema
        for one in schema.get("properties", {}).values():
            yield from inside(one)
        for word in ("anyOf", "allOf", "oneOf"):
            for one in schema.get(word, ()):
                yield from inside(one)
        for word in ("items", "additionalProperties"):
            if isinstance(schema.get(word), dict):
                yield from inside(schema[word])

    for schema in document["components"]["schemas"].values():
        yield from inside(schema)

    def roots(node: Any) -> Iterator[dict[str, Any]]:
        if isinstance(node, list):
            for one in node:
                yield from roots(one)
        elif isinstance(node, dict):
            for word, one in node.items():
                if word == "schema":
                    yield from inside(one)
                elif word not in ("example", "examples"):
                    yield from roots(one)

    yield from roots(document["paths"])


def test_generators_of_clients_can_read_the_document():
    document = build("", tokens=True)
    for schema in schemas_of(document):
        kind = schema.get("type")
        assert not isinstance(kind, list) and kind != "null", schema
        assert None not in schema.get("enum", ()), schema
        if kind == "integer":
            assert schema["format"] == "int64", schema
        if "$ref" in schema:
            assert set(schema) == {"$ref"}, f"what stands beside a reference is not read: {schema}"
        if "properties" in schema:
            assert set(schema.get("required", ())) <= set(schema["properties"]), schema
    named = document["components"]["schemas"]
    assert named["Problem"]["required"] == ["status", "code", "title", "detail", "type"]
    assert {"TaskType", "TaskState", "Priority"} <= set(named)
    spelled = [str(schema["enum"]) for schema in schemas_of(document) if len(schema.get("enum", ())) > 1]
    assert len(spelled) == len(set(spelled)), "an enum that stands twice has a name"
    names = [one["operationId"] for path in document["paths"].values() for key, one in path.items() if key != "servers"]
    assert all(re.fullmatch(r"[a-z]+([A-Z][a-z]+)*", name) for name in names), names
    assert {"scheduleTask", "getTask", "cancelTask", "listDeadLetters"} <= set(names)
    assert re.fullmatch(r"\d+\.\d+\.\d+(-[a-z]+\.\d+)?", document["info"]["version"])


def test_security_is_said_with_and_without_tokens():
    assert build("", tokens=True)["security"] == [{"token": []}]
    assert build("", tokens=False)["security"] == [{}, {"token": []}]
    one = build("", tokens=True)["paths"]["/v1/tasks/{id}"]["delete"]
    assert "the scope `cancel`" in one["description"]


@pytest.mark.parametrize(
    ("version", "semver"),
    [("0.1.0.dev0", "0.1.0-dev.0"), ("1.2.0rc1", "1.2.0-rc.1"), ("1.2.3", "1.2.3"), ("1.2.3+abc", "1.2.3+abc")],
)
def test_the_version_is_semver(version: str, semver: str):
    assert semantic(version) == semver


TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


async def test_the_trace_of_a_post_travels_with_the_task():
    service = FakeService()
    headers = {**JSON, "traceparent": TRACE, "tracestate": "a=b", "baggage": "user=7"}
    await call("POST", "/v1/tasks", {"headers": {"x": "y"}}, service=service, headers=headers)
    trace = {"traceparent": TRACE.encode(), "tracestate": b"a=b", "baggage": b"user=7"}
    assert service.asked[-1][1].header == {"x": b"y", **trace}
    await call("POST", "/task", {}, service=service, headers=headers)
    assert service.asked[-1][1].header == trace, "the original's way too"
    await call(
        "POST",
        "/v1/tasks/batch",
        {"tasks": [{}, {"headers": {"traceparent": "mine"}}]},
        service=service,
        headers=headers,
    )
    first, own = service.asked[-1][1]
    assert first.header["traceparent"] == TRACE.encode()
    assert own.header == {"traceparent": b"mine"}, "what the caller says of the task counts"
    for wrong in ("", "00-x", TRACE.upper(), TRACE.replace("00-4", "ff-4"), f"{TRACE}-more"):
        await call("POST", "/v1/tasks", {}, service=service, headers={**JSON, "traceparent": wrong})
        assert service.asked[-1][1].header == {}, wrong
    for field, most in (("tracestate", 512), ("baggage", 8192)):
        for size, kept in ((most, True), (most + 1, False)):
            await call("POST", "/v1/tasks", {}, service=service, headers={**headers, field: "x" * size})
            assert (field in service.asked[-1][1].header) == kept, "what is too large is left out, and no more than it"
            assert service.asked[-1][1].header["traceparent"] == TRACE.encode()


async def test_the_document_is_served_at_the_root_and_asks_for_no_token():
    answer = await call("GET", "/openapi.json", context_path="/api", tokens=(Token.of("t"),))
    assert answer.status == 200
    assert answer.json["info"]["title"] == "DelayBox"


async def test_the_page_fetches_nothing_elsewhere():
    page = await call("GET", "/docs", tokens=(Token.of("t"),))
    assert page.status == 200
    assert page.headers["content-type"].startswith("text/html")
    rules = page.headers["content-security-policy"]
    assert "default-src 'none'" in rules
    assert "script-src 'self';" in rules
    assert b"//" not in page.body
    assert b"<script>" not in page.body
    for name in re.findall(rb'(?:src|href)="docs/([^"]+)"', page.body):
        answer = await call("GET", f"/docs/{name.decode()}")
        assert answer.status == 200
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.body
    for path in ("/docs/index.html", "/docs/..", "/docs/%2e%2e"):
        assert (await call("GET", path)).status == 404
