"""One connection: requests one after another, each a task of its own that runs the ASGI callable."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

from delaybox.api.rest.asgi import Message, Scope
from delaybox.api.rest.http1 import answers
from delaybox.api.rest.http1.head import BadHead, Head
from delaybox.api.rest.http1.reader import HttpReader, Request

if TYPE_CHECKING:
    from delaybox.api.rest.http1.server import HttpServer

_log = logging.getLogger("delaybox.api")

_UNREAD: Final = 64 * 1024
"""Most bytes that wait, of a body for the callable or of further requests; with more the caller is held back."""
_LINGER_S: Final = 1.0
_LINGER_BYTES: Final = 1024 * 1024
_CLOSE: Final = (b"connection", b"close")
_OF_PROXIES: Final = frozenset((b"x-forwarded-for", b"forwarded", b"via"))
_KEEP: Final = (b"connection", b"keep-alive")


class HttpConnection(asyncio.Protocol):
    """``reserved``: one past the limit of connections; a probe is answered on it, whatever else is refused."""

    __slots__ = (
        "_awaits_continue", "_client", "_closing", "_eof", "_head", "_last", "_lingered", "_lost", "_reader",
        "_reading", "_request", "_server", "_started", "_streaming", "_task", "_transport", "_waiter", "_writable",
        "reserved",
    )  # fmt: skip

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._transport: asyncio.Transport = None  # type: ignore[assignment]
        self.reserved = False
        self._reader = HttpReader()
        self._request: Request | None = None
        self._head: Head | None = None
        self._awaits_continue = False
        self._task: asyncio.Task[None] | None = None
        self._started: Message | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._reading = True
        self._last = False
        self._eof = False
        self._closing = False
        self._lingered = 0
        self._lost = False
        self._streaming = False
        self._client: tuple[str, int] | None = None

    # -- what the event loop calls ------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        # A unix socket's caller has no address.
        self._client = (peer[0], peer[1]) if isinstance(peer, tuple) else None
        self._server.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._server.closed(self)
        self._reader.close()
        self._wake()
        self.end_stream()
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    def data_received(self, data: bytes) -> None:
        if self._closing:
            # Bytes are read so that no reset overtakes the answer, but not for ever.
            self._lingered += len(data)
            if self._lingered > _LINGER_BYTES:
                self._transport.abort()
            return
        reader = self._reader
        fresh = not reader.in_head
        reader.feed(data)
        request = self._request
        if request is None:
            if not self._next() and fresh and reader.in_head:
                self._server.head_begun(self)
            request = self._request
        else:
            self._wake()
        if request is not None and self._reading and request.size + reader.waiting > _UNREAD:
            self._reading = False
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        # A caller that has closed its sending side still wants its answer.
        if self._request is not None and not self._request.over:
            self._request.broken = True
        self._eof = True
        self._wake()
        # One that reads a stream has nothing more to send: where it closes, it is gone.
        return self._request is not None and not self._closing and not self._streaming

    def pause_writing(self) -> None:
        self._writable = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None

    # -- what the server calls ----------------------------------------------------------------------------------

    @property
    def proxied(self) -> bool:
        """Whether the last request came through a proxy, which sends those of many callers over one connection."""
        return self._head is not None and any(name in _OF_PROXIES for name, _ in self._head.headers)

    def end(self) -> None:
        """Closes the connection if no request is under way, else after that request."""
        if self._request is None:
            self._finish()

    def end_stream(self) -> None:
        """Ends an answer that is sent in parts, without which it would go on for ever."""
        if self._streaming and self._task is not None:
            self._task.cancel()

    def late(self) -> None:
        """The caller's time to send a head is over."""
        if self._reader.in_head:
            self._refuse(BadHead(408, "the request's head was not complete in time; send it faster"))
        else:
            self.end()

    def abort(self) -> None:
        """Closes it at once."""
        self._closing = True
        self._transport.abort()

    # -- requests, one after another ----------------------------------------------------------------------------

    def _next(self) -> bool:
        """Begins the next request, or refuses bytes that are none; False when more bytes are needed."""
        reader = self._reader
        if not reader.requests:
            if reader.refusal is None:
                return False
            self._refuse(reader.refusal)
            return True
        request = reader.requests[0]
        if self.reserved and request.head.raw_path not in self._server.probes:
            self._refuse(
                BadHead(503, "every connection of this node is in use; send it again later", request.head.path),
                ((b"retry-after", b"1"),),
            )
            return True
        self._server.head_complete(self)
        self._request = request
        self._head = request.head
        if self._eof and not request.over:
            request.broken = True
        self._awaits_continue = request.head.awaits_continue
        if request.over and self._server.quick is not None:
            body = request.parts[0] if len(request.parts) == 1 else b"".join(request.parts)
            if self._server.quick(request.head, body, partial(self._reply, request)):
                request.parts.clear()
                request.size = 0
                return True
        self._task = asyncio.get_running_loop().create_task(self._serve(request))
        return True

    def _refuse(self, error: BadHead, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        self._server.head_complete(self)
        status, given, body = self._server.refuse(error)
        self._write(status, (*given, *headers, _CLOSE), body)
        self._linger()

    def _read_on(self) -> None:
        if not self._reading and not self._lost:
            self._reading = True
            self._transport.resume_reading()

    async def _receive(self) -> Message:
        request = self._request
        while True:
            if self._lost or request is None or request.broken:
                return {"type": "http.disconnect"}
            if request.parts or request.over:
                body = request.parts[0] if len(request.parts) == 1 else b"".join(request.parts)
                request.parts.clear()
                request.size = 0
                if not request.over:
                    self._read_on()
                return {"type": "http.request", "body": body, "more_body": not request.over}
            if self._awaits_continue and self._started is None:
                self._awaits_continue = False
                self._transport.write(answers.CONTINUE)
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _serve(self, request: Request) -> None:
        head = request.head
        scope: Scope = {
            "type": "http",
            "method": head.method,
            "path": head.path,
            "raw_path": head.raw_path,
            "query_string": head.query,
            "headers": head.headers,
            "client": self._client,
        }
        whole = False
        try:
            await self._server.app(scope, self._receive, self._send)
            whole = True
        except Exception:  # noqa: BLE001 - a defect: the caller must not wait for ever
            _log.exception("a request failed")
        finally:
            self._task, self._request, self._started = None, None, None
            self._over(request, whole=whole)

    def _over(self, request: Request, *, whole: bool) -> None:
        """A request has been answered: begins the next one, or ends the connection."""
        if self._lost:
            return
        reader = self._reader
        if self._streaming:
            self._finish()
        elif not whole:
            self.abort()
        elif not request.over:
            self._linger()
        elif self._last or not self._stays(request.head):
            self._finish()
        else:
            reader.requests.popleft()
            if reader.waiting and not reader.requests:
                reader.feed()
            self._read_on()
            if not self._next():
                if self._eof:
                    self._finish()
                elif reader.in_head:
                    self._server.head_begun(self)
                else:
                    self._server.idle(self)

    def _stays(self, head: Head) -> bool:
        return head.keep_alive and not self.reserved and not self._server.stopping

    async def _send(self, message: Any) -> None:
        started = self._started
        if started is None:
            self._started = message
            return
        request = self._request
        if self._lost or request is None:
            return
        if "more_body" in message:
            await self._send_part(started, message["body"])
            return
        self._answer(request, started["status"], started["headers"], message["body"])
        if self._writable is not None:
            await self._drained()

    def _reply(self, request: Request, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        """Answers a request that has no task, and goes on."""
        if self._lost or self._request is not request:
            return
        self._answer(request, status, headers, body)
        if self._writable is not None:
            self._task = asyncio.get_running_loop().create_task(self._go_on(request))
            return
        self._request = None
        self._over(request, whole=True)

    async def _go_on(self, request: Request) -> None:
        await self._drained()
        self._task, self._request = None, None
        self._over(request, whole=True)

    def _answer(self, request: Request, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        head = request.head
        if _CLOSE in headers:
            self._last = True
        elif not request.over or not self._stays(head):
            self._last = True
            headers = [*headers, _CLOSE]
        elif head.is_1_0:
            headers = [*headers, _KEEP]
        self._write(status, headers, b"" if head.method == "HEAD" else body)

    async def _send_part(self, started: Message, body: bytes) -> None:
        """Sends a part of an answer whose length nobody knows: the end of the connection ends it. Of a server that
        stops the caller gets one part, which says where to go on."""
        if self._streaming:
            self._transport.write(body)
        else:
            self._streaming = True
            self._write(started["status"], [*started["headers"], _CLOSE], body)
        if self._writable is not None:
            await self._drained()
        if self._server.stopping:
            self.end_stream()

    async def _drained(self) -> None:
        """Returns when the caller has taken enough of what was sent, at the latest after the time to write."""
        if (waiting := self._writable) is not None:
            done, _ = await asyncio.wait((waiting,), timeout=self._server.write_timeout_s)
            if not done:
                self.abort()

    def _write(self, status: int, headers: Any, body: bytes) -> None:
        self._transport.write(answers.encode(status, headers, self._server.date, body))

    def _finish(self) -> None:
        """Ends the connection when everything was sent, and at the latest after the time to write."""
        self._closing = True
        self._transport.close()
        if self._transport.get_write_buffer_size():
            asyncio.get_running_loop().call_later(self._server.write_timeout_s, self._transport.abort)

    def _linger(self) -> None:
        """Ends the connection when the caller does, or after a moment, because a reset could overtake the answer."""
        self._closing = True
        self._reader.close()
        if self._transport.can_write_eof():
            with contextlib.suppress(OSError):  # the caller is gone already
                self._transport.write_eof()
        self._read_on()
        asyncio.get_running_loop().call_later(_LINGER_S, self._transport.abort)
