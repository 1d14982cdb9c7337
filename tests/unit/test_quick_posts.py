"""The short way of a POST answers as the ASGI callable does, and leaves to it what is not usual."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from delaybox.api.rest.answered import Answered
from delaybox.api.rest.app import PROBES, build_app, quick_posts, refusals
from delaybox.api.rest.http1.connection import HttpConnection
from delaybox.api.rest.http1.server import HttpServer
from delaybox.api.rest.request_body import RequestBodies
from delaybox.api.rest.settings import ApiSettings
from delaybox.core.errors import DelayBoxError, Overloaded, StoreUnavailable
from delaybox.core.scopes import Access, Token
from delaybox.core.task import NewTask, Submitted, TaskType
from delaybox.service import Service
from delaybox.service.shedding import Shedding
from delaybox.service.submit import Then
from delaybox.wire.json import tasks
from delaybox.wire.json.tasks import parse_task
from tests.overload import overloaded
from tests.v1_apps import ID

DUE = 4_000_000_000_000
TASK = b'{"pyload":"aGk=","parameter":{"delay":"5000"}}'
V1 = b'{"payload":"hi","at":%d}' % DUE


@dataclass
class FakeService:
    """Answers in the next turn of the loop, as the store does. ``full``: refuses before it stores. ``broken``: it has a
    defect."""

    error: Exception | None = None
    full: bool = False
    broken: bool = False
    due_ms: int = DUE
    soon: int = 0
    in_coroutines: int = 0
    tasks: list[NewTask] = field(default_factory=list)
    shedding: Shedding = field(default_factory=Shedding)

    async def submit(self, task: NewTask) -> Submitted:
        self.in_coroutines += 1
        if self.full:
            raise Overloaded("too many tasks wait")
        if self.error is not None:
            raise self.error
        if self.broken:
            raise ValueError("a defect")
        self.tasks.append(task)
        return Submitted(ID, self.due_ms)

    def submit_soon(self, task: NewTask, then: Then) -> bool:
        if self.full or task.type is TaskType.WORKER:
            return False
        if self.broken:
            raise ValueError("a defect")
        self.soon += 1
        self.tasks.append(task)
        asyncio.get_running_loop().call_soon(then, self.error or Submitted(ID, self.due_ms))
        return True


class Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1)

    def write(self, data: Any) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    abort = close

    def can_write_eof(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0


class Caller:
    """A connection of a server with both ways, or with the ASGI callable alone."""

    def __init__(self, service: FakeService, *, quick: bool = True, **settings: Any) -> None:
        given = ApiSettings(**settings)
        bodies, answered = RequestBodies(given), Answered()
        both = cast(Service, service)
        self.server = HttpServer(
            build_app(both, given, bodies=bodies, answered=answered), refusals(given), probes=PROBES,
            quick=quick_posts(both, given, bodies, answered).take if quick else None, most=10, head_s=5, idle_s=5,
        )  # fmt: skip
        self.server.date = b"date: now\r\n"
        self.connection = HttpConnection(self.server)
        self.transport = Transport()
        self.connection.connection_made(self.transport)

    async def ask(self, *requests: bytes) -> bytes:
        """What is answered to these bytes, each part of them read at once."""
        before = len(self.transport.written)
        for data in requests:
            self.connection.data_received(data)
        for _ in range(50):
            await asyncio.sleep(0)
        return self.transport.written[before:]


def post(path: bytes, body: bytes, *lines: bytes, kind: bytes = b"application/json") -> bytes:
    head = (b"POST %b HTTP/1.1" % path, b"host: localhost", b"content-type: " + kind, b"content-length: %d" % len(body))
    return b"\r\n".join((*head, *lines)) + b"\r\n\r\n" + body


@pytest.mark.parametrize(
    "request_",
    [
        post(b"/task", TASK),
        post(b"/task", TASK, b"connection: close"),
        post(b"/task", TASK, b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        post(b"/v1/tasks", V1),
    ],
)
async def test_a_usual_post_is_answered_as_by_the_callable(request_: bytes) -> None:
    quick, plain = FakeService(), FakeService()
    caller = Caller(quick)
    answer = await caller.ask(request_)
    assert answer == await Caller(plain, quick=False).ask(request_) and answer.startswith(b"HTTP/1.1 20")
    assert (quick.soon, quick.in_coroutines, plain.in_coroutines) == (1, 0, 1)
    assert quick.tasks == plain.tasks
    assert caller.transport.closed == (b"close" in request_)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (post(b"/task", b'{"pyload":'), 400),
        (post(b"/task", TASK, kind=b"text/plain"), 415),
        (post(b"/task", TASK, kind=b"application/json; charset=utf-8"), 200),
        (post(b"/task", TASK, b"content-encoding: gzip"), 415),
        (post(b"/task", TASK, b"origin: http://evil.example"), 403),
        (post(b"/task", TASK, b"host: localhost"), 400),
        (post(b"/task?a=b", TASK), 200),
        (post(b"/task/", TASK), 200),
        (post(b"/task", b'{"pyload":"%b"}' % (b"a" * 3_000)), 413),
        (post(b"/v1/tasks?a=b", V1), 400),
        (post(b"/v1%2Ftasks", V1), 404),
        (post(b"/v1/t%61sks", V1), 201),
        (post(b"/v1/tasks", V1, b"idempotency-key: k"), 201),
        (post(b"/v1/tasks", b'{"payload":"hi","idempotency_key":"k"}'), 201),
        (post(b"/v1/tasks", b'{"type":"worker","name":"f"}'), 201),
        (post(b"/v1/tasks", b'{"at":1}'), 400),
        (b"PUT" + post(b"/task", TASK)[4:], 405),
    ],
)
async def test_what_is_not_usual_is_left_to_the_callable(request_: bytes, status: int) -> None:
    quick, plain = FakeService(), FakeService()
    answer = await Caller(quick, payload_limit=1_024).ask(request_)
    assert answer == await Caller(plain, quick=False, payload_limit=1_024).ask(request_)
    assert int(answer[9:12]) == status and quick.soon == 0, answer


@pytest.mark.parametrize("body", [b'{"payload":"hi","idempotency_key":"k"}', b'{"type":"worker","name":"f"}'])
async def test_what_is_left_to_the_callable_is_read_once(body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[bytes] = []

    def parse(given: bytes, *more: Any, **options: Any) -> NewTask:
        read.append(given)
        return parse_task(given, *more, **options)

    monkeypatch.setattr(tasks, "parse_task", parse)
    assert (await Caller(FakeService()).ask(post(b"/v1/tasks", body)))[9:12] == b"201"
    assert read == [body]


async def test_callers_without_the_right_are_refused_as_by_the_callable() -> None:
    tokens = (Token(hashlib.sha256(b"reads").hexdigest(), (Access.READ,)),)
    for lines in ((), (b"authorization: Bearer reads",), (b"authorization: Bearer wrong",)):
        service = FakeService()
        answer = await Caller(service, tokens=tokens).ask(post(b"/task", TASK, *lines))
        assert answer == await Caller(FakeService(), quick=False, tokens=tokens).ask(post(b"/task", TASK, *lines))
        assert answer[9:12] in (b"401", b"403") and not service.tasks


@pytest.mark.parametrize("path", [b"/task", b"/v1/tasks"])
@pytest.mark.parametrize("error", [StoreUnavailable("gone"), DelayBoxError("odd"), RuntimeError("a defect"), None])
async def test_errors_of_the_store_are_answered_as_by_the_callable(path: bytes, error: Exception | None) -> None:
    asked = post(path, TASK if path == b"/task" else V1)
    quick, plain = (FakeService(error=error, full=error is None) for _ in range(2))
    answer = await Caller(quick).ask(asked)
    assert answer == await Caller(plain, quick=False).ask(asked) and answer[9:10] in (b"5", b"4")
    assert quick.soon == (error is not None)


@pytest.mark.parametrize("more", [{"broken": True}, {"due_ms": 10**30}])
async def test_a_defect_before_or_behind_the_store_is_answered_as_by_the_callable(more: dict[str, Any]) -> None:
    asked = post(b"/v1/tasks", V1)
    caller = Caller(FakeService(**more))
    answer = await caller.ask(asked)
    assert answer == await Caller(FakeService(**more), quick=False).ask(asked) and answer[9:12] == b"500"
    assert statuses(await caller.ask(asked)) == [b"500"], "the connection goes on"


def statuses(answers: bytes) -> Iterable[bytes]:
    return [part[:3] for part in answers.split(b"HTTP/1.1 ")[1:]]


async def test_requests_follow_one_another_on_a_connection() -> None:
    service = FakeService()
    caller = Caller(service)
    get = b"GET /ping HTTP/1.1\r\nhost: localhost\r\n\r\n"
    both = post(b"/task", TASK)
    answers = await caller.ask(both + get + both, both[:30], both[30:], both)
    assert statuses(answers) == [b"200"] * 5 and service.soon == 4 and not caller.transport.closed
    assert json.loads(answers.rsplit(b"\r\n\r\n", 1)[1])["taskUuid"] == ID


async def test_a_caller_that_is_gone_harms_nobody() -> None:
    service = FakeService()
    caller = Caller(service)
    caller.connection.data_received(post(b"/task", TASK))
    caller.connection.connection_lost(None)
    assert await caller.ask() == b"" and service.soon == 1


async def test_the_next_request_waits_for_a_caller_that_does_not_read() -> None:
    service = FakeService()
    caller = Caller(service)
    caller.connection.pause_writing()
    assert statuses(await caller.ask(post(b"/task", TASK) * 2)) == [b"200"]
    caller.connection.resume_writing()
    assert statuses(await caller.ask()) == [b"200"] and service.soon == 2


async def test_a_request_that_is_under_way_when_the_server_stops_is_answered() -> None:
    caller = Caller(FakeService())
    caller.connection.data_received(post(b"/task", TASK))
    caller.server.stopping = True
    caller.connection.end()
    assert not caller.transport.closed
    assert b"connection: close" in await caller.ask() and caller.transport.closed


@pytest.mark.parametrize("path", [b"/task", b"/v1/tasks"])
async def test_while_tasks_wait_too_long_a_post_is_refused_unread(path: bytes) -> None:
    asked = post(path, b"{this is not read") * 2
    answers = [await Caller(FakeService(shedding=overloaded()), quick=quick).ask(asked) for quick in (True, False)]
    assert answers[0] == answers[1]
    assert statuses(answers[0]) == [b"429"] * 2 and answers[0].count(b"retry-after: 1\r\n") == 2
    assert b"wait longer than 100 ms" in answers[0]


async def test_a_post_counts_as_under_way_until_it_is_answered() -> None:
    for error in (None, StoreUnavailable("gone")):
        service = FakeService(error=error)
        caller = Caller(service)
        caller.connection.data_received(post(b"/task", TASK))
        assert service.shedding.under_way == 1
        await caller.ask(post(b"/task", TASK), post(b"/v1/tasks", V1, b"idempotency-key: k"))
        assert service.shedding.under_way == 0
