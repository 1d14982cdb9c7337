"""The ASGI app of /v1 over a fake service, called without a socket."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import unquote

from delaybox.api.rest.app import build_app
from delaybox.api.rest.settings import ApiSettings
from delaybox.core.errors import (
    DelayBoxError,
    IdempotencyConflict,
    TaskFinished,
)
from delaybox.core.membership import Activity, LivingNode, Member, nodes_of
from delaybox.core.query import BulkResult, ForecastStep, Page, QueueList, QueueStats, TaskQuery
from delaybox.core.queue import QueueRules
from delaybox.core.task import NewTask, Priority, Submitted, TaskState, TaskType, TaskView
from delaybox.service import Selection, Service, ShownRules
from delaybox.service.shedding import Shedding

ID = "01a2b3c4-d5e6-8001-9f00-112233445566"
JSON = {"content-type": "application/json", "host": "localhost:8088"}
DUE = 4_000_000_000_000


def view(**changes: Any) -> TaskView:
    return TaskView(**{
        "task_id": ID, "state": TaskState.SCHEDULED, "due_ms": DUE, "type": TaskType.PUB_SUB, "queue": "default",
        "priority": Priority.NORMAL, "payload": b"hi", "header": {}, **changes,
    })  # fmt: skip


@dataclass
class FakeBulk:
    service: FakeService

    async def replay(self, selection: Selection) -> BulkResult:
        return self._done("replay_many", selection)

    async def discard(self, selection: Selection) -> BulkResult:
        return self._done("discard_many", selection)

    def _done(self, what: str, selection: Selection) -> BulkResult:
        self.service._note(what, selection)
        return BulkResult(matched=3, changed=0 if selection.dry_run else 3, sample=[ID])


@dataclass
class FakeService:
    error: Exception | None = None
    created: bool = True
    found: TaskView | None = field(default_factory=view)
    asked: list[tuple[Any, ...]] = field(default_factory=list)
    shedding: Shedding = field(default_factory=Shedding)

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

    async def get(self, task_id: str, *, wait_ms: int = 0) -> TaskView:
        self._note("get", task_id)
        if self.found is None:
            raise TaskFinished("gone")
        return self.found

    async def list_tasks(self, wanted: TaskQuery, *, cursor: str = "", limit: int = 100) -> Page:
        self._note("list", wanted, cursor, limit)
        return Page([view()], "next")

    async def dead_letters(self, wanted: TaskQuery, *, cursor: str = "", limit: int = 100) -> Page:
        self._note("dead", wanted, cursor, limit)
        return Page([view(state=TaskState.FAILED, reason="no")])

    async def cancel(self, task_id: str, *, free_key: bool = False, running: bool = False) -> None:
        self._note("cancel", task_id, free_key)

    async def update(self, task_id: str, **what: Any) -> TaskView:
        self._note("update", task_id, {k: v for k, v in what.items() if v is not None})
        return view()

    async def run_now(self, task_id: str) -> int:
        self._note("run", task_id)
        return DUE

    async def queues(self) -> QueueList:
        self._note("queues")
        found = (
            QueueStats(queue="mail", type=kind, pending=3, ready=2, in_flight=1, fired_per_s=rate)
            for kind, rate in ((TaskType.PUB_SUB, 1.25), (TaskType.WORKER, 2.5))
        )
        return QueueList(found, complete=False)

    @property
    def rules(self) -> FakeRules:
        return FakeRules(self)

    async def replay(self, task_id: str) -> None:
        self._note("replay", task_id)

    @property
    def bulk(self) -> FakeBulk:
        return FakeBulk(self)

    async def discard(self, task_id: str) -> None:
        self._note("discard", task_id)

    async def forecast(self, from_ms: int, to_ms: int, step_ms: int) -> list[ForecastStep]:
        self._note("forecast", from_ms, to_ms, step_ms)
        return [ForecastStep(DUE, 2), ForecastStep(DUE + step_ms, 3)]

    async def nodes(self) -> list[LivingNode]:
        self._note("nodes")
        return nodes_of([Member(id="n", host="h", pid=1, seen_ms=DUE, activity=Activity(types="psz"))])


@dataclass
class FakeRules:
    service: FakeService

    async def of(self, queue: str) -> ShownRules:
        return ShownRules(queue=queue, own=QueueRules(), effect=QueueRules())

    async def every(self) -> list[ShownRules]:
        return [await self.of("mail")]

    async def set(self, queue: str, wanted: QueueRules, **how: Any) -> ShownRules:
        self.service._note("set", queue, wanted, how)
        return ShownRules(queue=queue, own=wanted, effect=wanted)

    async def unset(self, queue: str) -> None:
        self.service._note("unset", queue)


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
    app = build_app(cast(Service, service or FakeService()), ApiSettings(**settings))
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
