"""The routes of /v1 over a fake service: statuses, headers, problems, the document and the page, without a socket."""

from __future__ import annotations

import json
from typing import Any

import pytest

from delaybox.api import call_scopes
from delaybox.api.rest.settings import ApiSettings
from delaybox.api.rest.v1.routes import CALLS
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
from delaybox.core.query import TaskQuery
from delaybox.core.queue import QueueRules
from delaybox.core.scopes import Access, Token
from delaybox.core.task import NewTask, Priority, TaskResult, TaskState, TaskType
from delaybox.service import Selection
from tests.overload import overloaded
from tests.v1_apps import DUE, ID, JSON, FakeService, call, view


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


@pytest.mark.parametrize("path", ["/v1/tasks", "/v1/tasks/batch"])
async def test_while_tasks_wait_too_long_new_ones_are_refused_unread_and_all_else_is_answered(path):
    refused = []
    service = FakeService(shedding=overloaded(lambda: refused.append(path)))
    answer = await call("POST", path, b"{this is not read", service=service)
    assert (answer.status, answer.headers["retry-after"]) == (429, "1")
    assert "wait longer than 100 ms" in answer.problem("overloaded")["detail"]
    assert refused == [path] and service.asked == []
    assert (await call("GET", f"/v1/tasks/{ID}", service=service)).status == 200
    assert (await call("POST", path, {})).status in (201, 400)


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
            "larger than 16777216 bytes: it has 16777228; send it in several calls",
        ),
    ],
)
async def test_wrong_batches(body, status, words):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = await call("POST", "/v1/tasks/batch", raw, headers={**JSON, "content-length": str(len(raw))})
    assert answer.status == status
    assert words in answer.json["detail"]


@pytest.mark.parametrize("call_", [one for one in CALLS if one.body], ids=lambda one: f"{one.method} {one.path}")
async def test_a_body_over_the_limit_is_refused_alike_everywhere(call_):
    limit = 16 * 1024 * 1024 if call_.path.endswith("/batch") else ApiSettings(payload_limit=1024).body_limit
    raw, path = b" " * (limit + 7), call_.path.replace("{id}", ID).replace("{queue}", "mail")
    path += "?key=k" * path.endswith("/by-key")
    for length in ({}, {"content-length": str(len(raw))}):
        answer = await call(call_.method, path, raw, headers=JSON | length, payload_limit=1024)
        assert (answer.status, answer.headers["connection"]) == (413, "close")
        detail = answer.problem("too_large")["detail"]
        assert detail.startswith(f"the body is larger than {limit} bytes: it has {limit + 7}; "), detail


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
        ("GET", "/v1/tasks?limit=3&cursor=c", b"", 200, ("list", TaskQuery(), "c", 3), {"cursor": "next"}),
        ("GET", "/v1/dead?queue=q", b"", 200, ("dead", TaskQuery(queue="q"), "", 100), {"cursor": None}),
        ("POST", f"/v1/dead/{ID}/replay", b"", 200, ("replay", ID), {"replayed": 1}),
        ("POST", "/v1/dead/replay", {"queue": "q"}, 200,
         ("replay_many", Selection(wanted=TaskQuery(queue="q"), limit=1000)), {"replayed": 3}),
        ("POST", "/v1/dead/replay", {"dry_run": True}, 200,
         ("replay_many", Selection(wanted=TaskQuery(), limit=1000, dry_run=True)),
         {"replayed": 0, "matched": 3, "sample_ids": [ID]}),
        ("POST", "/v1/dead/discard", {"group": "g", "limit": 7}, 200,
         ("discard_many", Selection(wanted=TaskQuery(group="g"), limit=7)),
         {"matched": 3, "changed": 3, "sample_ids": [ID]}),
        ("DELETE", f"/v1/dead/{ID}", b"", 204, ("discard", ID), None),
        ("GET", "/v1/queues", b"", 200, ("queues",), {}),
        ("GET", "/v1/queues/mail", b"", 200, ("queues",),
         {"pending": 6, "ready": 4, "in_flight": 2, "fired_per_s": 3.75, "settings": {"keep_result_ms": 0}}),
        ("GET", "/v1/queues/other", b"", 200, ("queues",), {"pending": 0, "types": []}),
        ("PUT", "/v1/queues/mail", {"paused": True, "timeout": "2s"}, 200,
         ("set", "mail", QueueRules(paused=True, timeout_ms=2_000), {"clear": frozenset(), "whole": True}),
         {"rules": {"paused": True, "timeout": 2_000}}),
        ("PATCH", "/v1/queues/*", {"paused": None}, 200,
         ("set", "*", QueueRules(), {"clear": frozenset({"paused"}), "whole": False}), {"queue": "*"}),
        ("DELETE", "/v1/queues/mail", b"", 204, ("unset", "mail"), None),
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
    assert (await call("GET", "/v1/nodes")).json["nodes"][0]["types"] == ["pub_sub", "shell", "z"]


async def test_a_call_without_parameters_refuses_them_by_name():
    for made in CALLS:
        if not made.query:
            path = made.path.replace("{id}", ID).replace("{queue}", "mail")
            answer = await call(made.method, f"{path}?verbose=1", b"{}")
            assert "'verbose' is not a parameter here" in answer.problem("invalid_task")["detail"], made.path


def test_every_call_has_a_rule():
    for made in CALLS:
        assert call_scopes.rule(made.method, made.path) is not call_scopes.WithoutToken.PROBE


# -- the document and the page ----------------------------------------------------------------------------------
