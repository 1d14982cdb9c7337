"""The routes of /v1 over a fake service: statuses, headers, problems, the document and the page, without a socket."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import unquote

import pytest

from delaybox.api import policy
from delaybox.api.rest.app import TaskService, build_app
from delaybox.api.rest.settings import ApiSettings
from delaybox.api.rest.v1.openapi import build, semantic
from delaybox.api.rest.v1.routes import CALLS
from delaybox.core.access import Access, Token
from delaybox.core.errors import (
    DelayBoxError,
    IdempotencyConflict,
    InvalidTask,
    Overloaded,
    PastDue,
    StoreFull,
    StoreUnavailable,
    TaskFinished,
    TaskNotFound,
    TaskRunning,
)
from delaybox.core.query import ForecastStep, Page, QueueStats, TaskFilter
from delaybox.core.task import NewTask, Priority, Submitted, TaskResult, TaskState, TaskType, TaskView

ID = "01a2b3c4-d5e6-8001-9f00-112233445566"
JSON = {"content-type": "application/json", "host": "localhost:8088"}
DUE = 4_000_000_000_000


def view(**changes: Any) -> TaskView:
    return TaskView(**{
        "task_id": ID, "state": TaskState.SCHEDULED, "due_ms": DUE, "type": TaskType.PUB_SUB, "queue": "default",
        "priority": Priority.NORMAL, "payload": b"hi", "header": {}, **changes,
    })  # fmt: skip


@dataclass
class FakeService:
    error: Exception | None = None
    created: bool = True
    found: TaskView | None = field(default_factory=view)
    asked: list[tuple[Any, ...]] = field(default_factory=list)

    def _note(self, *what: Any) -> None:
        self.asked.append(what)
        if self.error:
            raise self.error

    async def submit(self, task: NewTask) -> Submitted:
        self._note("submit", task)
        return Submitted(ID, task.due_ms or DUE, self.created)

    async def submit_many(self, tasks: Sequence[NewTask]) -> list[Submitted | DelayBoxError]:
        self._note("submit_many", list(tasks))
        return [
            IdempotencyConflict(task.idempotency_key, ID)
            if task.idempotency_key == "taken"
            else Submitted(ID, DUE, task.idempotency_key != "known")
            for task in tasks
        ]

    async def get(self, task_id: str) -> TaskView:
        self._note("get", task_id)
        if self.found is None:
            raise TaskFinished("gone")
        return self.found

    async def list_tasks(self, wanted: TaskFilter, *, cursor: str = "", limit: int = 100) -> Page:
        self._note("list", wanted, cursor, limit)
        return Page([view()], "next")

    async def dead_letters(self, wanted: TaskFilter, *, cursor: str = "", limit: int = 100) -> Page:
        self._note("dead", wanted, cursor, limit)
        return Page([view(state=TaskState.FAILED, reason="no")])

    async def cancel(self, task_id: str, *, free_key: bool = False) -> None:
        self._note("cancel", task_id, free_key)

    async def update(self, task_id: str, **what: Any) -> TaskView:
        self._note("update", task_id, {k: v for k, v in what.items() if v is not None})
        return view()

    async def run_now(self, task_id: str) -> int:
        self._note("run", task_id)
        return DUE

    async def queues(self) -> list[QueueStats]:
        self._note("queues")
        return [
            QueueStats(queue="mail", type=kind, pending=3, ready=2, in_flight=1, fired_per_s=rate)
            for kind, rate in ((TaskType.PUB_SUB, 1.25), (TaskType.WORKER, 2.5))
        ]

    async def replay(self, task_id: str) -> None:
        self._note("replay", task_id)

    async def replay_many(self, wanted: TaskFilter, *, limit: int = 1_000) -> int:
        self._note("replay_many", wanted, limit)
        return 3

    async def discard(self, task_id: str) -> None:
        self._note("discard", task_id)

    async def forecast(self, from_ms: int, to_ms: int, step_ms: int) -> list[ForecastStep]:
        self._note("forecast", from_ms, to_ms, step_ms)
        return [ForecastStep(DUE, 2), ForecastStep(DUE + step_ms, 3)]

    async def nodes(self) -> list[dict[str, Any]]:
        self._note("nodes")
        return [{"id": "n", "host": "h", "pid": 1, "types": ["p", "SHELL_CMD"], "seen_ms": DUE, "started_ms": 0}]


@dataclass
class Response:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def problem(self, code: str) -> Any:
        """The problem, which must be one of this code and whole."""
        assert self.headers["content-type"] == "application/problem+json"
        problem = self.json
        assert problem["code"] == code
        assert problem["type"] == f"urn:delaybox:{code}"
        assert problem["status"] == self.status
        assert problem["title"]
        assert problem["detail"]
        return problem


async def call(
    method: str,
    path: str,
    body: object = b"",
    *,
    service: FakeService | None = None,
    headers: Mapping[str, str] = JSON,
    **settings: Any,
) -> Response:
    app = build_app(cast(TaskService, service or FakeService()), ApiSettings(**settings))
    path, _, query = path.partition("?")
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    incoming = [{"type": "http.request", "body": raw, "more_body": False}]
    sent: list[Any] = []

    async def receive() -> Any:
        return incoming.pop(0) if incoming else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(
        {
            "type": "http",
            "method": method,
            "path": unquote(path),
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers.items()],
        },
        receive,
        send,
    )
    start, last = sent
    return Response(start["status"], {k.decode(): v.decode() for k, v in start["headers"]}, last["body"])


async def test_a_task_is_created():
    service = FakeService()
    answer = await call("POST", "/v1/tasks", {"at": DUE, "payload": "hi", "labels": {"a": "b"}}, service=service)
    assert answer.status == 201
    assert answer.headers["location"] == f"/v1/tasks/{ID}"
    assert answer.json == {
        "id": ID,
        "type": "pub_sub",
        "state": "scheduled",
        "due": "2096-10-02T07:06:40.000Z",
        "due_ms": DUE,
        "queue": "default",
        "priority": "normal",
        "payload": "hi",
        "labels": {"a": "b"},
        "created": True,
    }
    assert service.asked == [("submit", NewTask(payload=b"hi", due_ms=DUE, labels={"a": "b"}))]


async def test_the_context_path_stands_before_v1_and_in_location():
    answer = await call("POST", "/api/v1/tasks", {}, context_path="/api/")
    assert (answer.status, answer.headers["location"]) == (201, f"/api/v1/tasks/{ID}")
    assert (await call("POST", "/v1/tasks", {}, context_path="/api/")).status == 404


async def test_the_same_key_again_is_the_first_ones_task():
    service = FakeService(created=False, found=view(state=TaskState.RUNNING))
    headers = {**JSON, "idempotency-key": '"k 1"'}
    answer = await call("POST", "/v1/tasks", {}, service=service, headers=headers)
    assert (answer.status, answer.json["created"], answer.json["state"]) == (200, False, "running")
    assert service.asked[0] == ("submit", NewTask(idempotency_key="k 1"))
    service = FakeService(created=False, found=None)
    answer = await call("POST", "/v1/tasks", {"payload": "x"}, service=service, headers=headers)
    assert (answer.status, answer.json["created"], answer.json["state"], answer.json["payload"]) == (
        200,
        False,
        None,
        "x",
    )


async def test_a_key_header_that_is_none():
    for value, words in (
        ("", "has 0 bytes"),
        ('""', "has 0 bytes"),
        ("é", "not visible ASCII"),
        ("x" * 257, "257 bytes"),
    ):
        answer = await call("POST", "/v1/tasks", {}, headers={**JSON, "idempotency-key": value})
        problem = answer.problem("invalid_task")
        assert words in problem["detail"]
        assert problem["field"] == "Idempotency-Key"
    answer = await call("POST", "/v1/tasks/batch", {"tasks": [{}]}, headers={**JSON, "idempotency-key": "k"})
    assert "names one task" in answer.problem("invalid_task")["detail"]


@pytest.mark.parametrize(
    ("error", "status", "code", "retry_after"),
    [
        (InvalidTask("queue", "w"), 400, "invalid_task", None),
        (PastDue("at", "w"), 422, "past_due", None),
        (TaskNotFound("w"), 404, "not_found", None),
        (TaskFinished("w"), 410, "finished_or_unknown", None),
        (TaskRunning("w"), 409, "running", None),
        (IdempotencyConflict("k", ID), 409, "idempotency_conflict", None),
        (Overloaded("w"), 429, "overloaded", "1"),
        (StoreUnavailable("w", retry_after_s=3), 503, "store_unavailable", "3"),
        (StoreFull("w"), 503, "store_full", "1"),
        (DelayBoxError("secret"), 500, "internal", None),
        (RuntimeError("secret"), 500, "internal", None),
    ],
)
async def test_errors_are_problems(error, status, code, retry_after):
    answer = await call("POST", "/v1/tasks", {}, service=FakeService(error=error))
    assert (answer.status, answer.headers.get("retry-after")) == (status, retry_after)
    problem = answer.problem(code)
    assert problem.get("field", "") == getattr(error, "field", "")
    assert problem.get("task_id", "") == getattr(error, "task_id", "")
    assert "secret" not in problem["detail"]


async def test_what_is_refused_before_the_service_is_a_problem_too():
    (await call("GET", "/v1/nothing")).problem("no_such_path")
    answer = await call("PUT", "/v1/tasks")
    answer.problem("method_not_allowed")
    assert answer.headers["allow"] == "POST, GET, HEAD"
    answer = await call("POST", "/v1/tasks", {}, headers={"host": "localhost", "content-type": "text/plain"})
    answer.problem("unsupported_media_type")
    (await call("GET", "/v1/tasks", headers={"host": "evil.example"})).problem("forbidden")
    answer = await call("GET", "/v1/tasks", tokens=(Token.of("s3cret"),))
    answer.problem("unauthenticated")
    assert answer.status == 401
    answer = await call(
        "GET", "/v1/tasks", tokens=(Token.of("t", (Access.CANCEL,)),), headers={**JSON, "authorization": "Bearer t"}
    )
    assert "scope read" in answer.problem("scope_missing")["detail"]


async def test_a_shell_task_needs_the_scope_wherever_it_comes_from():
    settings: dict[str, Any] = {"tokens": (Token.of("t", (Access.SCHEDULE,)),), "shell": True}
    headers = {**JSON, "authorization": "Bearer t"}
    task = {"type": "shell", "payload": "date"}
    answer = await call("POST", "/v1/tasks", task, headers=headers, **settings)
    assert "scope shell" in answer.problem("scope_missing")["detail"]
    answer = await call("POST", "/v1/tasks/batch", {"tasks": [task, {}]}, headers=headers, **settings)
    assert [item["status"] for item in answer.json["items"]] == [403, 201]
    service = FakeService(found=view(type=TaskType.SHELL_CMD))
    answer = await call("PATCH", f"/v1/tasks/{ID}", {"payload": "rm"}, headers=headers, service=service, **settings)
    answer.problem("scope_missing")
    assert [name for name, *_ in service.asked] == ["get"]


async def test_a_batch_answers_each_task():
    service = FakeService()
    tasks = [{}, {"x": 1}, {"idempotency_key": "known"}, 5, {"idempotency_key": "taken"}, {"type": "http"}]
    answer = await call("POST", "/v1/tasks/batch", {"tasks": tasks}, service=service)
    assert answer.status == 200
    assert [item["status"] for item in answer.json["items"]] == [201, 400, 200, 400, 409, 403]
    assert (answer.json["created"], answer.json["duplicates"], answer.json["refused"]) == (1, 1, 4)
    assert answer.json["items"][0] == {"status": 201, "id": ID, "due_ms": DUE}
    assert answer.json["items"][1]["error"]["field"] == "x"
    assert "body must be an object, not the number 5" in answer.json["items"][3]["error"]["detail"]
    assert answer.json["items"][4]["error"]["task_id"] == ID
    assert [len(tasks) for _, tasks in service.asked] == [3]


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"tasks": []}, 400, "tasks is empty; send 1 to 10000"),
        ({"tasks": [{}] * 10_001}, 413, "tasks holds more than 10000 tasks"),
        ({}, 400, "tasks is missing; add it"),
        ([{}], 400, "body must be an object, not a list"),
        ({"task": []}, 400, "'task' is not a field of a batch; did you mean tasks?"),
        (b'{"tasks":[{},]}', 400, "not valid JSON"),
        (
            b'{"tasks":[' + b" " * (16 * 1024 * 1024) + b"]}",
            413,
            "larger than 16777216 bytes; send it in several calls",
        ),
    ],
)
async def test_wrong_batches(body, status, words):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = await call("POST", "/v1/tasks/batch", raw, headers={**JSON, "content-length": str(len(raw))})
    assert answer.status == status
    assert words in answer.json["detail"]


async def test_one_task():
    service = FakeService(
        found=view(
            type=TaskType.SHELL_CMD,
            state=TaskState.SUCCEEDED,
            payload=b"\xff",
            header={"a": b"\xffb"},
            result=TaskResult(ok=True, finished_ms=DUE, duration_ms=12, exit_code=0, output=b"out\n", truncated=True),
        )
    )
    answer = await call("GET", f"/v1/tasks/{ID}", service=service)
    assert answer.status == 200
    assert answer.json["payload_base64"] == "/w=="
    assert "payload" not in answer.json
    assert answer.json["headers"] == {"a": "\ufffdb"}
    assert answer.json["result"] == {
        "ok": True,
        "finished": "2096-10-02T07:06:40.000Z",
        "finished_ms": DUE,
        "duration_ms": 12,
        "exit_code": 0,
        "output": "out\n",
        "truncated": True,
    }
    assert service.asked == [("get", ID)]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "asked", "answered"),
    [
        ("DELETE", f"/v1/tasks/{ID}", b"", 204, ("cancel", ID, False), None),
        ("DELETE", f"/v1/tasks/{ID}?free_key=true", b"", 204, ("cancel", ID, True), None),
        ("POST", f"/v1/tasks/{ID}/run", b"", 200, ("run", ID), {"due_ms": DUE}),
        ("PATCH", f"/v1/tasks/{ID}", {"delay": 5, "priority": "low"}, 200,
         ("update", ID, {"delay_ms": 5, "priority": Priority.LOW}), {"id": ID}),
        ("GET", "/v1/tasks?limit=3&cursor=c", b"", 200, ("list", TaskFilter(), "c", 3), {"cursor": "next"}),
        ("GET", "/v1/dead?queue=q", b"", 200, ("dead", TaskFilter(queue="q"), "", 100), {"cursor": None}),
        ("POST", f"/v1/dead/{ID}/replay", b"", 200, ("replay", ID), {"replayed": 1}),
        ("POST", "/v1/dead/replay", {"queue": "q"}, 200, ("replay_many", TaskFilter(queue="q"), 1000), {"replayed": 3}),
        ("DELETE", f"/v1/dead/{ID}", b"", 204, ("discard", ID), None),
        ("GET", "/v1/queues", b"", 200, ("queues",), {}),
        ("GET", "/v1/queues/mail", b"", 200, ("queues",),
         {"pending": 6, "ready": 4, "in_flight": 2, "fired_per_s": 3.75, "settings": {"keep_result_ms": 0}}),
        ("GET", "/v1/queues/other", b"", 200, ("queues",), {"pending": 0, "types": []}),
        ("GET", f"/v1/forecast?from={DUE}&to={DUE + 120_000}&step=1m", b"", 200,
         ("forecast", DUE, DUE + 120_000, 60_000), {"total": 5, "step_ms": 60_000}),
        ("GET", "/v1/nodes", b"", 200, ("nodes",), {}),
    ],
)  # fmt: skip
async def test_calls(method, path, body, status, asked, answered):
    service = FakeService()
    answer = await call(method, path, body, service=service)
    assert answer.status == status, answer.body
    assert service.asked == [asked]
    if answered is None:
        assert answer.body == b""
        assert "content-length" not in answer.headers
    else:
        assert {name: answer.json[name] for name in answered} == answered


async def test_types_of_a_node_have_the_names_of_v1():
    assert (await call("GET", "/v1/nodes")).json["nodes"][0]["types"] == ["pub_sub", "shell"]


async def test_a_call_without_parameters_refuses_them_by_name():
    for made in CALLS:
        if not made.query:
            path = made.path.replace("{id}", ID).replace("{queue}", "mail")
            answer = await call(made.method, f"{path}?verbose=1", b"{}")
            assert "'verbose' is not a parameter here" in answer.problem("invalid_task")["detail"], made.path


def test_every_call_has_a_rule():
    for made in CALLS:
        assert policy.rule(made.method, made.path) is not policy.Open.PROBE


# -- the document and the page ----------------------------------------------------------------------------------


def test_the_document_is_whole():
    document = build("/api", tokens=True)
    assert document["openapi"] == "3.0.3"
    assert document["servers"] == [{"url": "/api"}]
    assert document["security"] == [{"token": []}]
    items = document["paths"].items()
    made = {(method.upper(), path) for path, methods in items for method in methods if method != "servers"}
    assert made == {route for route, rule in policy.RULES.items() if rule is not policy.Open.PAGE}
    for path, methods in items:
        for method in methods.keys() - {"servers"}:
            open_ = policy.RULES[method.upper(), path] is policy.Open.PROBE
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
    headers = {**JSON, "traceparent": TRACE, "tracestate": "a=b"}
    await call("POST", "/v1/tasks", {"headers": {"x": "y"}}, service=service, headers=headers)
    assert service.asked[-1][1].header == {"x": b"y", "traceparent": TRACE.encode(), "tracestate": b"a=b"}
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
