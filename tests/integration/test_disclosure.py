"""What answers show to a token without the scope read: every call that such a token may make, over REST and gRPC."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any

import grpc
import pytest
from redis.asyncio import Redis

from delaybox.api import call_scopes
from delaybox.core.scopes import Access, Token
from delaybox.wire.gen import scheduler_pb2 as pb
from tests.children import Served
from tests.rest import rest_process
from tests.rpc import Rpc, channel_to, grpc_process, refused
from tests.servers import RealServer
from tests.shared import a_prefix, empty, kept
from tests.waiting import PATIENCE_S

CANARY = "canary-7f3a"
WRITER = tuple(access for access in Access if access not in (Access.READ, Access.SHELL))
TOKENS = (Token.of("reads", tuple(Access)), Token.of("writes", WRITER))
HOUR_MS = 3_600_000
TASK = {
    "delay": HOUR_MS,
    "type": "worker",
    "name": CANARY,
    "queue": CANARY,
    "payload": CANARY,
    "headers": {CANARY: CANARY},
    "labels": {CANARY: CANARY},
    "priority": "high",
    "timeout": 5_000,
    "expire_after": 6_000,
    "keep_result": 7_000,
}


@dataclass
class Both:
    """One store, served over REST and over gRPC."""

    port: int
    rpc: Rpc

    async def rest(self, method: str, path: str, body: Any = None, token: str = "writes") -> tuple[int, bytes]:
        return await asyncio.to_thread(self._rest, method, path, body, token)

    def _rest(self, method: str, path: str, body: Any, token: str) -> tuple[int, bytes]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        try:
            headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
            connection.request(method, path, None if body is None else json.dumps(body).encode(), headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    async def call(self, method: str, request: Any, token: str = "writes") -> Any:
        stub = getattr(self.rpc.scheduler, method)
        metadata = (("authorization", f"Bearer {token}"),)
        if method == "ScheduleStream":
            return [answer async for answer in stub(iter([request]), metadata=metadata)]
        return await stub(request, metadata=metadata)

    async def stored(self, **changes: Any) -> str:
        """Another task full of canaries; its id."""
        status, answer = await self.rest("POST", "/v1/tasks", TASK | changes, "reads")
        assert status == 201, answer
        assert answer.decode().count(CANARY) == 7
        return str(json.loads(answer)["id"])


@pytest.fixture(scope="module")
def prefix() -> str:
    """One for the module's tests, which share two processes."""
    return a_prefix()


@pytest.fixture(scope="module")
def processes(server: RealServer, prefix: str) -> Iterator[tuple[Served, Served]]:
    common: dict[str, Any] = {"server": server.settings, "prefix": prefix, "tokens": TOKENS}
    with kept(rest_process(**common)) as api, kept(grpc_process(**common)) as rpc:
        yield api, rpc


@pytest.fixture
async def both(processes: tuple[Served, Served], client: Redis, prefix: str) -> AsyncIterator[Both]:
    api, rpc = processes
    async with channel_to(rpc) as found:
        yield Both(api.port, found)
    await empty(client, prefix)


async def test_rest_shows_id_due_and_state_alone(both: Both):
    task_id = await both.stored(idempotency_key="known")
    one = f"/v1/tasks/{task_id}"
    shown = {"id", "state", "due", "due_ms"}
    ruled = {"queue", "rules", "effect", "waits", "newer", "full_speed_at", "version"}
    for key in ("patched", "deleted", "run"):
        await both.stored(idempotency_key=key)
    many, counted = {"queue": CANARY, "dry_run": True}, {"matched"}
    calls: dict[tuple[str, str], tuple[str, Any, set[str]]] = {
        ("POST", "/task"): ("/task", {"pyload": "YQ=="}, {"message", "taskUuid"}),
        ("POST", "/v1/tasks"): ("/v1/tasks", TASK | {"idempotency_key": "known"}, shown | {"created"}),
        ("POST", "/v1/tasks/batch"): (
            "/v1/tasks/batch",
            {"tasks": [TASK | {"idempotency_key": "known"}, {"payload": "other", "idempotency_key": "known"}]},
            {"created", "duplicates", "refused", "items"},
        ),
        ("PATCH", "/v1/tasks/{id}"): (one, {"priority": "low"}, shown),
        ("POST", "/v1/tasks/{id}/run"): (f"{one}/run", None, {"id", "due", "due_ms"}),
        ("DELETE", "/v1/tasks/{id}"): (one, None, set()),
        ("POST", "/v1/tasks/cancel"): ("/v1/tasks/cancel", many, counted),
        ("POST", "/v1/tasks/reschedule"): ("/v1/tasks/reschedule", many | {"delay": "2h"}, counted),
        ("POST", "/v1/tasks/run"): ("/v1/tasks/run", many, counted),
        ("PATCH", "/v1/tasks/by-key"): ("/v1/tasks/by-key?key=patched", {"priority": "low"}, shown),
        ("DELETE", "/v1/tasks/by-key"): ("/v1/tasks/by-key?key=deleted", None, set()),
        ("POST", "/v1/tasks/by-key/run"): ("/v1/tasks/by-key/run?key=run", None, {"id", "due", "due_ms"}),
        ("PUT", "/v1/queues/{queue}"): ("/v1/queues/x", {"timeout": 5}, ruled),
        ("PATCH", "/v1/queues/{queue}"): ("/v1/queues/x", {"timeout": 6}, ruled),
        ("DELETE", "/v1/queues/{queue}"): ("/v1/queues/x", None, set()),
        ("POST", "/v1/dead/replay"): ("/v1/dead/replay", {"dry_run": True}, {"replayed", "matched"}),
        ("POST", "/v1/dead/discard"): ("/v1/dead/discard", many, counted),
        ("POST", "/v1/dead/{id}/replay"): (f"/v1/dead/{task_id}/replay", None, set()),
        ("DELETE", "/v1/dead/{id}"): (f"/v1/dead/{task_id}", None, set()),
        ("POST", "/v1/dead/by-key/replay"): ("/v1/dead/by-key/replay?key=run", None, set()),
        ("DELETE", "/v1/dead/by-key"): ("/v1/dead/by-key?key=run", None, set()),
    }
    # What the dashboard's pages show without read: test_dashboard.py.
    asked = {
        (method, route)
        for (method, route), rule in call_scopes.RULES.items()
        if isinstance(rule, Access) and rule is not Access.READ and not route.startswith("/dashboard")
    }
    assert set(calls) == asked, "say of every call what it shows without the scope read"
    for (method, route), (path, body, fields) in calls.items():
        status, answer = await both.rest(method, path, body)
        assert status < 300 or route.startswith(("/v1/dead/{id}", "/v1/dead/by-key")), (route, status, answer)
        assert CANARY.encode() not in answer, (method, route, answer)
        if status < 300 and fields:
            assert set(json.loads(answer)) == fields, (route, answer)


async def test_rest_shows_as_little_of_what_was_just_stored_and_of_another_payload(both: Both):
    status, answer = await both.rest("POST", "/v1/tasks", TASK)
    assert (status, set(json.loads(answer))) == (201, {"id", "state", "due", "due_ms", "created"})
    task_id = await both.stored()
    status, answer = await both.rest("PATCH", f"/v1/tasks/{task_id}", {"payload": "x", "labels": {}})
    assert (status, set(json.loads(answer))) == (200, {"id", "state", "due", "due_ms"})
    status, answer = await both.rest("PATCH", f"/v1/tasks/{task_id}", {"payload": "y"}, "reads")
    assert {"queue", "priority", "type", "payload"} <= set(json.loads(answer)), "read sees it whole"


async def test_grpc_shows_id_due_and_state_alone(both: Both):
    task_id = await both.stored(idempotency_key="known")
    known = pb.NewTask(payload=b"other", idempotency_key="known", delay_ms=HOUR_MS)
    batch = pb.ScheduleBatchRequest(tasks=[pb.NewTask(payload=b"x", delay_ms=HOUR_MS), known])
    all_ = pb.Selection(all=True, dry_run=True)
    one = pb.Selection(filter=pb.TaskFilter(queue=CANARY))
    later = 2 * HOUR_MS
    calls: dict[str, list[Any]] = {
        "Schedule": [pb.ScheduleRequest(task=pb.NewTask(payload=b"x", delay_ms=HOUR_MS))],
        "ScheduleBatch": [batch],
        "ScheduleStream": [batch],
        "Reschedule": [
            pb.RescheduleRequest(id=task_id, delay_ms=later),
            pb.RescheduleRequest(id=task_id, payload=b"x"),
        ],
        "RescheduleMany": [
            pb.RescheduleManyRequest(selection=all_, delay_ms=later),
            pb.RescheduleManyRequest(selection=one, delay_ms=later),
        ],
        "RunNowMany": [pb.RunNowManyRequest(selection=all_), pb.RunNowManyRequest(selection=one)],
        "RunNow": [pb.RunNowRequest(id=task_id)],
        "CancelMany": [pb.CancelManyRequest(selection=all_), pb.CancelManyRequest(selection=one)],
        "Cancel": [pb.CancelRequest(id=await both.stored())],
        "SetQueue": [pb.SetQueueRequest(queue="x", rules=pb.Rules(timeout_ms=5))],
        "UnsetQueue": [pb.UnsetQueueRequest(queue="x")],
        "ReplayDeadMany": [pb.ReplayDeadManyRequest(selection=all_)],
        "ReplayDead": [],
        "DiscardDeadMany": [pb.DiscardDeadManyRequest(selection=all_)],
        "DiscardDead": [pb.DiscardDeadRequest(id=task_id)],
    }
    rules = {name.rpartition("/")[2]: rule for name, rule in call_scopes.GRPC_RULES.items() if "v1.Scheduler" in name}
    asked = {name for name, rule in rules.items() if isinstance(rule, Access) and rule is not Access.READ}
    assert set(calls) == asked, "say of every call what it shows without the scope read"
    for method, requests in calls.items():
        for request in requests:
            try:
                answer = await both.call(method, request)
            except Exception as error:
                answer = error
            assert CANARY not in str(answer), (method, answer)
            if method == "Reschedule":
                assert {field.name for field, _ in answer.ListFields()} == {"id", "state", "due_ms", "brief"}
            if method.endswith("Many"):
                assert not answer.sample_ids and (answer.matched or "Dead" in method), (method, answer)


async def test_grpc_shows_the_rest_to_a_token_with_read(both: Both):
    task_id = await both.stored()
    moved = await both.call("Reschedule", pb.RescheduleRequest(id=task_id, priority=pb.PRIORITY_LOW), "reads")
    assert (moved.queue, moved.payload, moved.brief) == (CANARY, CANARY.encode(), False)
    counted = await both.call(
        "CancelMany", pb.CancelManyRequest(selection=pb.Selection(all=True, dry_run=True)), "reads"
    )
    assert list(counted.sample_ids) == [task_id]


async def test_two_tokens_are_refused_over_grpc_too(both: Both):
    metadata = (("authorization", "Bearer reads"), ("authorization", "Bearer writes"))
    call = both.rpc.scheduler.Get(pb.GetRequest(id="x"), metadata=metadata)
    assert (await refused(call)).status is grpc.StatusCode.UNAUTHENTICATED
