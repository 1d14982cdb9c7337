"""The ASGI callable over a fake service: statuses, headers and words, without a socket."""

from __future__ import annotations

import asyncio
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import unquote

import pytest

from delaybox.api.rest.app import build_app
from delaybox.api.rest.request_body import RequestBodies
from delaybox.api.rest.settings import ApiSettings
from delaybox.api.tokens import Tokens
from delaybox.core.errors import (
    ConfigError,
    DelayBoxError,
    IdempotencyConflict,
    Overloaded,
    PartAway,
    StoreFull,
    StoreUnavailable,
    Unauthenticated,
)
from delaybox.core.query import QueueStats, QueueWait
from delaybox.core.scaling import ScalingAnswer, ScalingQuery
from delaybox.core.scopes import Token
from delaybox.core.task import NewTask, Submitted, TaskType, TaskView
from delaybox.processes.settings import decode, encode
from delaybox.service import Readiness, Service, StoreCounts
from delaybox.service.health import StoreHealth
from delaybox.service.shedding import Shedding

JSON = {"content-type": "application/json", "host": "localhost:8088"}


@dataclass
class FakeService:
    error: Exception | None = None
    ready: Readiness = field(default_factory=lambda: Readiness(True))
    stored: list[NewTask] = field(default_factory=list)
    asked: list[tuple[int, int]] = field(default_factory=list)
    checks: int = 0
    counted: StoreCounts = field(default_factory=lambda: StoreCounts(5, 4, 3, 2, 1))
    shedding: Shedding = field(default_factory=Shedding)

    async def submit(self, task: NewTask) -> Submitted:
        if self.error:
            raise self.error
        self.stored.append(task)
        return Submitted("018f0000-0000-8000-8000-000000000000", 1)

    async def list_pending(self, *, limit: int, skip: int) -> list[TaskView]:
        if self.error:
            raise self.error
        self.asked.append((limit, skip))
        return []

    async def counts_there(self) -> StoreCounts:
        if self.error:
            raise self.error
        return self.counted

    def servers_away(self, counts: StoreCounts) -> dict[str, bool]:
        return {"one:6379": False, "two:6379": bool(counts.away)}

    async def queues(self, *, pending: bool = True) -> list[QueueStats]:
        return []

    async def queue_waits(self) -> list[QueueWait]:
        return [QueueWait("mail", 1_500)]

    async def due_soon(self) -> dict[str, int]:
        if self.counted.away:
            raise PartAway("away")
        return {"10s": 7}

    async def health(self) -> tuple[StoreHealth, int]:
        health = StoreHealth(
            file_ok=True, replicas=2, clock_offset_ms=-250.0, memory_bytes=1_048_576, memory_ratio=0.25
        )
        return health, 3

    async def scaling(self, asked: ScalingQuery) -> ScalingAnswer:
        return ScalingAnswer(lead_ms=30_000, clear_ms=30_000, target_use=0.7, needs=())

    async def check(self) -> Readiness:
        self.checks += 1
        return self.ready


@dataclass
class Response:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> str:
        return str(json.loads(self.body)["error"])


async def call(
    service: FakeService,
    method: str = "POST",
    path: str = "/task",
    body: bytes | list[bytes] = b"{}",
    headers: dict[str, str] | list[tuple[str, str]] | None = None,
    **settings: Any,
) -> Response:
    app = build_app(cast(Service, service), ApiSettings(**settings))
    path, _, query = path.partition("?")
    pairs = headers if isinstance(headers, list) else list((JSON if headers is None else headers).items())
    parts = body if isinstance(body, list) else [body]
    incoming = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    incoming.append({"type": "http.request", "body": b"", "more_body": False})
    sent: list[Any] = []

    async def receive() -> Any:
        return incoming.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in pairs],
    }
    await app(scope, receive, send)
    start, last = sent
    out = {name.decode(): value.decode() for name, value in start["headers"]}
    assert int(out["content-length"]) == len(last["body"])
    return Response(start["status"], out, last["body"])


async def test_created():
    service = FakeService()
    answer = await call(service, body=b'{"pyload":"aGk="}')
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert json.loads(answer.body) == {
        "message": "task created",
        "taskUuid": "018f0000-0000-8000-8000-000000000000",
    }
    assert service.stored == [NewTask(payload=b"hi", header={})]


@pytest.mark.parametrize(
    ("error", "status", "retry_after"),
    [
        (StoreUnavailable("Redis is away", retry_after_s=2), 503, "2"),
        (StoreFull("Redis is full"), 503, "1"),
        (Overloaded("too many wait"), 429, "1"),
        (IdempotencyConflict("k", "018f"), 409, None),
    ],
)
async def test_errors_of_the_service(error, status, retry_after):
    answer = await call(FakeService(error=error))
    assert (answer.status, answer.headers.get("retry-after")) == (status, retry_after)
    assert answer.error == str(error)


@pytest.mark.parametrize(
    "error", [RuntimeError("secret detail"), ConfigError("secret detail"), DelayBoxError("secret")]
)
async def test_a_defect_is_500_without_its_details(error):
    answer = await call(FakeService(error=error))
    assert answer.status == 500
    assert b"secret" not in answer.body
    assert b"Traceback" not in answer.body


@pytest.mark.parametrize(
    "content_type", ["application/json", "application/json; charset=utf-8", "Application/JSON;charset=ISO-8859-1"]
)
async def test_json_with_any_charset(content_type):
    assert (await call(FakeService(), headers=JSON | {"content-type": content_type})).status == 200


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/x-www-form-urlencoded", "application/jsonx"])
async def test_other_content_types(content_type):
    service = FakeService()
    headers = {"host": "localhost"} | ({"content-type": content_type} if content_type else {})
    answer = await call(service, headers=headers)
    assert answer.status == 415
    assert '"Content-Type: application/json"' in answer.error
    assert not service.stored


async def test_compressed_bodies_are_refused():
    assert (await call(FakeService(), headers=JSON | {"content-encoding": "gzip"})).status == 415


async def test_methods_and_paths():
    for method, path, allow in (("DELETE", "/task", "POST, GET, HEAD"), ("POST", "/livez", "GET, HEAD")):
        answer = await call(FakeService(), method, path)
        assert (answer.status, answer.headers["allow"]) == (405, allow)
        assert answer.error
    answer = await call(FakeService(), "GET", "/tasks", context_path="api")
    assert answer.status == 404
    assert "/api/task" in answer.error


@pytest.mark.parametrize("context_path", ["/api", "/api/", "api"])
async def test_context_path(context_path):
    assert (await call(FakeService(), path="/api/task", context_path=context_path)).status == 200
    assert (await call(FakeService(), "GET", "/api/ping", context_path=context_path)).body == b"pong"
    assert (await call(FakeService(), path="/task", context_path=context_path)).status == 404
    assert (await call(FakeService(), "GET", "/livez", context_path=context_path)).status == 200


@pytest.mark.parametrize(
    ("query", "asked"),
    [
        ("", (100, 0)),
        ("?limit=1", (1, 0)),
        ("?limit=1000&offset=3", (1000, 2000)),
        ("?offset=0", (100, 0)),
        ("?offset=-5", (100, 0)),
        ("?offset=abc", (100, 0)),
        ("?offset=2", (100, 100)),
        ("?limit=&offset=", (100, 0)),
    ],
)
async def test_pages(query, asked):
    service = FakeService()
    answer = await call(service, "GET", f"/task{query}")
    assert (answer.status, answer.body, service.asked) == (200, b"[]", [asked])


@pytest.mark.parametrize("limit", ["0", "1001", "-1", "abc", "9" * 5000])
async def test_limit_out_of_range(limit):
    answer = await call(FakeService(), "GET", f"/task?limit={limit}")
    assert answer.status == 400
    assert "from 1 to 1000" in answer.error


async def test_query_flood():
    assert (await call(FakeService(), "GET", "/task?" + "a=1&" * 100)).status == 400


async def test_body_in_parts_and_its_limit():
    service = FakeService()
    assert (await call(service, body=[b'{"pyload":', b'"aGk="', b"}"])).status == 200
    assert service.stored[0].payload == b"hi"
    limit = ApiSettings(payload_limit=1024).body_limit
    for headers in (JSON, JSON | {"content-length": str(limit + 1)}):
        answer = await call(service, body=[b"x" * 1000] * (limit // 1000 + 1), headers=headers, payload_limit=1024)
        assert (answer.status, answer.headers["connection"]) == (413, "close")
    assert len(service.stored) == 1


async def test_a_slow_body_is_ended():
    settings = ApiSettings(body_timeout_s=0.02)
    bodies = RequestBodies(settings)
    bodies.start()
    started = asyncio.Event()

    async def receive() -> Any:
        started.set()
        await asyncio.Event().wait()

    with pytest.raises(Exception, match="not complete within") as caught:
        await bodies.read_json({b"content-type": b"application/json"}, receive)
    assert started.is_set()
    assert getattr(caught.value, "status", None) == 408
    bodies.stop()
    bodies.stop()


async def test_a_body_that_does_not_become_complete_stores_nothing():
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    service = FakeService()
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/task",
        "raw_path": b"/task",
        "query_string": b"",
        "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
    }
    await build_app(cast(Service, service), ApiSettings())(scope, receive, send)
    assert not service.stored
    # The connection drops it when nobody is there.
    assert [message.get("status") for message in sent] == [400, None]


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8088", "127.0.0.1:8088", "127.1.2.3", "[::1]:8088", "[::1]", "localhost:1"]
)
async def test_loopback_hosts(host):
    assert (await call(FakeService(), headers=JSON | {"host": host})).status == 200
    assert (await call(FakeService(), headers=JSON | {"origin": f"http://{host}"})).status == 200


@pytest.mark.parametrize(
    "host",
    [
        *("", "evil.example", "evil.example:8088", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1"),
        *("[::2]", "localhost:80:80", "localhost:x", "[::1", "user@localhost", "0.0.0.0", "2130706433", "null"),
    ],
)
async def test_other_hosts_are_refused_on_loopback(host):
    service = FakeService()
    for headers in (JSON | {"host": host}, JSON | {"origin": f"http://{host}"}):
        answer = await call(service, headers=headers)
        assert answer.status == 403
        assert "httpServer.allowedHosts" in answer.error
    for path in ("/livez", "/readyz", "/metrics"):
        assert (await call(service, "GET", path, headers={"host": host})).status == 200
    assert not service.stored


async def test_origin_null_and_a_missing_host():
    assert (await call(FakeService(), headers=JSON | {"origin": "null"})).status == 403
    assert (await call(FakeService(), headers={"content-type": "application/json"})).status == 403


async def test_hosts_elsewhere():
    for address in ("0.0.0.0", "192.0.2.7"):
        assert (await call(FakeService(), headers=JSON | {"host": "any.example"}, host=address)).status == 200
        limited: dict[str, Any] = {"host": address, "allowed_hosts": ("box.example",)}
        assert (await call(FakeService(), headers=JSON | {"host": "box.example:80"}, **limited)).status == 200
        assert (await call(FakeService(), headers=JSON | {"host": "localhost"}, **limited)).status == 403
    both: dict[str, Any] = {"allowed_hosts": ("box.example",)}
    assert (await call(FakeService(), headers=JSON | {"host": "box.example"}, **both)).status == 200
    assert (await call(FakeService(), headers=JSON, **both)).status == 200


@pytest.mark.parametrize("name", ["host", "content-type", "origin", "authorization", "idempotency-key"])
async def test_headers_that_may_come_once(name):
    answer = await call(FakeService(), headers=[*JSON.items(), (name, "localhost"), (name, "localhost")])
    assert answer.status == 400
    assert name in answer.error


async def test_every_answer_says_that_it_is_not_to_be_kept_guessed_at_or_embedded():
    for method, path in (
        ("POST", "/task"),
        ("GET", "/livez"),
        ("GET", "/nowhere"),
        ("GET", "/docs"),
        ("PUT", "/v1/tasks"),
    ):
        headers = (await call(FakeService(), method, path)).headers
        assert headers["x-content-type-options"] == "nosniff", (method, path)
        assert headers["cache-control"] == "no-store", (method, path)
        assert headers["cross-origin-resource-policy"] == "same-origin", (method, path)


async def test_a_path_is_decoded_once():
    for path, status in (("/%74ask", 405), ("/%2574ask", 404), ("/v1%2Ftasks", 404)):
        assert (await call(FakeService(), "PUT", path)).status == status, path


async def test_tokens():
    digest = hashlib.sha256(b"hashed-one").hexdigest()
    tokens: dict[str, Any] = {"tokens": (Token.of("first"), Token(digest))}
    service = FakeService()
    for given in (None, "Bearer wrong", "Basic first", "first", "Bearer", f"Bearer {digest}"):
        headers = JSON | ({"authorization": given} if given else {})
        for method, path in (("POST", "/task"), ("GET", "/task"), ("GET", "/nowhere")):
            answer = await call(service, method, path, headers=headers, **tokens)
            assert answer.status == 401
            assert answer.headers["www-authenticate"].startswith("Bearer")
    assert not service.stored
    for given in ("Bearer first", "bearer hashed-one"):
        assert (await call(service, headers=JSON | {"authorization": given}, **tokens)).status == 200
    for path in ("/livez", "/readyz", "/metrics"):
        assert (await call(service, "GET", path, **tokens)).status == 200


async def test_an_expired_token_is_refused_and_says_so():
    now = 1_900_000_000_000
    tokens = Tokens([Token.of("brief", expires_ms=now), Token.of("lasting")], now_ms=lambda: now)
    assert tokens.grant(b"Bearer lasting")
    for _ in range(2):
        with pytest.raises(Unauthenticated, match=r"expired at 2030-03-17T17:46:40\.000Z; ask for a new one") as caught:
            tokens.grant(b"Bearer brief")
        assert caught.value.given
    now -= 1
    assert tokens.grant(b"Bearer brief")
    past: dict[str, Any] = {"tokens": (Token.of("past", expires_ms=1),)}
    answer = await call(FakeService(), "GET", "/task", headers=JSON | {"authorization": "Bearer past"}, **past)
    assert answer.status == 401
    assert b"expired at 1970" in answer.body
    assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'


async def test_readiness():
    service = FakeService(ready=Readiness(False, "the engine of this node has not reported yet"))
    answer = await call(service, "GET", "/readyz")
    assert (answer.status, answer.body) == (503, b"the engine of this node has not reported yet")
    service.ready = Readiness(True)
    assert (await call(service, "GET", "/readyz")).status == 200


async def test_metrics_with_and_without_a_store():
    answer = await call(FakeService(), "GET", "/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    shown = (b"delaybox_store_replicas 2.0", b"delaybox_clock_offset_seconds -0.25", b"delaybox_unserved_kinds 3.0")
    stored = (b"delaybox_pending_tasks 5.0", b"delaybox_in_flight_tasks 3.0", b"delaybox_store_up 1.0")
    memory = (b"delaybox_store_memory_bytes 1.048576e+06", b"delaybox_store_memory_ratio 0.25")
    for line in (*stored, *shown, *memory, b"delaybox_store_file_ok 1.0"):
        assert line in answer.body
    answer = await call(FakeService(error=StoreUnavailable("away")), "GET", "/metrics")
    assert answer.status == 200
    assert b"delaybox_store_up 0.0" in answer.body


async def test_metrics_while_a_part_of_the_store_is_away():
    service = FakeService()
    service.counted = StoreCounts(4, 3, 2, 1, 0, away=(1, 3))
    answer = await call(service, "GET", "/metrics")
    shown = (b"delaybox_pending_tasks 4.0", b"delaybox_store_up 1.0", b"delaybox_store_partitions_away 2.0")
    servers = (
        b'delaybox_store_server_away{server="one:6379"} 0.0',
        b'delaybox_store_server_away{server="two:6379"} 1.0',
    )
    for line in (*shown, *servers):
        assert line in answer.body
    service.counted = StoreCounts(5, 4, 3, 2, 1)
    assert b"delaybox_store_partitions_away 0.0" in (await call(service, "GET", "/metrics")).body


async def test_shell_follows_the_setting():
    body = b'{"taskType":"SHELL_CMD","pyload":"ZGF0ZQ=="}'
    answer = await call(FakeService(), body=body)
    assert answer.status == 403
    assert "--enable-shell" in answer.error
    service = FakeService()
    assert (await call(service, body=body, shell=True)).status == 200
    assert service.stored[0].type is TaskType.SHELL_CMD


def test_settings_survive_the_line_and_hide_their_secrets():
    settings = ApiSettings(tokens=(Token.of("canary"),), allowed_hosts=("a",), context_path="/x/")
    assert decode(ApiSettings, encode(settings)) == settings
    assert "canary" not in repr(settings) + encode(settings).decode()
    assert settings.tokens[0].digest not in repr(settings)
    assert "\n" not in encode(settings).decode()
    for line in ("", "{}", "[]", "null", '{"server":{},"nonsense":1}'):
        with pytest.raises(ConfigError):
            decode(ApiSettings, line)
