"""/v1 over a real server: the API process, and where tasks must end, an engine."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from http.client import HTTPConnection
from typing import Any

import pytest
from redis.asyncio import Redis

from delaybox.core.delivery import Delivery, Done, Failed, Report
from delaybox.core.task import TaskResult, TaskType
from delaybox.engine.engine import Engine
from delaybox.store.servers import Servers
from delaybox.store.store import Store
from tests.children import Served
from tests.engines import running
from tests.rest import rest_process
from tests.servers import RealServer
from tests.shared import a_prefix, empty, kept
from tests.waiting import PATIENCE_S, until_async

HOUR_MS = 3_600_000


class V1:
    """A client of one API process."""

    def __init__(self, process: Served) -> None:
        self.process = process

    async def call(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        """Status and JSON (None for an empty body)."""
        return await asyncio.to_thread(self._call, method, path, body, headers or {})

    def _call(self, method: str, path: str, body: Any, headers: dict[str, str]) -> tuple[int, Any]:
        connection = HTTPConnection("127.0.0.1", self.process.port, timeout=PATIENCE_S)
        raw = None if body is None else json.dumps(body).encode()
        try:
            connection.request(method, f"/v1{path}", raw, {"Content-Type": "application/json", **headers})
            answer = connection.getresponse()
            text = answer.read()
            return answer.status, json.loads(text) if text else None
        finally:
            connection.close()

    async def post(self, **task: Any) -> str:
        status, answer = await self.call("POST", "/tasks", task)
        assert status == 201, answer
        task_id: str = answer["id"]
        return task_id

    async def until(self, path: str, state: str) -> Any:
        """The task once it is in that state."""

        async def look() -> Any:
            _, answer = await self.call("GET", path)
            return answer if answer.get("state") == state else None

        return await until_async(look)


@pytest.fixture(scope="module")
def prefix() -> str:
    """One for the module's tests, which share a process."""
    return a_prefix()


@pytest.fixture(scope="module")
def process(server: RealServer, prefix: str) -> Iterator[Served]:
    with kept(rest_process(server=server.settings, prefix=prefix)) as shared:
        yield shared


@pytest.fixture
async def v1(process: Served, client: Redis, prefix: str) -> AsyncIterator[V1]:
    yield V1(process)
    await empty(client, prefix)


class Worker:
    """Does what a task's payload says."""

    async def deliver(self, batch: Sequence[Delivery], report: Report) -> None:
        for delivery in batch:
            if b"fail" in delivery.body:
                report([delivery], Failed("it would not", retryable=False))
            else:
                result = TaskResult(ok=True, finished_ms=int(time.time() * 1000), duration_ms=3, output=b"done")
                report([delivery], Done(result, keep_ms=60_000))


@pytest.fixture
async def engine(client: Redis, prefix: str, v1: V1) -> AsyncIterator[Engine]:
    store = await Store.open(Servers(client), prefix=prefix)
    async with running(store, {TaskType.WORKER: Worker()}, node_id="n1", roles=("work",)) as started:
        yield started


async def test_a_tasks_life(v1: V1):
    task_id = await v1.post(delay="1h", payload="hi", labels={"a": "b"}, headers={"t": "1"}, priority="high")
    status, task = await v1.call("GET", f"/tasks/{task_id}")
    assert status == 200
    assert (task["state"], task["payload"], task["labels"], task["headers"], task["priority"]) == (
        "scheduled", "hi", {"a": "b"}, {"t": "1"}, "high",
    )  # fmt: skip
    due = task["due_ms"] + HOUR_MS
    status, task = await v1.call(
        "PATCH", f"/tasks/{task_id}", {"at": due, "payload_json": {"n": 1}, "labels": {"c": "d"}}
    )
    assert status == 200
    assert (task["id"], task["due_ms"], task["payload"], task["labels"]) == (task_id, due, '{"n": 1}', {"c": "d"})
    status, moved = await v1.call("POST", f"/tasks/{task_id}/run")
    assert status == 200
    assert moved["due_ms"] < due
    assert (await v1.call("GET", f"/tasks/{task_id}"))[1]["state"] == "ready"
    assert await v1.call("DELETE", f"/tasks/{task_id}") == (204, None)
    assert (await v1.call("DELETE", f"/tasks/{task_id}"))[1]["code"] in ("not_found", "finished_or_unknown")
    # The id still carries the first due time, which is to come: so it never ran.
    status, problem = await v1.call("GET", f"/tasks/{task_id}")
    assert (status, problem["code"]) == (404, "not_found")


async def test_a_key_is_one_task(v1: V1):
    body = {"delay": "1h", "payload": "x"}
    header = {"Idempotency-Key": "order-17"}
    made = await asyncio.gather(*(v1.call("POST", "/tasks", body, header) for _ in range(8)))
    assert sorted(status for status, _ in made) == [200] * 7 + [201]
    assert len({answer["id"] for _, answer in made}) == 1
    assert sorted(answer["created"] for _, answer in made) == [False] * 7 + [True]
    status, problem = await v1.call("POST", "/tasks", {**body, "payload": "y"}, header)
    assert (status, problem["code"], problem["task_id"]) == (409, "idempotency_conflict", made[0][1]["id"])
    status, answer = await v1.call("POST", "/tasks/batch", {"tasks": [{**body, "idempotency_key": "order-17"}]})
    assert (status, answer["duplicates"], answer["items"][0]["id"]) == (200, 1, made[0][1]["id"])


async def test_a_past_time_is_at_once_or_refused(v1: V1):
    status, problem = await v1.call("POST", "/tasks", {"at": "2020-01-01T00:00:00Z", "reject_past": True})
    assert (status, problem["code"], problem["field"]) == (422, "past_due", "at")
    assert re.search(r" is \d+ days, \d+:\d\d:\d\d \(h:mm:ss\) in the past;", problem["detail"])
    status, task = await v1.call("POST", "/tasks", {"at": "2020-01-01T00:00:00Z"})
    assert (status, task["state"]) == (201, "ready")


async def test_a_batch_is_stored_and_listed_whole(v1: V1):
    start = time.time_ns() // 1_000_000 + HOUR_MS
    tasks = [{"at": start + i * 1000, "payload": str(i), "queue": "mail" if i % 2 else "sms"} for i in range(1500)]
    status, answer = await v1.call("POST", "/tasks/batch", {"tasks": [*tasks[:700], {"queue": "No"}, *tasks[700:]]})
    assert (status, answer["created"], answer["refused"]) == (200, 1500, 1)
    ids = {item["id"] for item in answer["items"] if item["status"] == 201}
    assert answer["items"][700]["error"]["field"] == "queue"
    listed: list[Any] = []
    cursor: str | None = ""
    pages = 0
    while cursor is not None:
        status, page = await v1.call("GET", f"/tasks?limit=400&cursor={cursor}")
        assert status == 200
        listed += page["tasks"]
        cursor, pages = page["cursor"], pages + 1
        assert pages < 100
    assert {task["id"] for task in listed} == ids
    assert len(listed) == 1500
    minutes = [task["due_ms"] // 60_000 for task in listed]
    assert minutes == sorted(minutes)
    query = f"queue=mail&due_from={start}&due_to={start + 10_000}"
    _, page = await v1.call("GET", f"/tasks?{query}")
    assert sorted(int(task["payload"]) for task in page["tasks"]) == [1, 3, 5, 7, 9]
    _, forecast = await v1.call("GET", f"/forecast?from={start}&to={start + HOUR_MS}&step=1m")
    assert forecast["total"] == 1500
    assert 60 <= max(step["count"] for step in forecast["steps"]) <= 61


async def test_labels_filter(v1: V1):
    for customer in ("c1", "c2"):
        for kind in ("x", "y"):
            await v1.post(delay="1h", labels={"customer": customer, "kind": kind}, payload=customer + kind)
    _, page = await v1.call("GET", "/tasks?label=customer%3Dc1&label=kind=y&state=scheduled")
    assert [task["payload"] for task in page["tasks"]] == ["c1y"]


async def test_large_payloads_and_many_gets_at_once(v1: V1):
    big = "x" * 300_000
    ids = [await v1.post(delay="1h", payload=big if i == 0 else str(i)) for i in range(20)]
    missing = "01a2b3c4-d5e6-8001-9f00-112233445566"
    answers = await asyncio.gather(*(v1.call("GET", f"/tasks/{one}") for one in [*ids, missing]))
    assert answers[0][1]["payload"] == big
    assert [answer["payload"] for _, answer in answers[1:20]] == [str(i) for i in range(1, 20)]
    assert answers[20][1]["code"] in ("not_found", "finished_or_unknown")


@pytest.mark.usefixtures("engine")
async def test_results_are_kept(v1: V1):
    task_id = await v1.post(type="worker", name="f", payload="ok", keep_result="1m")
    task = await v1.until(f"/tasks/{task_id}", "succeeded")
    assert task["result"]["ok"] is True
    assert (task["result"]["output"], task["result"]["duration_ms"]) == ("done", 3)


@pytest.mark.usefixtures("engine")
async def test_dead_letters(v1: V1):
    ids = [await v1.post(type="worker", name="f", payload="fail", queue=queue) for queue in ("a", "a", "b")]
    for one in ids:
        task = await v1.until(f"/tasks/{one}", "failed")
        assert task["reason"] == "it would not"
    _, page = await v1.call("GET", "/dead?queue=a")
    assert {task["id"] for task in page["tasks"]} == set(ids[:2])
    assert all(task["state"] == "failed" for task in page["tasks"])
    # Mended, it goes through; the others stay.
    status, problem = await v1.call("PATCH", f"/tasks/{ids[0]}", {"payload": "ok"})
    assert status in (404, 409), problem
    assert await v1.call("DELETE", f"/dead/{ids[0]}") == (204, None)
    assert await v1.call("POST", f"/dead/{ids[2]}/replay") == (200, {"replayed": 1})
    await v1.until(f"/tasks/{ids[2]}", "failed")
    assert await v1.call("POST", "/dead/replay", {"queue": "b"}) == (200, {"replayed": 1})
    await v1.until(f"/tasks/{ids[2]}", "failed")
    status, problem = await v1.call("POST", f"/dead/{ids[0]}/replay")
    assert (status, problem["code"]) == (404, "not_found")


@pytest.mark.usefixtures("engine")
async def test_queues_and_nodes(v1: V1):
    await v1.post(queue="mail", delay="50s")

    async def counted() -> bool:
        return bool((await v1.call("GET", "/queues/mail"))[1]["pending"])

    await until_async(counted)
    assert (await v1.call("GET", "/queues"))[1]["queues"] == [
        {
            "queue": "mail",
            "type": "pub_sub",
            "pending": 1,
            "pending_complete": True,
            "ready": 0,
            "in_flight": 0,
            "fired_per_s": 0.0,
            "unserved": [],
            "waits": "",
            "oldest_wait_ms": 0,
        }
    ]
    _, answer = await v1.call("GET", "/nodes")
    (node,) = answer["nodes"]
    assert (node["id"], node["roles"]) == ("n1", ["work"])
    assert "worker" in node["types"]


async def test_a_worker_task_waits_where_nobody_serves_workers(v1: V1):
    task_id = await v1.post(type="worker", name="f")
    assert (await v1.call("GET", f"/tasks/{task_id}"))[1]["state"] == "ready"


async def test_a_cursor_of_another_list_is_refused(v1: V1):
    status, problem = await v1.call("GET", "/tasks?cursor=bm9uc2Vuc2U")
    assert (status, problem["field"]) == (400, "cursor")
