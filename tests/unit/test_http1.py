"""Heads and chunks: what is read, what is refused, and that another parser reads the same."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delaybox.api.rest.http1.chunks import MOST_CHUNKS, BadChunk, Chunks
from delaybox.api.rest.http1.head import MAX_HEADERS, BadHead, read_head
from delaybox.api.rest.process import shares

GET = b"GET / HTTP/1.1\r\nHost: localhost"


def test_a_head_is_taken_apart():
    head = read_head(b"POST /v1/a%2Fb?x=%20&y HTTP/1.1\r\nHost:localhost\r\nX-Y: \t a b \t\r\nContent-Length: 12")
    assert (head.method, head.raw_path, head.path, head.query) == ("POST", b"/v1/a%2Fb", "/v1/a/b", b"x=%20&y")
    assert head.headers == [(b"host", b"localhost"), (b"x-y", b"a b"), (b"content-length", b"12")]
    assert (head.length, head.keep_alive, head.awaits_continue) == (12, True, False)
    assert read_head(GET + b"\r\nTransfer-Encoding: Chunked").length == -1
    assert not read_head(GET + b"\r\nConnection: close").keep_alive
    assert not read_head(b"GET / HTTP/1.0").keep_alive
    assert read_head(b"GET / HTTP/1.0\r\nConnection: Keep-Alive").keep_alive
    assert read_head(GET + b"\r\nExpect: 100-continue").awaits_continue
    assert read_head(b"GET http://localhost/a?b HTTP/1.1\r\nHost: localhost").path == "/a"


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"GET / HTTP/1.1\r\nContent-Length: 2\r\nTransfer-Encoding: chunked", "exclude each other"),
        (b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 2", "exclude each other"),
        (GET + b"\r\nContent-Length: 2\r\nContent-Length: 2", "content-length is given more than once"),
        (GET + b"\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "more than once"),
        (GET + b"\r\nTransfer-Encoding: gzip, chunked", "is not served"),
        (b"GET / HTTP/1.0\r\nTransfer-Encoding: chunked", "is not served"),
        *(
            (GET + b"\r\nContent-Length: " + size, "number of bytes")
            for size in (b"", b"+2", b"-2", b"0x2", b"2, 2", b"2_0")
        ),
        (GET + b"\r\n folded: x", "no name"),
        (GET + b"\r\nX : x", "no name"),
        (GET + b"\r\n: x", "no name"),
        (GET + b"\r\nX", "no name"),
        (GET + b"\r\nX: a\0b", "control character"),
        (GET + b"\r\nX: a\nY: b", "control character"),
        (GET + b"\r\nX: a\rY: b", "control character"),
        (b"GET /\xff HTTP/1.1", "no HTTP/1.1 request"),
        (b"GET / HTTP/2.0", "no HTTP/1.1 request"),
        (b"GET  / HTTP/1.1", "no HTTP/1.1 request"),
        (b"get / HTTP/1.1", "no HTTP/1.1 request"),
        (b"GET * HTTP/1.1", "no path"),
        (b"CONNECT localhost:80 HTTP/1.1", "no path"),
        (b"GET /%ff HTTP/1.1", "percent-encoded"),
        (b"GET /%2 HTTP/1.1", "percent-encoded"),
        (b"GET http://evil.example/ HTTP/1.1\r\nHost: localhost", "another host"),
        (GET + b"\r\nX: y" * MAX_HEADERS, "more than 100 headers"),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(head: bytes, words: str):
    with pytest.raises(BadHead, match=words):
        read_head(head)


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
def test_whatever_is_taken_h11_takes_and_reads_the_same(first: bytes, lines: list[bytes]):
    head = b"\r\n".join([first, *lines])
    if b"\r\n\r\n" in head or head.endswith(b"\r\n"):
        return  # it ends earlier
    try:
        ours = read_head(head)
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


BODY = b"5\r\nhello\r\n6;ext=1\r\n world\r\n0\r\nX: y\r\n\r\nGET"


@pytest.mark.parametrize("step", [1, 2, 3, 7, 100])
def test_chunks_however_they_are_cut(step: int):
    chunks, out = Chunks(), b""
    for at in range(0, len(BODY), step):
        out += chunks.feed(BODY[at : at + step])
    assert (out, chunks.over, chunks.rest) == (b"hello world", True, b"GET")


@pytest.mark.parametrize(
    "body",
    [
        b"x\r\n",
        b"+2\r\nab\r\n",
        b"\r\n",
        b"2\r\nabX",
        b"2\nab\n",
        b"2 \r\n",
        b"1" * 16 + b"\r\n",
        b"1;" + b"a" * 300,
        b"2\r\nab\r\r\n",
        b"1\r\na\r\n" * (MOST_CHUNKS + 1),
        b"0\r\n" + (b"a" * 200 + b"\r\n") * 50,
    ],
)
def test_what_is_no_chunk_is_refused(body: bytes):
    with pytest.raises(BadChunk):
        Chunks().feed(body)


@pytest.mark.parametrize("limit", [16, 64, 128, 256, 1_024, 4_096, 8_704, 65_536])
def test_callers_and_the_reserve_leave_files_for_the_rest(limit: int):
    most, reserve = shares(limit, 8_192)
    assert most >= 1 and reserve >= min(256, limit // 4)
    assert most + reserve <= limit - min(256, limit // 4)
    assert shares(1 << 20, 8_192) == (8_192, 256)
