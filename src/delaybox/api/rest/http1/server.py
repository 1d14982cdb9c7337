"""The listening socket and all its connections: how many, for how long, and which goes when there are too many.

A connection is *waiting* until its first head is complete and from the first byte of each further one, then *under
way*, then *idle*. Past the limit the one that has waited longest is closed for a new one, else the one that was idle
longest. Where all are under way, new ones are *reserved*: on these a probe is answered, and everything else gets 503 at
once. So callers who hold every connection do not block probes, and while they send nothing, no other caller either.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from typing import Final

from delaybox.api.rest.asgi import Receive, Scope, Send
from delaybox.api.rest.http1.connection import HttpConnection
from delaybox.api.rest.http1.head import BadHead, Head
from delaybox.processes.waking import together

RESERVE: Final = 256
_RESERVED_S: Final = 2.0
_TICK_S: Final = 1.0
_PARTING_S: Final = 0.5
"""How long a server that stops goes on answering what comes over open connections. A proxy that sends a request while
its connection is closed gets no answer, and may not send a POST again; so each is asked to close, by an answer."""
_PROXY_S: Final = 4.0
"""The same on connections of a proxy. It has many and uses each now and then, so which request meets the end is chance,
unless the proxy closes them: deploy/nginx does when one was idle for two seconds."""

App = Callable[[Scope, Receive, Send], Awaitable[None]]
Reply = Callable[[int, list[tuple[bytes, bytes]], bytes], None]
"""Sends a request's answer: status, headers and body. Called once."""
Quick = Callable[[Head, bytes, Reply], bool]
"""Takes a request that came whole and answers it later, or leaves it to the ASGI callable: False."""
RefusedHead = tuple[int, tuple[tuple[bytes, bytes], ...], bytes]
"""Status, headers and body."""


class HttpServer:
    """``app``: the ASGI callable. ``refuse`` makes the answer to bytes that are no request. ``probes``: their paths, as
    sent.

    ``quick``: is offered each request that came whole before the callable, which costs a task and several coroutines.
    ``most``: connections, beside the ``reserve``. ``head_s``: from the opening, or the first byte of a further head, to
    its end. ``idle_s``: between requests. ``write_timeout_s``: for a caller to take an answer.
    """

    def __init__(
        self,
        app: App,
        refuse: Callable[[BadHead], RefusedHead],
        *,
        probes: frozenset[bytes],
        quick: Quick | None = None,
        most: int,
        reserve: int = RESERVE,
        head_s: float,
        idle_s: float,
        write_timeout_s: float = 30.0,
    ) -> None:
        self.app = app
        self.refuse = refuse
        self.quick = quick
        self.probes = probes
        self.write_timeout_s = write_timeout_s
        self.stopping = False
        self.date = b""
        self._most = most
        self._reserve = reserve
        self._head_s = head_s
        self._idle_s = idle_s
        self._open: set[HttpConnection] = set()
        # The moment by which each must have gone on. All of one kind get the same time, so each is in the order of
        # these moments.
        self._waiting: dict[HttpConnection, float] = {}
        self._idle: dict[HttpConnection, float] = {}
        self._reserved: dict[HttpConnection, float] = {}
        self._tick_s = min(_TICK_S, head_s / 4)
        self._ticking: asyncio.TimerHandle | None = None
        self._server: asyncio.Server | None = None
        self._listening: socket.socket | None = None
        self._empty = asyncio.Event()

    async def start(self, listening: socket.socket, backlog: int) -> None:
        """Serves a socket that is bound."""
        self._tick()
        self._listening = listening.dup()
        self._listening.setblocking(False)
        self._server = await asyncio.get_running_loop().create_server(
            lambda: HttpConnection(self), sock=listening, backlog=backlog
        )

    async def stop(self, grace_s: float) -> None:
        """Accepts no more connections; returns when the requests under way are answered, at the latest after the
        grace. Each answer closes its connection; one on which nothing comes for a moment is closed without, and a
        proxy's only after the time in which the proxy itself closes what it does not use."""
        self.stopping = True
        ends = time.monotonic() + grace_s
        if self._server is not None:
            self._server.close()
        await self._accept_the_last()
        if self._waiting or self._idle:
            await self._emptied(min(_PARTING_S, grace_s))
        for connection in tuple(self._open):
            connection.end_stream()
        if self._end_unused(lambda connection: not connection.proxied):
            await self._emptied(min(_PROXY_S, ends - time.monotonic()))
        self._end_unused(lambda _: True)
        if not await self._emptied(max(0.0, ends - time.monotonic())):
            for connection in tuple(self._open):
                connection.abort()
        if self._ticking is not None:
            self._ticking.cancel()

    def _end_unused(self, which: Callable[[HttpConnection], bool]) -> bool:
        """Closes those on which no request is under way; True where some were left."""
        unused = (*self._waiting, *self._idle, *self._reserved)
        ended = [connection for connection in unused if which(connection)]
        for connection in ended:
            connection.end()
        return len(ended) < len(unused)

    async def _accept_the_last(self) -> None:
        """Accepts what has been waiting in the backlog: closing the socket would reset it."""
        if self._listening is None:
            return
        loop = asyncio.get_running_loop()
        with self._listening as listening, contextlib.suppress(OSError):  # BlockingIOError: none is left
            while True:
                accepted, _ = listening.accept()
                accepted.setblocking(False)
                await loop.connect_accepted_socket(lambda: HttpConnection(self), accepted)
        self._listening = None

    async def _emptied(self, within_s: float) -> bool:
        """Waits until no connection is open, at most so long."""
        if not self._open:
            return True
        try:
            await asyncio.wait_for(self._empty.wait(), within_s)
        except TimeoutError:
            return False
        return True

    # -- called by connections ------------------------------------------------------------------------------------

    def opened(self, connection: HttpConnection) -> None:
        """Adds a connection. Where there are too many, another one is closed or this one is reserved."""
        now = time.monotonic()
        self._open.add(connection)
        self._empty.clear()
        if len(self._open) - len(self._reserved) <= self._most:
            self._waiting[connection] = now + self._head_s
            return
        victim = next(iter(self._waiting), None) or next(iter(self._idle), None)
        if victim is not None:
            self._forget(victim)
            victim.abort()
            self._waiting[connection] = now + self._head_s
            return
        connection.reserved = True
        self._reserved[connection] = now + _RESERVED_S
        if len(self._reserved) > self._reserve:
            oldest = next(iter(self._reserved))
            self._forget(oldest)
            oldest.abort()

    def closed(self, connection: HttpConnection) -> None:
        """The connection is gone."""
        self._forget(connection)
        self._open.discard(connection)
        if self.stopping and not self._open:
            self._empty.set()

    def head_begun(self, connection: HttpConnection) -> None:
        """Bytes of a further head have come, and not all."""
        self._idle.pop(connection, None)
        if connection not in self._waiting and not connection.reserved:
            self._waiting[connection] = time.monotonic() + self._head_s

    def head_complete(self, connection: HttpConnection) -> None:
        """A request is under way."""
        if self._idle.pop(connection, None) is None:
            self._waiting.pop(connection, None)

    def idle(self, connection: HttpConnection) -> None:
        """The connection's request is answered."""
        self._idle[connection] = time.monotonic() + self._idle_s

    def _forget(self, connection: HttpConnection) -> None:
        self._waiting.pop(connection, None)
        self._idle.pop(connection, None)
        self._reserved.pop(connection, None)

    # -- time ---------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        self.date = b"date: %b\r\n" % formatdate(usegmt=True).encode()
        now = time.monotonic()
        for group in (self._waiting, self._idle, self._reserved):
            late = []
            for connection, until in group.items():
                if until > now:
                    break
                late.append(connection)
            for connection in late:
                group.pop(connection, None)
                connection.late()
        loop = asyncio.get_running_loop()
        self._ticking = loop.call_at(together(loop.time(), self._tick_s), self._tick)
