"""One connection: requests one after another, each a task of its own that runs the ASGI callable."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final, cast

from delaybox.api.rest.edge import Message, Scope
from delaybox.api.rest.http1 import answers
from delaybox.api.rest.http1.chunks import BadChunk, Chunks
from delaybox.api.rest.http1.head import END, MAX_HEAD, BadHead, Head, read_head

if TYPE_CHECKING:
    from delaybox.api.rest.http1.server import Server

_log = logging.getLogger("delaybox.api")

_UNREAD: Final = 64 * 1024
"""Bytes of a body that wait for the callable, or of further requests; then the caller is held back."""
_LINGER_S: Final = 1.0
_LINGER_BYTES: Final = 1024 * 1024
_TLS_HELLO: Final = 0x16
_CLOSE: Final = (b"connection", b"close")
_KEEP: Final = (b"connection", b"keep-alive")


class Connection(asyncio.Protocol):
    """``reserved``: one past the limit of connections; a probe is answered on it, whatever else is refused."""

    __slots__ = (
        "_body_over",
        "_broken",
        "_buffer",
        "_chunks",
        "_closing",
        "_head",
        "_last",
        "_left",
        "_lost",
        "_parts",
        "_reading",
        "_server",
        "_size",
        "_started",
        "_task",
        "_transport",
        "_waiter",
        "_writable",
        "reserved",
    )

    def __init__(self, server: Server) -> None:
        self._server = server
        self._transport: asyncio.Transport = None  # type: ignore[assignment]
        self.reserved = False
        self._buffer = b""
        self._head: Head | None = None
        self._task: asyncio.Task[None] | None = None
        self._parts: list[bytes] = []
        self._size = 0
        self._left = 0
        self._chunks: Chunks | None = None
        self._body_over = True
        self._broken = False
        self._started: Message | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._reading = True
        self._last = False
        self._closing = False
        self._lost = False

    # -- what the event loop calls ------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._server.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._server.closed(self)
        self._wake()
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    def data_received(self, data: bytes) -> None:
        if self._closing:
            # Taken so that no reset overtakes the answer, but not for ever.
            self._size += len(data)
            if self._size > _LINGER_BYTES:
                self._transport.abort()
            return
        if self._task is None:
            fresh = not self._buffer
            searched = max(0, len(self._buffer) - 3)
            self._buffer = data if fresh else self._buffer + data
            if not self._next(searched) and fresh and not self._closing:
                self._server.head_begun(self)
        elif self._body_over:
            self._buffer += data
            self._hold_back(len(self._buffer))
        else:
            self._body(data)
            self._wake()

    def eof_received(self) -> bool:
        # A caller that has sent all it has still wants its answer.
        self._broken = self._broken or not self._body_over
        self._last = True
        self._wake()
        return self._task is not None and not self._closing

    def pause_writing(self) -> None:
        self._writable = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None

    # -- what the server calls ----------------------------------------------------------------------------------

    def end(self) -> None:
        """Closes it if no request is under way, else after that one."""
        if self._task is None:
            self._finish()

    def late(self) -> None:
        """Its time to send a head is over."""
        if self._buffer:
            self._refuse(BadHead(408, "the request's head was not complete in time; send it faster"))
        else:
            self.end()

    def abort(self) -> None:
        """Closes it at once."""
        self._closing = True
        self._transport.abort()

    # -- heads --------------------------------------------------------------------------------------------------

    def _next(self, searched: int = 0) -> bool:
        """Begins the next request, if the buffer holds its head; False when more bytes are needed."""
        buffer = self._buffer
        if searched == 0 and buffer.startswith(b"\r\n"):
            buffer = buffer.lstrip(b"\r\n")  # empty lines before a request are harmless
            if not buffer:
                self._buffer = b""
                return False
        if not 0x41 <= buffer[0] <= 0x5A:
            words = "this is no HTTP/1.1 request; send METHOD /path HTTP/1.1"
            if buffer[0] == _TLS_HELLO:
                words = "this port does not speak TLS; use http:// here, or the proxy that ends TLS"
            self._refuse(BadHead(400, words))
            return True
        end = buffer.find(END, searched, MAX_HEAD + len(END))
        if end < 0:
            if len(buffer) > MAX_HEAD:
                self._refuse(BadHead(431, f"the head is larger than {MAX_HEAD} bytes; send fewer headers"))
                return True
            self._buffer = buffer
            return False
        try:
            head = read_head(buffer[:end])
        except BadHead as error:
            self._refuse(error)
            return True
        if self.reserved and head.raw_path not in self._server.probes:
            self._refuse(
                BadHead(503, "every connection of this node is in use; send it again later", head.path),
                ((b"retry-after", b"1"),),
            )
            return True
        self._server.head_complete(self)
        self._head = head
        self._parts.clear()
        self._size = 0
        self._buffer = b""
        self._body_over = head.length == 0
        self._left = head.length
        self._chunks = Chunks() if head.length < 0 else None
        self._body(buffer[end + len(END) :])
        self._task = asyncio.get_running_loop().create_task(self._serve(head))
        return True

    def _refuse(self, error: BadHead, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        self._server.head_complete(self)
        status, given, body = self._server.refuse(error)
        self._write(status, (*given, *headers, _CLOSE), body)
        self._linger()

    # -- bodies -------------------------------------------------------------------------------------------------

    def _body(self, data: bytes) -> None:
        """Takes bytes of the body, and keeps those behind it."""
        if self._broken:
            return  # nobody knows what they are; the connection ends with the answer
        if self._body_over:
            self._buffer += data
        elif self._chunks is None:
            if len(data) > self._left:
                self._buffer = data[self._left :]
                data = data[: self._left]
            self._left -= len(data)
            self._body_over = not self._left
            self._take(data)
        else:
            try:
                self._take(self._chunks.feed(data))
            except BadChunk:
                self._broken = True
                return
            if self._chunks.over:
                self._body_over = True
                self._buffer = self._chunks.rest

    def _take(self, data: bytes) -> None:
        if data:
            self._parts.append(data)
            self._size += len(data)
            self._hold_back(self._size)

    def _hold_back(self, size: int) -> None:
        if size > _UNREAD and self._reading:
            self._reading = False
            self._transport.pause_reading()

    def _read_on(self) -> None:
        if not self._reading and not self._lost:
            self._reading = True
            self._transport.resume_reading()

    async def _receive(self) -> Message:
        while True:
            if self._lost or self._broken:
                return {"type": "http.disconnect"}
            if self._parts or self._body_over:
                body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
                self._parts.clear()
                self._size = 0
                if not self._body_over:
                    self._read_on()
                return {"type": "http.request", "body": body, "more_body": not self._body_over}
            head = self._head
            if head is not None and head.awaits_continue and self._started is None:
                self._head = head._replace(awaits_continue=False)
                self._transport.write(answers.CONTINUE)
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # -- the request --------------------------------------------------------------------------------------------

    async def _serve(self, head: Head) -> None:
        scope: Scope = {
            "type": "http",
            "method": head.method,
            "path": head.path,
            "raw_path": head.raw_path,
            "query_string": head.query,
            "headers": head.headers,
        }
        whole = False
        try:
            await self._server.app(scope, self._receive, self._send)
            whole = True
        except Exception:  # noqa: BLE001 - a defect: the caller must not wait for ever
            _log.exception("a request failed")
        finally:
            self._task, self._head, self._started = None, None, None
            self._over(head, whole=whole)

    def _over(self, head: Head, *, whole: bool) -> None:
        """A request has been answered: the next one, or the end."""
        if self._lost:
            return
        if not whole:
            self.abort()
        elif self._broken or not self._body_over:
            self._linger()
        elif self._last or not self._stays(head):
            self._finish()
        else:
            self._read_on()
            if not self._buffer:
                self._server.idle(self)
            elif not self._next():
                self._server.head_begun(self)

    def _stays(self, head: Head) -> bool:
        return head.keep_alive and not self.reserved and not self._server.stopping

    async def _send(self, message: Any) -> None:
        started = self._started
        if started is None:
            self._started = message
            return
        head = self._head
        if self._lost or head is None:
            return
        headers = started["headers"]
        if _CLOSE in headers:
            self._last = True
        elif self._broken or not self._body_over or not self._stays(head):
            self._last = True
            headers = [*headers, _CLOSE]
        elif head.is_1_0:
            headers = [*headers, _KEEP]
        self._write(started["status"], headers, b"" if head.method == "HEAD" else message["body"])
        if (waiting := self._writable) is not None:
            done, _ = await asyncio.wait((waiting,), timeout=self._server.write_timeout_s)
            if not done:
                self.abort()

    def _write(self, status: int, headers: Any, body: bytes) -> None:
        self._transport.write(answers.encode(status, headers, self._server.date, body))

    def _finish(self) -> None:
        """Ends the connection when what was written has left, and at the latest after the time to write."""
        self._closing = True
        self._transport.close()
        if self._transport.get_write_buffer_size():
            asyncio.get_running_loop().call_later(self._server.write_timeout_s, self._transport.abort)

    def _linger(self) -> None:
        """Ends the connection when the caller does, or after a moment: a reset would overtake the answer."""
        self._closing = True
        self._buffer = b""
        self._parts.clear()
        self._size = 0
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._read_on()
        asyncio.get_running_loop().call_later(_LINGER_S, self._transport.abort)
