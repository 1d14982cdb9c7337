"""S6: requests made to exhaust, to stall and to smuggle, over raw sockets. Each ends refused or cut, none is stored."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import time
from collections.abc import Iterable, Iterator
from http.client import HTTPConnection
from typing import Any

import pytest

from tests.children import Served
from tests.memory import forget_peak, peak_kib, resident_kib
from tests.rest import rest_process
from tests.servers import RealServer
from tests.shared import a_prefix, kept
from tests.waiting import PATIENCE_S

GIB = 1 << 30
HEAD = b" HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
GOOD = b'{"taskType":"PUB_SUB","parameter":{"delay":"60000"},"pyload":"YQ=="}'
SMUGGLED = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Target:
    """A process. ``resident_kib``: what it held before any of these requests."""

    def __init__(self, process: Served) -> None:
        self.pid, self.port = process.pid, process.port
        self.resident_kib = resident_kib(process.pid)

    def grown_kib(self) -> int:
        """The most that it held during this test, over what it held at first."""
        return peak_kib(self.pid) - self.resident_kib

    def served_and_stored_nothing(self) -> None:
        assert get(self.port, "/livez") == (200, b"ok")
        assert get(self.port, "/task") == (200, b"[]")


@contextlib.contextmanager
def target(server: RealServer, **changes: Any) -> Iterator[Target]:
    """A process with other settings."""
    with kept(rest_process(server=server.settings, prefix=a_prefix(), **changes)) as process:
        made = Target(process)
        yield made
        made.served_and_stored_nothing()


@pytest.fixture(scope="module")
def shared(server: RealServer) -> Iterator[Target]:
    with target(server) as made:
        yield made


@pytest.fixture
def api(shared: Target) -> Iterator[Target]:
    forget_peak(shared.pid)
    yield shared
    shared.served_and_stored_nothing()


def get(port: int, path: str) -> tuple[int, bytes]:
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def send(port: int, parts: Iterable[bytes], *, patience_s: float = 5.0) -> tuple[int, bytes]:
    """Sends the parts until the node hangs up; how many bytes it took, and all that it answered."""
    taken, out = 0, b""
    with socket.create_connection(("127.0.0.1", port), timeout=patience_s) as connection:
        with contextlib.suppress(OSError):
            for part in parts:
                connection.sendall(part)
                taken += len(part)
        with contextlib.suppress(OSError):
            while received := connection.recv(65536):
                out += received
    return taken, out


def statuses(answer: bytes) -> list[int]:
    return [int(found) for found in re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)]


@pytest.mark.parametrize("path", ["/task", "/v1/tasks", "/v1/tasks/batch"])
async def test_a_gibibyte_in_chunks_is_refused_while_it_arrives(api: Target, path: str):
    chunk = b"%x\r\n%b\r\n" % (1 << 20, b" " * (1 << 20))
    body = (chunk for _ in range(1024))
    head = b"POST " + path.encode() + HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    taken, answer = await asyncio.to_thread(send, api.port, (head, *body))
    # A reset may overtake the answer.
    assert statuses(answer) in ([413], [])
    assert taken < 64 << 20, "it read on after its answer was given"
    assert api.grown_kib() < 80_000


@pytest.mark.parametrize("length", [b"99999999999", b"18446744073709551616", b"9" * 400])
async def test_a_body_announced_too_large_is_not_read(api: Target, length: bytes):
    _, answer = await asyncio.to_thread(
        send, api.port, [b"POST /task" + HEAD + b"Content-Length: " + length + b"\r\n\r\n"]
    )
    assert statuses(answer) in ([413], [400])


async def test_bodies_that_stall_are_held_up_to_a_bound(server: RealServer):
    """40 batches of 15 MiB that never end: the node takes 256 MiB of them together and refuses the others."""
    with target(server, body_timeout_s=20.0) as api:
        head = b"POST /v1/tasks/batch" + HEAD + b"Content-Length: %d\r\n\r\n" % (16 << 20)
        part = b" " * (15 << 20)
        connections = [socket.create_connection(("127.0.0.1", api.port), timeout=5) for _ in range(40)]

        def push(connection: socket.socket) -> list[int]:
            with contextlib.suppress(OSError):
                connection.sendall(head)
                connection.sendall(part)
                connection.settimeout(1.0)
                return statuses(connection.recv(4096))
            return []

        try:
            answers = await asyncio.gather(*(asyncio.to_thread(push, one) for one in connections))
            peak = api.grown_kib()
            assert [429] in answers
            assert peak < 600_000
            assert await asyncio.to_thread(get, api.port, "/livez") == (200, b"ok")
        finally:
            for one in connections:
                one.close()


SLOW = [
    b"",
    b"POST /ta",
    b"POST /task HTTP/1.1\r\nHost: localh",
    b"POST /task" + HEAD,
    b"POST /task" + HEAD + b"Content-Length: 50\r\n\r\n",
    b"POST /task" + HEAD + b"Content-Length: 50\r\n\r\n{",
    b"POST /task" + HEAD + b"Transfer-Encoding: chunked\r\n\r\n",
    b"POST /task" + HEAD + b"Transfer-Encoding: chunked\r\n\r\n5",
]


@contextlib.contextmanager
def stalled(api: Target) -> Iterator[list[socket.socket]]:
    """Requests of which the rest never comes."""
    with contextlib.ExitStack() as stack:
        found = []
        for at in range(200):
            one = socket.create_connection(("127.0.0.1", api.port), timeout=PATIENCE_S)
            found.append(stack.enter_context(contextlib.closing(one)))
            one.sendall(SLOW[at % len(SLOW)])
        yield found


async def test_slow_headers_and_bodies_hold_up_nobody(server: RealServer):
    with target(server, header_timeout_s=600.0, body_timeout_s=600.0) as api, stalled(api):
        assert await asyncio.to_thread(get, api.port, "/livez") == (200, b"ok")


async def test_slow_headers_and_bodies_are_ended(server: RealServer):
    with target(server, header_timeout_s=1.0, body_timeout_s=1.0) as api, stalled(api) as connections:

        def rest(one: socket.socket) -> bytes:
            out = b""
            with contextlib.suppress(ConnectionError):
                while received := one.recv(4096):
                    out += received
            return out

        # Each is closed by the node: a time-out here is a failure.
        for one in connections:
            assert statuses(await asyncio.to_thread(rest, one)) in ([], [408])


async def test_a_trickle_does_not_outlive_its_time(server: RealServer):
    """A byte every 100 ms is progress, and no reason to wait for ever."""
    with target(server, header_timeout_s=0.5, body_timeout_s=0.5) as api:

        def trickle(beginning: bytes) -> float:
            begun = time.monotonic()
            with socket.create_connection(("127.0.0.1", api.port), timeout=5) as one, contextlib.suppress(OSError):
                one.sendall(beginning)
                one.settimeout(0.1)
                while time.monotonic() - begun < PATIENCE_S:
                    one.sendall(b" ")
                    with contextlib.suppress(TimeoutError):
                        if not one.recv(4096):
                            break
            return time.monotonic() - begun

        for beginning in (b"POST /task HTTP/1.1\r\nX-A:", b"POST /task" + HEAD + b"Content-Length: 5000\r\n\r\n"):
            assert await asyncio.to_thread(trickle, beginning) < PATIENCE_S


CHUNKED = b"Transfer-Encoding: chunked\r\n"
AMBIGUOUS = {
    "length and chunks": b"Content-Length: 6\r\n" + CHUNKED + b"\r\n0\r\n\r\n" + SMUGGLED,
    "chunks and length": CHUNKED + b"Content-Length: 6\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "two lengths": b"Content-Length: 2\r\nContent-Length: 44\r\n\r\n{}" + SMUGGLED,
    "a list of lengths": b"Content-Length: 2, 44\r\n\r\n{}" + SMUGGLED,
    "a length with a sign": b"Content-Length: +2\r\n\r\n{}" + SMUGGLED,
    "a negative length": b"Content-Length: -2\r\n\r\n{}",
    "a hexadecimal length": b"Content-Length: 0x2\r\n\r\n{}" + SMUGGLED,
    "an unknown coding": b"Transfer-Encoding: xchunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "chunked not last": b"Transfer-Encoding: chunked, identity\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "chunked twice": CHUNKED + CHUNKED + b"\r\n2\r\n{}\r\n0\r\n\r\n",
    "identity and length": b"Transfer-Encoding: identity\r\nContent-Length: 2\r\n\r\n{}",
    "a space before the colon": b"Transfer-Encoding : chunked\r\nContent-Length: 44\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "a folded header": b"X: a\r\n Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n{}" + SMUGGLED,
    "no end of a chunk": CHUNKED + b"\r\n2\r\n{}XX0\r\n\r\n" + SMUGGLED,
    "a chunk without a size": CHUNKED + b"\r\n\r\n{}\r\n0\r\n\r\n",
    "a chunk of no number": CHUNKED + b"\r\nzz\r\n{}\r\n0\r\n\r\n",
    "a chunk with a sign": CHUNKED + b"\r\n+2\r\n{}\r\n0\r\n\r\n",
    "a chunk over 64 bits": CHUNKED + b"\r\n10000000000000002\r\n{}\r\n0\r\n\r\n" + SMUGGLED,
    "a chunk that ends with a line feed": CHUNKED + b"\r\n2\n{}\n0\n\n" + SMUGGLED,
    "a NUL in a header": b"X: a\0b\r\nContent-Length: 2\r\n\r\n{}",
    "a line feed in a name": b"X\nY: a\r\nContent-Length: 2\r\n\r\n{}",
    "two hosts": b"Host: evil.example\r\nContent-Length: 2\r\n\r\n{}",
}


@pytest.mark.parametrize("path", [b"/task", b"/v1/tasks"])
async def test_what_can_be_read_in_two_ways_is_not_read_at_all(api: Target, path: bytes):
    """Neither what is sent, nor what is hidden inside it as a second request, is answered with success."""
    begin = b"POST " + path + HEAD
    sent = [asyncio.to_thread(send, api.port, [begin + rest], patience_s=2.0) for rest in AMBIGUOUS.values()]
    answered = {
        kind: statuses(answer) for kind, (_, answer) in zip(AMBIGUOUS, await asyncio.gather(*sent), strict=True)
    }
    print(*(f"S6 {kind}: {found or 'closed'}" for kind, found in answered.items()), sep="\n")
    assert {kind: found for kind, found in answered.items() if found not in ([], [400], [408])} == {}


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("many headers", {400, 431}),
        ("a long header", {400, 431}),
        ("a long path", {400, 404, 414, 431}),
        ("garbage", {400}),
    ],
)
async def test_heads_without_end(api: Target, kind: str, status: set[int]):
    heads = {
        "many headers": [
            b"GET /livez HTTP/1.1\r\nHost: localhost\r\n",
            *(b"X-%d: a\r\n" % n for n in range(100_000)),
            b"\r\n",
        ],
        "a long header": [b"GET /livez HTTP/1.1\r\nX: ", *[b"a" * 65536] * 160, b"\r\n\r\n"],
        "a long path": [b"GET /", *[b"a" * 65536] * 160, b" HTTP/1.1\r\nHost: localhost\r\n\r\n"],
        "garbage": [bytes(range(256)) * 4096],
    }
    _, answer = await asyncio.to_thread(send, api.port, [b"".join(heads[kind])])
    found = statuses(answer)
    assert not found or set(found) <= status, answer[:200]
    assert api.grown_kib() < 60_000


PING = b"GET /ping HTTP/1.1\r\nHost: localhost\r\n\r\n"
LAST = PING.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")


async def test_requests_in_a_pipeline_are_answered_in_order_and_once(api: Target):
    _, answer = await asyncio.to_thread(send, api.port, [PING * 50 + LAST])
    assert statuses(answer) == [200] * 51


async def test_what_is_counted_and_chunked_is_refused_in_words(api: Target):
    for path in (b"/task", b"/v1/tasks"):
        for lines in (b"Content-Length: 2\r\n" + CHUNKED, CHUNKED + b"Content-Length: 2\r\n"):
            head = b"POST " + path + HEAD + lines + b"\r\n"
            _, answer = await asyncio.to_thread(send, api.port, [head + b"2\r\n{}\r\n0\r\n\r\n" + SMUGGLED])
            assert statuses(answer) == [400], answer
            assert b"exclude each other" in answer and b"connection: close" in answer
            assert b"nosniff" in answer and (b"problem+json" in answer) == (path == b"/v1/tasks")


async def test_two_keys_or_tokens_are_refused(api: Target):
    for name in (b"Idempotency-Key", b"Authorization"):
        twice = name + b": Bearer a\r\n" + name + b": Bearer b\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}"
        _, answer = await asyncio.to_thread(send, api.port, [b"POST /v1/tasks" + HEAD + twice])
        assert statuses(answer) == [400] and b"more than once" in answer


async def test_a_path_is_decoded_once(api: Target):
    for path, status in ((b"/v1/queues/%6dail", 200), (b"/v1/queues/%256dail", 400), (b"/v1%2Fqueues", 404)):
        ask = b"GET " + path + HEAD + b"Connection: close\r\n\r\n"
        _, answer = await asyncio.to_thread(send, api.port, [ask])
        assert statuses(answer) == [status], (path, answer)


@pytest.mark.parametrize(
    ("sent", "found"),
    [
        (PING, [200]),
        (PING * 300, [200] * 300),
        (PING + b"GET /ping HTTP/1.1\r\nHo", [200]),
        (PING + b"POST /task" + HEAD + b"Content-Length: 9\r\n\r\n{", [200, 400]),
    ],
)
async def test_a_caller_who_has_sent_all_gets_the_answers_and_the_end(api: Target, sent: bytes, found: list[int]):
    def ask() -> bytes:
        with socket.create_connection(("127.0.0.1", api.port), timeout=5) as one:
            one.sendall(sent)
            one.shutdown(socket.SHUT_WR)
            out = b""
            while received := one.recv(4096):
                out += received
            return out

    assert statuses(await asyncio.to_thread(ask)) == found


async def test_who_asks_for_another_protocol_is_served_in_this_one(api: Target):
    asks = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAA\r\n"
    body = b'{"payload": "x", "delay": "1h", "unheard_of": 1}'
    one = b"POST /v1/tasks" + HEAD + asks + b"Content-Length: %d\r\n\r\n" % len(body) + body
    _, answer = await asyncio.to_thread(send, api.port, [one * 2, LAST])
    assert statuses(answer) == [400, 400, 200] and answer.count(b"unheard_of") >= 2, "both bodies were read"


async def test_tls_on_the_plain_port_is_told_so(api: Target):
    _, answer = await asyncio.to_thread(send, api.port, [b"\x16\x03\x01\x02\x00\x01\x00"])
    assert statuses(answer) == [400] and b"does not speak TLS" in answer
