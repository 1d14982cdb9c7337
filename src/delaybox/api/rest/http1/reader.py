"""The bytes of one connection -> its requests, by llhttp (the parser of Node.js, through httptools). No I/O.

llhttp is strict: bytes that could be read in two ways are an error. This module adds the bounds, and parses only one
request ahead, except for requests that came in the same few kilobytes.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final

import httptools

from delaybox.api.rest.http1.head import MAX_HEAD, MAX_HEADERS, BadHead, Head, read_head, unreadable

_SLICE: Final = 4 * 1024
"""Bytes parsed at once where heads are expected."""
MAX_AT_ONCE: Final = 128
"""Most requests in one slice, into which a hundred of the smallest would fit."""
MAX_CHUNKS: Final = 10_000
"""Most chunks of one body. Each costs about a microsecond, however small it is."""
_DRY: Final = 8 * 1024
"""Most bytes of a chunked body that are no content: extensions of chunks, and headers behind them."""
_KNOWN_HEAD: Final = 1024
"""Most bytes of a head that is kept for the next request of its connection."""
_TLS_HELLO: Final = 0x16
_LINE: Final = 4
"""Bytes of a header beside name and value."""


class Request:
    """``parts``: parts of the body that nobody has read yet; ``size``: their bytes. ``over``: the body is complete;
    ``broken``: it never will be."""

    __slots__ = ("broken", "head", "left", "over", "parts", "size")

    def __init__(self, head: Head) -> None:
        self.head = head
        self.parts: list[bytes] = []
        self.size = 0
        self.left = head.length
        self.over = False
        self.broken = False


class HttpReader:
    """``requests``: those that have begun and are not answered. ``refusal``: why the bytes behind them are no
    request."""

    __slots__ = (
        "_again", "_buffer", "_chunks", "_dry", "_fed", "_headers", "_headers_size", "_in_head", "_known", "_known_raw",
        "_parser", "_target", "_unserved", "refusal", "requests",
    )  # fmt: skip

    def __init__(self) -> None:
        self.requests: deque[Request] = deque()
        self.refusal: BadHead | None = None
        self._buffer = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._target = b""
        self._in_head = False
        self._headers_size = 0
        self._fed = 0
        self._chunks = 0
        self._dry = 0
        self._unserved = False
        self._again = False
        self._known: Head | None = None
        self._known_raw = b""
        self._parser: Any = httptools.HttpRequestParser(self)

    @property
    def waiting(self) -> int:
        """Bytes that wait to be parsed."""
        return len(self._buffer)

    @property
    def in_head(self) -> bool:
        """Whether part of a head has come."""
        return self._in_head or (bool(self._buffer) and not self.requests)

    def close(self) -> None:
        """Drops all references. It and its parser refer to each other, and the garbage collector would free them too
        late."""
        self._parser = self.refusal = self._known = None
        self._buffer = self._known_raw = b""
        self._headers, self._in_head = [], False
        self.requests.clear()

    def feed(self, data: bytes = b"") -> None:
        """Takes bytes, and parses as long as no complete request waits."""
        if not self.requests and not self._in_head and not self._buffer and data and self.refusal is None:
            self._feed_first(data)
        else:
            self._feed(data)

    def _feed_first(self, data: bytes) -> None:
        """Takes bytes that begin a request.

        Callers send the same head again and again, so one that is the same, byte for byte, as the last one of the
        connection is not parsed again where the whole request has come, and nothing behind it. Parsing a head of three
        headers takes a tenth of what a small POST costs.
        """
        known = self._known
        if known is not None and len(data) == len(self._known_raw) + known.length and data.startswith(self._known_raw):
            request = Request(known)
            if known.length:
                request.parts.append(data[len(self._known_raw) :])
                request.size = known.length
                request.left = 0
            request.over = True
            self.requests.append(request)
            return
        parser = self._parser
        self._feed(data)
        if self._parser is parser and len(self.requests) == 1 and not self._in_head and not self._buffer:
            self._keep(self.requests[0], data)

    def _keep(self, request: Request, data: bytes) -> None:
        """Keeps a head for `_feed_first`, where ``data`` is its request from the first byte to the last.

        The parser passes line breaks behind a request, so bytes that end with one may not be the request alone.
        """
        head = request.head
        size = len(data) - head.length
        whole = request.over and self.refusal is None and head.keep_alive and head.length >= 0 and size <= _KNOWN_HEAD
        if whole and data.find(b"\r\n\r\n") + 4 == size and (not head.length or data[-1] not in b"\r\n"):
            self._known, self._known_raw = head, data[:size]

    def _feed(self, data: bytes) -> None:
        data = self._buffer + data if self._buffer else data
        at, end = 0, len(data)
        while at < end and self.refusal is None:
            last = self.requests[-1] if self.requests else None
            if last is not None and (last.over or last.broken):
                break
            size = _SLICE if last is None else max(_SLICE, last.left)
            part = data if at == 0 and size >= end else data[at : at + size]
            at += len(part)
            self._parse(part)
        self._buffer = data[at:] if self.refusal is None else b""

    def _parse(self, part: bytes) -> None:
        if not self._in_head and not self.requests and not 0x41 <= part[0] <= 0x5A and part[:1] not in b"\r\n":
            words = "this is no HTTP/1.1 request; send METHOD /path HTTP/1.1"
            if part[0] == _TLS_HELLO:
                words = "this port does not speak TLS; use http:// here, or the proxy that ends TLS"
            self.refusal = BadHead(400, words)
            return
        last = self.requests[-1] if self.requests else None
        left = 0 if last is None else last.left
        try:
            self._parser.feed_data(part)
        except httptools.HttpParserUpgrade as asked:
            if self.refusal is None:
                self._stay(part[asked.args[0] :])
            return
        except httptools.HttpParserError as error:
            if self.refusal is None:
                self._refuse(error)
        if self._in_head:
            self._fed += len(part)
            # A part can have begun before the head did.
            if self._fed > MAX_HEAD + _SLICE:
                self._too_large()
        elif last is not None and last.left < 0 and not last.over:
            self._dry = self._dry + len(part) if last.left == left else 0
            if self._dry > _DRY:
                last.broken = True

    def _stay(self, rest: bytes) -> None:
        """Goes on behind the head of a request that asks for another protocol as if it had not asked.

        The parser stops there, so a new one is made and set to the body that follows. Java's HTTP client asks for
        HTTP/2 with each request, whatever its body.
        """
        self._unserved = False
        self._parser = httptools.HttpRequestParser(self)
        request = self.requests[-1]
        if request.head.length:
            size = b"Transfer-Encoding: chunked" if request.left < 0 else b"Content-Length: %d" % request.left
            self._again = True
            self._parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n\r\n" % size)
            self._again = False
        else:
            request.over = True
        if rest:
            self._parse(rest)

    def _refuse(self, error: Exception) -> None:
        last = self.requests[-1] if self.requests else None
        if last is not None and not last.over:
            last.broken = True
        else:
            self.refusal = unreadable(str(error), self._target)

    def _too_large(self) -> None:
        if self.refusal is None:
            self.refusal = BadHead(431, f"the head is larger than {MAX_HEAD} bytes; send fewer headers")

    # -- what the parser calls ------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._again:
            return
        self._headers, self._target, self._in_head = [], b"", True
        self._headers_size = self._fed = self._chunks = self._dry = 0

    def on_url(self, part: bytes) -> None:
        self._target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head or self.refusal is not None:
            return  # behind the last chunk of a body, where they mean nothing here
        self._headers.append((name.lower(), value.rstrip(b" \t")))
        self._headers_size += len(name) + len(value) + _LINE
        if len(self._headers) > MAX_HEADERS:
            self.refusal = BadHead(431, f"the request has more than {MAX_HEADERS} headers; send fewer")
        elif self._headers_size > MAX_HEAD:
            self._too_large()

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self.refusal is not None or self._again:
            return
        parser = self._parser
        if len(self._target) + self._headers_size > MAX_HEAD:
            self._too_large()
            return
        if len(self.requests) >= MAX_AT_ONCE:
            self.refusal = BadHead(400, f"more than {MAX_AT_ONCE} requests came at once; wait for answers in between")
            return
        try:
            head = read_head(
                parser.get_method(), parser.get_http_version(), self._target, self._headers,
                keep_alive=parser.should_keep_alive(),
            )  # fmt: skip
        except BadHead as error:
            self.refusal = error
            return
        if not head.keep_alive:
            self._known = None  # the parser refuses what comes behind it
        self.requests.append(Request(head))
        self._unserved = parser.should_upgrade()

    def on_chunk_header(self) -> None:
        self._chunks += 1
        if self._chunks > MAX_CHUNKS:
            self.requests[-1].broken = True

    def on_body(self, part: bytes) -> None:
        if self.refusal is None and not self.requests[-1].broken:
            request = self.requests[-1]
            request.parts.append(part)
            request.size += len(part)
            request.left -= len(part)

    def on_message_complete(self) -> None:
        if self.refusal is None and not self._unserved and not self.requests[-1].broken:
            self.requests[-1].over = True
