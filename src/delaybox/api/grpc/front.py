"""Stands in front of grpc's core: accepts connections (and TLS), and counts what comes before it reaches the core.

Each connection is passed on to the core's socket in a folder that nobody else may enter. A connection is *known* as
soon as one of its calls was allowed by its token. Until then it may hold little, and the oldest unknown ones make room
for new ones. So callers without a token can neither fill the memory nor lock others out.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import sys
import time
from collections.abc import Callable
from typing import Any

from delaybox.api.grpc.frames import MOST_FRAMES, MOST_STREAMS, Totals, Traffic, Violation
from delaybox.processes.waking import together
from delaybox.service import arrivals

_log = logging.getLogger("delaybox.grpc")

MAX_CONNECTIONS = 4_000
MAX_UNKNOWN = 500
"""Most unknown connections: those of which no call was allowed yet."""
UNKNOWN_BYTES = 64 * 1024
"""Most bytes of all open streams of an unknown connection. A call with a token makes it known before more has come."""
UNKNOWN_STREAMS = 10
"""Most open calls of an unknown connection. More would wait in the core, uncounted, before the calls of others."""
FIRST_FRAMES = 200
UNKNOWN_FRAMES = 1_000
"""Calls a second of an unknown connection after its first ones: each costs CPU time, even if it is refused."""
ALL_UNKNOWN_FRAMES = 20_000
"""Calls a second of all unknown connections together; they get equal shares."""
UNFINISHED_BYTES = 256 << 20
"""Most bytes of messages that have arrived in part, over all connections; past it the connection with most is
closed."""
GREETING_S = 10.0
_LATER_S = 2.0
"""A call whose message is not complete in time ends first, with a status; then the connection does."""
_LOOK_S = 1.0
_QUIET_S = 10.0
_CONNECT_TRIES = 200
_DRAIN_LOOKS, _DRAIN_LOOK_S = 50, 0.01


class Front:
    """``path``: the core's socket; ``limit``: bytes that a message may have; ``message_s``: in which it is complete."""

    def __init__(
        self, path: str, limit: int, message_s: float, *, tls: ssl.SSLContext | None = None, connections: int
    ) -> None:
        self.path = path
        self.limit = limit
        self.message_s = message_s
        self.totals = Totals(arrivals.here.came)
        most = min(connections, MAX_CONNECTIONS)
        self._most_unknown = min(MAX_UNKNOWN, most // 2)
        self._most_known = most - self._most_unknown
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._known: set[_Caller] = set()
        self._unknown: dict[_Caller, None] = {}
        self._by_name: dict[str, _Caller] = {}
        self._looking: asyncio.TimerHandle | None = None
        self.ending = False
        self._closed: dict[str, int] = {}
        self._warned_at = 0.0

    async def start(self, sock: socket.socket) -> None:
        """Takes connections from a listening socket."""
        loop = asyncio.get_running_loop()
        timeouts: dict[str, Any] = {} if self._tls is None else {"ssl_handshake_timeout": GREETING_S}
        self._server = await loop.create_server(
            lambda: _Caller(self), sock=sock, backlog=1_024, ssl=self._tls, **timeouts
        )
        self._look()

    def refuse(self) -> None:
        """Takes no more connections. Harmless when repeated."""
        if self._server is not None:
            self._server.close()

    async def drain(self, running: Callable[[], int]) -> None:
        """Takes no more connections and no more calls. Returns when the calls that the core got have begun, at the
        latest after half a second. ``running``: how many run, of all connections."""
        self.refuse()
        self.ending = True
        for caller in (*self._known, *self._unknown):
            caller.traffic.take_no_more()
        for _ in range(_DRAIN_LOOKS):
            if running() >= sum(caller.traffic.open for caller in (*self._known, *self._unknown)):
                return
            await asyncio.sleep(_DRAIN_LOOK_S)

    def stop(self) -> None:
        """Ends all connections. Harmless when repeated."""
        self.refuse()
        if self._looking is not None:
            self._looking.cancel()
        for caller in (*self._known, *self._unknown):
            caller.abort()

    def know(self, peer: str) -> None:
        """Notes that a call was allowed, of the connection that the core knows by this name."""
        caller = self._by_name.get(peer)
        if caller is not None and caller in self._unknown:
            if len(self._known) >= self._most_known:
                self.end(caller, f"because {self._most_known} are open whose calls were allowed")
                return
            del self._unknown[caller]
            self._known.add(caller)
            caller.become_known()

    # -- for the connections --------------------------------------------------------------------------------------

    def enter(self, caller: _Caller) -> None:
        """Counts a new connection. There is always room for another unknown one, because probes are unknown."""
        if len(self._unknown) >= self._most_unknown:
            self.end(next(iter(self._unknown)), "to make room, before any call of theirs was allowed")
        self._unknown[caller] = None

    def name(self, caller: _Caller, name: str) -> None:
        """The core's name for the connection; empty where it has none."""
        if name:
            self._by_name[name] = caller
        else:
            self._unknown.pop(caller, None)
            self._known.add(caller)
            caller.become_known()

    def leave(self, caller: _Caller) -> None:
        """The connection is gone."""
        self._unknown.pop(caller, None)
        self._known.discard(caller)
        if self._by_name.get(caller.name) is caller:
            del self._by_name[caller.name]

    def heed_totals(self) -> None:
        """Closes the connection that holds most when all together hold too much."""
        if self.totals.unfinished > UNFINISHED_BYTES:
            most = max((*self._known, *self._unknown), key=lambda caller: caller.traffic.unfinished)
            self.end(most, f"for unfinished messages of more than {UNFINISHED_BYTES >> 20} MiB in all")

    def end(self, caller: _Caller, why: str) -> None:
        """Closes a connection for what its caller does."""
        self._closed[why] = self._closed.get(why, 0) + 1
        caller.abort()
        now = time.monotonic()
        if now - self._warned_at >= _QUIET_S:
            self._warned_at = now
            for reason, count in self._closed.items():
                _log.warning("closed %d connections %s", count, reason)
            self._closed.clear()

    def _look(self) -> None:
        now = time.monotonic()
        for caller in (*self._known, *self._unknown):
            why = caller.overdue(now)
            if why:
                self.end(caller, why)
        share = min(UNKNOWN_FRAMES, ALL_UNKNOWN_FRAMES // max(1, len(self._unknown)))
        for caller in tuple(self._unknown):
            caller.allow(share)
        loop = asyncio.get_running_loop()
        self._looking = loop.call_at(together(loop.time(), _LOOK_S), self._look)


class _Caller(asyncio.Protocol):
    """A connection from outside."""

    def __init__(self, front: Front) -> None:
        self._front = front
        self.traffic = Traffic(front.totals, front.limit, time.monotonic)
        self.traffic.most_streams = UNKNOWN_STREAMS
        self.traffic.frames = FIRST_FRAMES
        if front.ending:
            self.traffic.take_no_more()
        self.known = False
        self.name = ""
        self._transport: Any = None
        self._core: _Core | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._since = time.monotonic()
        self._still = True
        self._slow_core = False
        self._over_since = 0.0
        self._early = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._front.enter(self)
        self._transport.pause_reading()
        self._connecting = asyncio.ensure_future(self._connect())

    async def _connect(self) -> None:
        sock: socket.socket | None = None
        try:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.setblocking(False)
            if sys.platform == "linux":
                sock.bind("")  # the kernel makes a name, by which the core distinguishes connections
                self.name = "unix-abstract:" + sock.getsockname()[1:].decode()
            for _ in range(_CONNECT_TRIES):
                try:
                    sock.connect(self._front.path)
                    break
                except BlockingIOError:  # the core has not taken the last ones yet
                    await asyncio.sleep(0.02)
            loop = asyncio.get_running_loop()
            self._front.name(self, self.name)
            _, self._core = await loop.create_unix_connection(lambda: _Core(self), sock=sock)
        except OSError as error:
            if sock is not None:
                sock.close()
            _log.warning("a connection could not be passed on: %s", error)
            self.abort()
            return
        if self._transport.is_closing():
            self._front.leave(self)
            self._core.abort()
            self._core = None
            return
        early, self._early = self._early, b""
        if early:
            self.data_received(early)
        self.heed()

    def data_received(self, data: bytes) -> None:
        core = self._core
        if core is None:
            self._early += data  # uvloop reads once more after reading was paused
            return
        try:
            onward = self.traffic.from_caller(data)
        except Violation as error:
            self._front.end(self, f"whose caller is no gRPC client: {error}")
            return
        if onward:
            core.write(onward)
        back = self.traffic.give_back()
        if back:
            self._transport.write(back)
        if self._over() != bool(self._over_since):
            self.heed()
        if self.traffic.unfinished:
            self._front.heed_totals()

    def from_core(self, data: bytes) -> None:
        """Passes on what the core sends."""
        if self._transport.is_closing():
            return  # the caller is gone, and the end of its connection is on its way to the core
        self._transport.write(self.traffic.from_core(data))
        if self._over_since:
            self._go_on()

    def become_known(self) -> None:
        """A call of this connection was allowed."""
        self.known = True
        self.traffic.most_streams = MOST_STREAMS
        self.traffic.frames = MOST_FRAMES
        self._go_on()

    def allow(self, frames: int) -> None:
        """The connection may start this many more calls."""
        self.traffic.frames = frames
        if self.traffic.waiting:
            self._go_on()

    def _go_on(self) -> None:
        if self.traffic.waiting and self._core is not None and not self._transport.is_closing():
            self.data_received(b"")
        self.heed()

    def _over(self) -> bool:
        return self.traffic.waiting or (not self.known and self.traffic.held > UNKNOWN_BYTES)

    def heed(self) -> None:
        """Reads on or pauses: the core must keep up, and an unknown caller's calls must end before it may start
        more."""
        over = self._over()
        if over != bool(self._over_since):
            self._over_since = time.monotonic() if over else 0.0
        still = over or self._slow_core or self._core is None
        if still != self._still and not self._transport.is_closing():
            self._still = still
            if still:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    def overdue(self, now: float) -> str:
        """Why the connection must be closed; empty where it need not."""
        if not self.traffic.greeted and now - self._since > GREETING_S:
            return f"that did not begin within {GREETING_S:.0f} s"
        if now - self.traffic.oldest() > self._front.message_s + _LATER_S:
            return f"whose messages were not complete within {self._front.message_s:g} s"
        if self._over_since and now - self._over_since > self._front.message_s:
            most = f"{UNKNOWN_BYTES >> 10} KiB, {UNKNOWN_STREAMS} calls or {UNKNOWN_FRAMES} frames a second"
            return f"with more than {most} before any call was allowed"
        return ""

    def core_is_slow(self, slow: bool) -> None:
        self._slow_core = slow
        self.heed()

    def pause_writing(self) -> None:
        if self._core is not None:
            self._core.read_on(False)

    def resume_writing(self) -> None:
        if self._core is not None:
            self._core.read_on(True)

    def connection_lost(self, exc: Exception | None) -> None:
        self.traffic.close()
        self._front.leave(self)
        # The two connections refer to each other and hold buffers; the garbage collector would free them too late.
        core, self._core, self._early = self._core, None, b""
        if core is not None:
            core.close()

    def close(self) -> None:
        """Closes it after what is still to be written."""
        self._transport.close()

    def abort(self) -> None:
        """Closes it at once, and drops what it held."""
        self._front.leave(self)
        self.traffic.close()
        self._transport.abort()


class _Core(asyncio.Protocol):
    """The connection to the core that belongs to one from outside."""

    def __init__(self, caller: _Caller) -> None:
        self._caller = caller
        self._transport: Any = None
        self.data_received = caller.from_core  # type: ignore[method-assign]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self.write: Callable[[bytes], None] = self._transport.write

    def read_on(self, on: bool) -> None:
        with contextlib.suppress(RuntimeError):
            if on:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def pause_writing(self) -> None:
        self._caller.core_is_slow(True)

    def resume_writing(self) -> None:
        self._caller.core_is_slow(False)

    def connection_lost(self, exc: Exception | None) -> None:
        self._caller.close()

    def close(self) -> None:
        self._transport.close()

    def abort(self) -> None:
        self._transport.abort()
