"""Requests as they are read from a connection: what is taken, what is refused; another parser reads the same."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delaybox.api.rest.http1.head import MAX_HEAD, MAX_HEADERS, BadHead
from delaybox.api.rest.http1.reader import MAX_AT_ONCE, MAX_CHUNKS, HttpReader, Request
from delaybox.roles.rest import shares

GET = b"GET / HTTP/1.1\r\nHost: localhost"
CHUNKED = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"


def read(head: bytes) -> Request:
    """The one request that this head makes."""
    reader = HttpReader()
    reader.feed(head + b"\r\n\r\n")
    if reader.refusal is not None:
        raise reader.refusal
    (request,) = reader.requests
    return request


def test_a_head_is_taken_apart() -> None:
    head = read(b"POST /v1/a%2Fb?x=%20&y HTTP/1.1\r\nHost:localhost\r\nX-Y: \t a b \t\r\nContent-Length: 12").head
    assert (head.method, head.raw_path, head.path, head.query) == ("POST", b"/v1/a%2Fb", "/v1/a/b", b"x=%20&y")
    assert head.headers == [(b"host", b"localhost"), (b"x-y", b"a b"), (b"content-length", b"12")]
    assert (head.length, head.keep_alive, head.awaits_continue) == (12, True, False)
    assert read(GET + b"\r\nTransfer-Encoding: Chunked").head.length == -1
    assert not read(GET + b"\r\nConnection: close").head.keep_alive
    assert not read(b"GET / HTTP/1.0").head.keep_alive
    assert read(b"GET / HTTP/1.0\r\nConnection: Keep-Alive").head.keep_alive
    assert read(GET + b"\r\nExpect: 100-continue").head.awaits_continue
    assert read(b"GET http://localhost/a?b HTTP/1.1\r\nHost: localhost").head.path == "/a"


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"GET / HTTP/1.1\r\nContent-Length: 2\r\nTransfer-Encoding: chunked", "exclude each other"),
        (b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 2", "exclude each other"),
        (GET + b"\r\nContent-Length: 2\r\nContent-Length: 2", "content-length is given more than once"),
        (GET + b"\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "is not served"),
        (GET + b"\r\nTransfer-Encoding: gzip, chunked", "is not served"),
        (b"GET / HTTP/1.0\r\nTransfer-Encoding: chunked", "is not served"),
        *(
            (GET + b"\r\nContent-Length: " + size, "number of bytes")
            for size in (b"", b"+2", b"-2", b"0x2", b"2, 2", b"2_0", b"9" * 30)
        ),
        (GET + b"\r\n folded: x", "one way alone"),
        (GET + b"\r\nX : x", "one way alone"),
        (GET + b"\r\n: x", "one way alone"),
        (GET + b"\r\nX", "one way alone"),
        (GET + b"\r\nX: a\0b", "one way alone"),
        (GET + b"\r\nX: a\nY: b", "one way alone"),
        (GET + b"\r\nX: a\rY: b", "one way alone"),
        (b"GET /\xff HTTP/1.1", "no HTTP/1.1 request"),
        (b"GET / HTTP/2.0", "no HTTP/1.1 request"),
        (b"get / HTTP/1.1", "no HTTP/1.1 request"),
        (b"GET * HTTP/1.1", "no path"),
        (b"CONNECT localhost:80 HTTP/1.1", "no path"),
        (b"GET /%ff HTTP/1.1", "percent-encoded"),
        (b"GET /%2 HTTP/1.1", "percent-encoded"),
        (b"GET http://evil.example/ HTTP/1.1\r\nHost: localhost", "another host"),
        (GET + b"\r\nX: y" * MAX_HEADERS, "more than 100 headers"),
        (GET + b"\r\nX: " + b"y" * MAX_HEAD, "larger than"),
        (b"GET /" + b"y" * MAX_HEAD + b" HTTP/1.1", "larger than"),
        (b"\x16\x03\x01", "does not speak TLS"),
        (b"\xff", "no HTTP/1.1 request"),
    ],
)
@pytest.mark.parametrize("step", [1, 1_000_000])
def test_what_could_be_read_in_two_ways_is_refused(head: bytes, words: str, step: int) -> None:
    reader, data = HttpReader(), head + b"\r\n\r\n"
    for at in range(0, len(data), step):
        reader.feed(data[at : at + step])
    assert reader.refusal is not None and not reader.requests
    with pytest.raises(BadHead, match=words):
        raise reader.refusal


def test_a_head_that_never_ends_is_not_kept() -> None:
    for begin in (GET + b"\r\nX: ", b"GET /", GET + b"\r\n"):
        reader, fed = HttpReader(), 0
        while reader.refusal is None:
            reader.feed(begin if not fed else b"a" * 1_000)
            fed += 1_000
            assert fed < 2 * MAX_HEAD
        assert reader.refusal.status == 431 and reader.waiting == 0


LINES = st.lists(
    st.one_of(
        st.sampled_from(
            [
                b"Host: a",
                b"X-A: b",
                b"Content-Length: 3",
                b"Transfer-Encoding: chunked",
                b" b",
                b"X-A : b",
                b"X:",
                b"Connection: x",
            ]
        ),
        st.binary(max_size=12),
    ),
    max_size=4,
)


@given(first=st.sampled_from([b"GET / HTTP/1.1", b"POST /a?b HTTP/1.1", b"PUT /%41 HTTP/1.0"]), lines=LINES)
def test_whatever_is_taken_h11_takes_and_reads_the_same(first: bytes, lines: list[bytes]) -> None:
    head = b"\r\n".join([first, *lines])
    if b"\r\n\r\n" in head or head.endswith(b"\r\n"):
        return  # it ends earlier
    try:
        ours = read(head).head
    except BadHead:
        return
    other = h11.Connection(h11.SERVER)
    # h11 asks for the header Host, which is the edge's affair here.
    hosts = sum(name == b"host" for name, _ in ours.headers)
    other.receive_data(head + b"\r\nHost: a" * (hosts == 0) + b"\r\n\r\n")
    if hosts > 1:
        return
    found = other.next_event()
    assert isinstance(found, h11.Request)
    theirs = [(name, value.lower() if name == b"transfer-encoding" else value) for name, value in found.headers]
    assert [pair for pair in theirs if hosts or pair != (b"host", b"a")] == [
        (name, value.lower() if name == b"transfer-encoding" else value) for name, value in ours.headers
    ]


BODY = b"5\r\nhello\r\n6;ext=1\r\n world\r\n0\r\nX: y\r\n\r\n"


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1_000])
def test_chunks_however_they_are_cut(step: int) -> None:
    reader, data = HttpReader(), CHUNKED + BODY + GET + b"\r\n\r\n"
    for at in range(0, len(data), step):
        reader.feed(data[at : at + step])
    first = reader.requests.popleft()
    assert (b"".join(first.parts), first.over, first.broken) == (b"hello world", True, False)
    reader.feed()
    assert reader.requests.popleft().head.headers == [(b"host", b"localhost")], "and the next one is whole"


@pytest.mark.parametrize(
    "body",
    [
        b"x\r\n",
        b"+2\r\nab\r\n",
        b"\r\n",
        b"2\r\nabX",
        b"2\nab\n",
        b"2 \r\n",
        b"1" * 17 + b"\r\n",
        b"1;" + b"a" * 20_000,
        b"2\r\nab\r\r\n",
        b"1\r\na\r\n" * (MAX_CHUNKS + 1),
        b"0\r\nX: " + b"a" * 20_000,
        b"0\r\n" + b"X: a\r\n" * 5_000,
    ],
)
def test_what_is_no_chunk_is_refused(body: bytes) -> None:
    reader = HttpReader()
    reader.feed(CHUNKED + body)
    assert reader.requests[0].broken and not reader.requests[0].over


def test_one_request_at_a_time_is_read_but_for_what_came_with_it() -> None:
    reader = HttpReader()
    reader.feed((GET + b"\r\n\r\n") * 1_000)
    assert 1 < len(reader.requests) <= MAX_AT_ONCE and reader.waiting > 0
    count = 0
    while reader.requests:
        reader.requests.popleft()
        count += 1
        if not reader.requests:
            reader.feed()
    assert (count, reader.refusal) == (1_000, None)


def test_thousands_in_a_few_bytes_are_refused() -> None:
    reader = HttpReader()
    reader.feed(b"GET / HTTP/1.1\r\n\r\n" * 1_000)
    assert len(reader.requests) == MAX_AT_ONCE and reader.refusal is not None


UPGRADE = b"\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAA"


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1_000])
@pytest.mark.parametrize(
    ("lines", "body", "found"),
    [
        (b"", b"", b""),
        (b"\r\nContent-Length: 0", b"", b""),
        (b"\r\nContent-Length: 5", b"hello", b"hello"),
        (b"\r\nTransfer-Encoding: chunked", BODY, b"hello world"),
    ],
)
def test_who_asks_for_another_protocol_is_answered_in_this_one(lines: bytes, body: bytes, found: bytes, step: int):
    """Java's HTTP client asks for HTTP/2 with each request, whatever its body."""
    reader = HttpReader()
    data = (b"POST /a HTTP/1.1\r\nHost: localhost" + UPGRADE + lines + b"\r\n\r\n" + body) * 3 + GET + b"\r\n\r\n"
    for at in range(0, len(data), step):
        reader.feed(data[at : at + step])
    for _ in range(3):
        first = reader.requests.popleft()
        assert (first.head.path, b"".join(first.parts), first.over) == ("/a", found, True)
        if not reader.requests:
            reader.feed()
    assert (reader.requests.popleft().head.path, reader.refusal, reader.waiting) == ("/", None, 0)


def test_whoever_speaks_another_protocol_unasked_is_refused() -> None:
    reader = HttpReader()
    reader.feed(GET + UPGRADE + b"\r\n\r\n" + b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + GET + b"\r\n\r\n")
    assert len(reader.requests) == 1 and reader.refusal is not None and reader.waiting == 0


@pytest.mark.parametrize("limit", [16, 64, 128, 256, 1_024, 4_096, 8_704, 65_536])
def test_callers_and_the_reserve_leave_files_for_the_rest(limit: int):
    most, reserve = shares(limit, 8_192)
    assert most >= 1 and reserve >= min(256, limit // 4)
    assert most + reserve <= limit - min(256, limit // 4)
    assert shares(1 << 20, 8_192) == (8_192, 256)


def post(body: bytes, *more: bytes) -> bytes:
    lines = (b"POST /task HTTP/1.1", b"Host: localhost", b"Content-Length: %d" % len(body), *more)
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def answered(reader: HttpReader, data: bytes) -> list[tuple[object, ...]]:
    """What one part of the bytes brings, where each complete request is answered at once."""
    found: list[tuple[object, ...]] = []
    reader.feed(data)
    while reader.requests and reader.requests[0].over:
        request = reader.requests.popleft()
        found.append((request.head, b"".join(request.parts), request.left, request.broken))
        if not reader.requests:
            reader.feed()
    left = [(one.head, tuple(one.parts), one.broken) for one in reader.requests]
    return [*found, (left, reader.in_head, reader.waiting, str(reader.refusal))]


def test_the_same_head_is_parsed_once_for_a_connection() -> None:
    reader = HttpReader()
    heads = []
    for body in (b'{"a":1}', b'{"b":2}'):
        reader.feed(post(body))
        (request,) = reader.requests
        assert (b"".join(request.parts), request.size, request.over) == (body, len(body), True)
        heads.append(request.head)
        reader.requests.clear()
    assert heads[0] is heads[1]
    reader.feed(post(b'{"c":34}'))
    assert reader.requests[0].head.length == 8
    reader.close()


PARTS = st.sampled_from(
    [
        post(b"ab"), post(b"cd"), post(b""), post(b"{}\r\n"), post(b"\r\n\r\nxy"), post(b"zz\r\n\r\n"), post(b"abcd"),
        post(b"ab") + b"\r\n", post(b"\r\n\r\nxy") + b"\r\n\r\n", post(b"ab") + b"cd", b"\r\n" + post(b"ab"),
        post(b"ab")[:-1], post(b"ab")[:20], post(b"ab") + post(b"cd"), post(b"ab", b"Connection: close"), b"\r\n",
        post(b"ab", b"Connection: upgrade", b"Upgrade: h2c"), CHUNKED + b"2\r\nab\r\n0\r\n\r\n", GET + b"\r\n\r\n",
    ]
)  # fmt: skip


@given(st.lists(PARTS, max_size=8))
def test_a_kept_head_changes_nothing_that_is_read(parts: list[bytes]) -> None:
    keeping, parsing = HttpReader(), HttpReader()
    for part in parts:
        parsing._known = None
        assert answered(keeping, part) == answered(parsing, part)
    keeping.close()
    parsing.close()
