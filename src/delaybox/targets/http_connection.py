"""One HTTP/1.1 connection of the webhook client: writes a request, reads the answer within bounds."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final, NamedTuple, cast

import httptools

MAX_HEAD: Final = 64 * 1024
"""Bytes of an answer before its body; more is an error."""
_FRAMING: Final = 8
"""So many bytes may come for each byte of a body: chunks of one byte need six. Endless trailers are cut off by it."""


class AnswerBroken(Exception):
    """No whole answer came. ``silent``: not one byte of it."""

    def __init__(self, reason: str, *, silent: bool = False) -> None:
        super().__init__(reason)
        self.silent = silent


class HttpAnswer(NamedTuple):
    """What a server answered. ``headers``: names in lower case; ``truncated``: the body was cut at the limit."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    truncated: bool = False


class Connection(asyncio.Protocol):
    """Carries one request at a time. ``ended`` is called when it can carry no more."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._future: asyncio.Future[HttpAnswer] | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self.used = False
        self.open = False
        self.idle_since = 0.0

    @property
    def peer(self) -> str:
        """The address at the other end."""
        assert self._transport is not None
        name = self._transport.get_extra_info("peername")
        return str(name[0]) if name else ""

    def request(self, data: bytes, max_body: int, *, head: bool = False) -> asyncio.Future[HttpAnswer]:
        """Sends a whole request; the future ends with its answer or AnswerBroken. ``head``: its method is HEAD."""
        assert self._transport is not None and self._future is None
        self._future = asyncio.get_running_loop().create_future()
        self._max_body = max_body
        self._head = head
        self._again()
        self._received = 0
        self.used = True
        self._transport.write(data)
        return self._future

    def close(self) -> None:
        """At once; whatever was not sent is dropped."""
        self.open = False
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass of it
        self.open = True

    def data_received(self, data: bytes) -> None:
        if self._future is None or self._parser is None:
            self.close()  # nobody asked for anything
            return
        self._received += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._fail("the server wants to change the protocol")
        except httptools.HttpParserError:
            self._fail("the answer is not HTTP/1.1")
        else:
            if self._received > MAX_HEAD + _FRAMING * self._size and self._future is not None:
                what = "framing" if self._has_head else "head"
                self._fail(f"the answer's {what} is longer than {MAX_HEAD} bytes")

    def connection_lost(self, error: Exception | None) -> None:
        self.open = False
        if self._future is None:
            return
        if self._has_head and not self._framed:
            self._finish()  # the end of the connection is the end of the body
            return
        why = "the connection was closed before the answer" + (" was complete" if self._received else "")
        self._fail(why, silent=not self._received)

    # What the parser calls.

    def on_message_begin(self) -> None:
        if self._future is None:
            self.close()  # a second answer to one request: what comes next cannot be told apart any more

    def on_header(self, name: bytes, value: bytes) -> None:
        key = name.decode("latin-1").lower()
        self._headers.setdefault(key, []).append(value.decode("latin-1"))

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        self._status = self._parser.get_status_code()
        if self._status < 200:
            return
        self._has_head = True
        coding = self._headers.get("transfer-encoding", ())
        self._framed = "content-length" in self._headers or any("chunked" in one for one in coding)
        if self._head:
            # The parser does not know that the answer to HEAD has no body, whatever its length says.
            self.open = False
            self._finish()

    def on_body(self, body: bytes) -> None:
        if self._future is None:
            return
        self._size += len(body)
        if self._size <= self._max_body:
            self._body += body
            return
        self._body += body[: len(body) - (self._size - self._max_body)]
        self._cut = True
        self.open = False
        self._finish()

    def on_message_complete(self) -> None:
        if self._future is None:
            return
        if self._status < 200:
            self._headers.clear()  # 100 and 103 come before the answer
            return
        assert self._parser is not None
        if not self._parser.should_keep_alive():
            self.open = False
        self._finish()

    def _again(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[str, list[str]] = {}
        self._body = bytearray()
        self._size = 0
        self._status = 0
        self._has_head = False
        self._framed = True
        self._cut = False

    def _finish(self) -> None:
        future, self._future = self._future, None
        body, self._body = bytes(self._body), bytearray()
        if future is not None and not future.done():
            headers = {name: ", ".join(values) for name, values in self._headers.items()}
            future.set_result(HttpAnswer(self._status, headers, body, self._cut))
        if not self.open:
            self.close()

    def _fail(self, reason: str, *, silent: bool = False) -> None:
        future, self._future = self._future, None
        if future is not None and not future.done():
            future.set_exception(AnswerBroken(reason, silent=silent))
        self.close()
