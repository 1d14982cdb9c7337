"""The API process with a real server behind it: curl's own bodies, raw sockets, outages, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from http.client import HTTPConnection
from typing import Any

import pytest
from redis.asyncio import Redis

from delaybox.api.rest.settings import ApiSettings
from delaybox.core.scopes import Token
from delaybox.processes.settings import encode
from delaybox.processes.sockets import CannotListen
from delaybox.processes.spawn import ChildFailed
from delaybox.store.servers import Servers
from delaybox.store.store import Store
from tests.children import Served
from tests.proc import lives
from tests.rest import rest_process
from tests.servers import RealServer
from tests.shared import a_prefix, empty, kept
from tests.spent import Spent
from tests.waiting import PATIENCE_S, until_async

JSON = {"Content-Type": "application/json"}
FIRST_CURL = b'{"taskType":"PUB_SUB","parameter":{"executionTimestamp":"1721672590913"},"pyload":"VGVzdCBKYXkK"}'
SECOND_CURL = b'{"parameter":{"executionTimestamp":"1720672590913","taskType":"SHELL_CMD"},"pyload":"ZGF0ZQ=="}'


class Rest:
    """One API process and a client of it."""

    def __init__(self, process: Served) -> None:
        self.process = process

    async def call(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] = JSON
    ) -> tuple[int, dict[str, str], bytes]:
        return await asyncio.to_thread(self._call, method, path, body, headers)

    def _call(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str]
    ) -> tuple[int, dict[str, str], bytes]:
        connection = HTTPConnection("127.0.0.1", self.process.port, timeout=PATIENCE_S)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    async def post(self, body: bytes) -> tuple[int, dict[str, Any]]:
        status, _, answer = await self.call("POST", "/task", body)
        return status, json.loads(answer)

    async def tasks(self, query: str = "") -> list[dict[str, Any]]:
        status, _, answer = await self.call("GET", f"/task{query}")
        assert status == 200, answer
        listed: list[dict[str, Any]] = json.loads(answer)
        return listed

    async def raw(self, *parts: bytes, read_s: float = 10.0) -> bytes:
        """Sends the parts one by one, as far as the node takes them, and returns all it answers until it closes."""
        return await asyncio.to_thread(self._raw, parts, read_s)

    def _raw(self, parts: tuple[bytes, ...], read_s: float) -> bytes:
        out = b""
        with socket.create_connection(("127.0.0.1", self.process.port), timeout=read_s) as connection:
            with contextlib.suppress(OSError):
                for part in parts:
                    connection.sendall(part)
            with contextlib.suppress(OSError):
                while received := connection.recv(65536):
                    out += received
        return out


Start = Callable[..., Awaitable[Rest]]


@pytest.fixture
async def start(server: RealServer, prefix: str) -> AsyncIterator[Start]:
    """Starts processes that are the test's own."""
    async with contextlib.AsyncExitStack() as stack:

        async def spawn(**changes: Any) -> Rest:
            settings = {"server": server.settings, "prefix": prefix, **changes}
            return Rest(await stack.enter_async_context(rest_process(**settings)))

        yield spawn


@pytest.fixture
async def own(start: Start) -> Rest:
    return await start()


@pytest.fixture(scope="module")
def shared_prefix() -> str:
    return a_prefix()


@pytest.fixture(scope="module")
def process(server: RealServer, shared_prefix: str) -> Iterator[Served]:
    with kept(rest_process(server=server.settings, prefix=shared_prefix)) as shared:
        yield shared


@pytest.fixture
async def rest(process: Served, client: Redis, shared_prefix: str) -> AsyncIterator[Rest]:
    """The module's process, on a store that is empty."""
    yield Rest(process)
    await empty(client, shared_prefix)


def in_ms(delay_ms: int) -> int:
    return time.time_ns() // 1_000_000 + delay_ms


async def test_the_users_curl_as_it_stands(rest: Rest):
    status, answer = await rest.post(FIRST_CURL)
    assert (status, answer["message"]) == (200, "task created")
    assert len(answer["taskUuid"]) == 36


async def test_what_was_posted_is_listed_soonest_first(rest: Rest):
    assert await rest.tasks() == []
    late, soon = in_ms(120_000), in_ms(60_000)
    posted = [
        (await rest.post(b'{"parameter":{"executionTimestamp":%d,"a":1.5},"pyload":"VGVz\\r\\ndA=="}' % due))[1][
            "taskUuid"
        ]
        for due in (late, soon)
    ]
    assert await rest.tasks() == [
        {
            "taskUuid": task_id,
            "parameter": {"executionTimestamp": str(due), "a": "1.5"},
            "pyload": "VGVzdA==",
            "status": "scheduled",
        }
        for task_id, due in ((posted[1], soon), (posted[0], late))
    ]
    assert [task["taskUuid"] for task in await rest.tasks("?limit=1&offset=2")] == [posted[0]]
    assert await rest.tasks("?limit=1&offset=3") == []


async def test_a_large_payload_comes_back_whole(rest: Rest):
    payload = b"A" * (1024 * 1024 // 3 * 4)
    status, _ = await rest.post(b'{"parameter":{"delay":"60000"},"pyload":"%b"}' % payload)
    assert status == 200
    assert (await rest.tasks())[0]["pyload"] == payload.decode()


async def test_idempotency(rest: Rest):
    body = b'{"parameter":{"delay":"60000","idempotencyKey":"order-7"},"pyload":"YQ=="}'
    first, again = await rest.post(body), await rest.post(body)
    assert first == again
    status, answer = await rest.post(body.replace(b"YQ==", b"Yg=="))
    assert status == 409
    assert "order-7" in answer["error"]
    assert len(await rest.tasks()) == 1


async def test_many_at_once_are_all_stored(rest: Rest):
    bodies = [b'{"parameter":{"delay":"%d"}}' % (60_000 + n) for n in range(200)]
    answers = await asyncio.gather(*(rest.post(body) for body in bodies))
    ids = {answer["taskUuid"] for status, answer in answers if status == 200}
    assert len(ids) == 200
    assert {task["taskUuid"] for task in await rest.tasks("?limit=1000")} == ids


async def test_wrong_requests_store_nothing(rest: Rest):
    task, form = "/task", {"Content-Type": "application/x-www-form-urlencoded"}
    cases: list[tuple[int, str, str, bytes | None, dict[str, str], str]] = [
        (400, "POST", task, b"null", JSON, "must be a JSON object"),
        (400, "POST", task, b"[]", JSON, "must be a JSON object"),
        (400, "POST", task, b'{"pyload":', JSON, "not valid JSON"),
        (400, "POST", task, b"", JSON, "body is empty"),
        (400, "POST", task, b'{"pyload":"*"}', JSON, "pyload ('*' at 0) is not standard base64"),
        (400, "POST", task, b'{"pyload":"YQ==","payload":"Yg=="}', JSON, "differ"),
        (400, "POST", task, b'{"taskType":"A","parameter":{"taskType":"B"}}', JSON, "differ"),
        (400, "POST", task, b'{"parameter":{"executionTimestamp":1721672590}}', JSON, "looks like seconds"),
        (400, "POST", task, b'{"parameter":{"executionTimestamp":1721672590913000}}', JSON, "looks like microseconds"),
        (400, "POST", task, b'{"parameter":{"executionTimestamp":NaN}}', JSON, "NaN"),
        (400, "POST", task, b'{"parameter":{"executionTimestamp":1e400}}', JSON, "out of range"),
        (400, "POST", task, b'{"parameter":{"executionTimestamp":true}}', JSON, "is true"),
        (400, "POST", task, b'{"parameter":{"delay":1,"executionTimestamp":1721672590913}}', JSON, "both given"),
        (400, "POST", task, b'{"parameter":{"delay":-1}}', JSON, "negative"),
        (400, "POST", task, b'{"parameter":{"queue":"A B"}}', JSON, "queue name"),
        (400, "POST", task, b'{"parameter":{"priority":"urgent"}}', JSON, "low, normal, high or critical"),
        (400, "POST", task, b'{"parameter":{"x":[1]}}', JSON, "a list"),
        (400, "GET", "/task?limit=5000", None, {}, "from 1 to 1000"),
        (403, "POST", task, SECOND_CURL, JSON, "--enable-shell"),
        (403, "POST", task, FIRST_CURL, JSON | {"Host": "evil.example"}, "httpServer.allowedHosts"),
        (403, "POST", task, FIRST_CURL, JSON | {"Origin": "https://evil.example"}, "httpServer.allowedHosts"),
        (404, "POST", "/tasks", FIRST_CURL, JSON, "/task"),
        (405, "PUT", task, FIRST_CURL, JSON, "POST, GET"),
        (413, "POST", task, b'{"pyload":"' + b"A" * (1024 * 1024 // 3 * 4 + 8) + b'"}', JSON, "1048576"),
        (413, "POST", task, b"x" * 2_000_000, JSON, "larger than"),
        (415, "POST", task, FIRST_CURL, form, "Content-Type: application/json"),
        (415, "POST", task, FIRST_CURL, {}, "Content-Type is missing"),
    ]
    for status, method, path, body, headers, words in cases:
        got, answer_headers, answer = await rest.call(method, path, body, headers)
        case = (method, path, (body or b"")[:80])
        assert got == status, (case, answer)
        assert words in json.loads(answer)["error"], (case, answer)
        assert answer_headers["content-type"] == "application/json"
    assert await rest.tasks() == []


def resident_kib(pid: int) -> int:
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


async def test_a_chunked_body_is_counted_while_it_arrives(rest: Rest):
    head = b"POST /task HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += b"Transfer-Encoding: chunked\r\n\r\n"
    chunk = b"%x\r\n%b\r\n" % (65536, b" " * 65536)
    before = resident_kib(rest.process.pid) if sys.platform == "linux" else 0
    answer = await rest.raw(head, *[chunk] * 1600)  # 100 MiB, were it taken
    assert answer.startswith(b"HTTP/1.1 413") or not answer  # past 8 MiB a reset may overtake the answer
    if sys.platform == "linux":
        assert resident_kib(rest.process.pid) - before < 30_000
    ok = b"%x\r\n%b\r\n0\r\n\r\n" % (len(FIRST_CURL), FIRST_CURL)
    answer = await rest.raw(head.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), ok)
    assert answer.startswith(b"HTTP/1.1 200")


async def test_a_body_announced_too_large_is_refused_before_it_is_sent(rest: Rest):
    head = b"POST /task HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    answer = await rest.raw(head + b"Content-Length: 99999999\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413")
    answer = await rest.raw(head + b"Content-Length: 99999999\r\nExpect: 100-continue\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"100 Continue" not in answer


async def test_ambiguous_and_broken_requests(rest: Rest):
    head = b"POST /task HTTP/1.1\r\nContent-Type: application/json\r\n"
    for lines in (
        b"Host: localhost\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{}",
        b"Host: localhost\r\nHost: evil.example\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}",
        b"Host: localhost\r\nContent-Length: 2\r\nContent-Length: 3\r\nConnection: close\r\n\r\n{}",
        b"Host: localhost\r\nContent-Length: -2\r\n\r\n{}",
        b"Host: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n",
    ):
        answer = await rest.raw(head + lines, read_s=3)
        assert not answer.startswith(b"HTTP/1.1 2"), (lines, answer)
    assert (await rest.call("GET", "/livez"))[0] == 200
    assert await rest.tasks() == []


async def test_a_body_that_never_ends_is_given_up(start: Start):
    rest = await start(body_timeout_s=0.2)
    head = b"POST /task HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n"
    for part in (b"", b'{"pyload"'):
        answer = await rest.raw(head, part)
        assert answer.startswith(b"HTTP/1.1 408")
    assert await rest.tasks() == []


async def test_tokens_and_context_path(start: Start):
    rest = await start(tokens=(Token.of("s3cret"),), context_path="api/")
    status, _, answer = await rest.call("POST", "/api/task", FIRST_CURL)
    assert status == 401
    assert b"s3cret" not in answer
    assert (await rest.call("POST", "/api/task", FIRST_CURL, JSON | {"Authorization": "Bearer s3cret"}))[0] == 200
    assert (await rest.call("GET", "/livez"))[0] == 200
    assert (await rest.call("GET", "/ping"))[0] == 401


async def test_probes_and_metrics(own: Rest):
    assert [(await own.call("GET", path))[2] for path in ("/ping", "/livez", "/readyz")] == [b"pong", b"ok", b"ready"]
    status, headers, body = await own.call("HEAD", "/ping")
    assert (status, headers["content-length"], body) == (200, "4", b"")
    await own.post(b'{"parameter":{"delay":"60000"}}')
    text = (await own.call("GET", "/metrics"))[2].decode()
    for line in (
        "delaybox_scheduled_tasks_total 1.0",
        "delaybox_pending_tasks 1.0",
        'delaybox_http_requests_total{route="/task",status="200"} 1.0',
        "delaybox_store_up 1.0",
    ):
        assert line in text.splitlines()


async def test_a_node_whose_engine_is_silent_is_not_ready(start: Start):
    rest = await start(node_id="nobody", engines=("nobody.clock1",))
    status, _, answer = await rest.call("GET", "/readyz")
    assert status == 503
    assert b"engine" in answer


async def test_redis_away_and_back(start: Start, make_server: Callable[..., RealServer]):
    own = make_server("--appendonly", "yes", "--appendfsync", "always")
    rest = await start(server=own.settings)
    assert (await rest.post(FIRST_CURL))[0] == 200
    own.kill()
    for method, body in (("POST", FIRST_CURL), ("GET", None)):
        status, headers, answer = await rest.call(method, "/task", body)
        assert status == 503, answer
        assert int(headers["retry-after"]) >= 1
        assert json.loads(answer)["error"]
    assert (await rest.call("GET", "/livez"))[0] == 200
    assert (await rest.call("GET", "/readyz"))[0] == 503
    assert "delaybox_store_up 0.0" in (await rest.call("GET", "/metrics"))[2].decode()
    own.start()

    async def stored() -> bool:
        return (await rest.post(FIRST_CURL))[0] == 200

    await until_async(stored)


async def test_redis_away_at_the_start(start: Start, make_server: Callable[..., RealServer]):
    own = make_server()
    own.kill()
    rest = await start(server=own.settings)
    assert (await rest.post(FIRST_CURL))[0] == 503
    own.start()

    async def ready() -> bool:
        return (await rest.call("GET", "/readyz"))[0] == 200

    await until_async(ready)
    assert (await rest.post(FIRST_CURL))[0] == 200


async def test_a_full_redis_refuses_and_loses_nothing(start: Start, make_server: Callable[..., RealServer]):
    own = make_server("--maxmemory", "8mb", "--maxmemory-policy", "noeviction")
    rest = await start(server=own.settings)
    big = b'{"parameter":{"delay":"60000"},"pyload":"%b"}' % (b"A" * 1_000_000)
    stored = 0
    for _ in range(20):
        status, headers, answer = await rest.call("POST", "/task", big)
        if status != 200:
            break
        stored += 1
    assert status == 503, answer
    assert headers["retry-after"]
    assert b"full" in answer or b"memory" in answer
    assert len(await rest.tasks()) == stored > 0


async def test_a_store_of_a_newer_format_is_refused(start: Start, client: Redis, prefix: str):
    await Store.open(Servers(client), prefix=prefix)
    await client.hset(f"{prefix}:meta", "format", "99")
    with pytest.raises(ChildFailed, match="format"):
        await start()


async def test_a_taken_port_says_how_to_mend(rest: Rest, start: Start):
    with pytest.raises(CannotListen, match=r"taken.*--http-port"):
        await start(port=rest.process.port)
    with pytest.raises(CannotListen, match="--host"):
        await start(host="192.0.2.1")


async def test_stop_finishes_what_is_under_way(start: Start):
    own = await start(grace_s=60.0)
    reader, writer = await asyncio.open_connection("127.0.0.1", own.process.port)
    head = b"POST /task HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    writer.write(head % len(FIRST_CURL) + FIRST_CURL[:20])
    await writer.drain()
    await own.call("GET", "/livez")  # the other request has reached the process by now
    stopping = asyncio.create_task(own.process.stop())

    async def refused() -> bool:
        try:
            _, probe = await asyncio.open_connection("127.0.0.1", own.process.port)
        except OSError:
            return True
        probe.close()
        return False

    await until_async(refused)
    writer.write(FIRST_CURL[20:])
    await writer.drain()
    assert (await reader.read()).startswith(b"HTTP/1.1 200")
    writer.close()
    await stopping
    await own.process.stop()
    assert own.process.exit_code == 0


async def test_stop_does_not_wait_for_a_caller_that_stalls(start: Start):
    rest = await start(grace_s=0.3)
    _, writer = await asyncio.open_connection("127.0.0.1", rest.process.port)
    writer.write(b"GET / HT")
    await writer.drain()
    begun = Spent()
    await rest.process.stop()
    assert begun.s() < 5
    assert rest.process.exit_code == 0
    writer.close()


async def test_death_is_noticed(own: Rest):
    os.kill(own.process.pid, signal.SIGKILL)
    await asyncio.wait_for(own.process.died.wait(), PATIENCE_S)
    assert own.process.exit_code == -signal.SIGKILL
    await own.process.stop()


PARENT = """
import asyncio, sys
from delaybox.api.rest.settings import ApiSettings
from delaybox.processes.settings import decode
from tests.children import serving
async def main():
    api = await serving(decode(ApiSettings, sys.argv[1]))
    print(api.pid, flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


async def test_it_dies_with_its_parent(server: RealServer, prefix: str):
    line = encode(ApiSettings(server=server.settings, prefix=prefix)).decode()
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", PARENT, line, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pid = int(await parent.stdout.readline())
    parent.kill()
    await parent.wait()
    await until_async(lambda: not lives(pid))
