"""A TCP and unix-socket proxy that does to a connection what networks do.

Faults are drawn per chunk of client data with a seeded generator; `Plan` may be swapped while it runs. The one that
matters is ``swallow``: the request is forwarded and executed, its reply never arrives.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

_CHUNK = 65_536
_RST = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s: close() sends RST


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Chances are for each chunk a client sends; at most one of them happens.

    ``swallow``: forward, drop the reply, then close (``hang``: keep the connection open and silent instead).
    ``cut``: forward, pass part of the reply, then RST. ``rst``: RST without forwarding. ``half_close``: forward, then
    end our sending side towards the client only. ``latency_s`` delays each reply; ``split`` passes replies in
    tiny pieces.
    """

    swallow: float = 0.0
    hang: bool = False
    cut: float = 0.0
    rst: float = 0.0
    half_close: float = 0.0
    latency_s: float = 0.0
    jitter_s: float = 0.0
    split: bool = False


CLEAN = Plan()


class Link:
    """One client connection and its upstream."""

    def __init__(self, proxy: Proxy, client: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
        self._proxy = proxy
        self._from_client, self._to_client = client
        self._fate = ""
        self.subscribes = False
        """It carries a subscription."""
        self.gate = asyncio.Event()
        """As the proxy's, of this connection alone."""
        self.gate.set()

    async def run(self) -> None:
        try:
            reader, writer = await self._proxy.connect()
        except OSError:
            _reset(self._to_client)
            return
        pumps = [
            asyncio.create_task(self._requests(writer)),
            asyncio.create_task(self._replies(reader)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            # Before the await: the proxy's close may cancel us there.
            writer.transport.abort()
            if self._fate in ("rst", "cut", "swallow"):
                _reset(self._to_client)
            else:
                self._to_client.close()
            await asyncio.gather(*pumps, return_exceptions=True)

    def abort(self) -> None:
        """RST towards the client, now."""
        _reset(self._to_client)

    async def _requests(self, upstream: asyncio.StreamWriter) -> None:
        while data := await self._from_client.read(_CHUNK):
            self._fate = self._fate or self._proxy.draw()
            if self._fate == "rst":
                return
            self.subscribes = self.subscribes or b"SUBSCRIBE" in data
            await self._proxy.gate.wait()
            await self.gate.wait()
            upstream.write(data)
            await upstream.drain()
            if self._fate == "half_close":
                self._to_client.write_eof()

    async def _replies(self, upstream: asyncio.StreamReader) -> None:
        while data := await upstream.read(_CHUNK):
            plan = self._proxy.plan
            if self._fate == "swallow":
                if plan.hang:
                    continue
                return
            if self._fate == "half_close":
                continue
            if self._fate == "cut":
                self._to_client.write(data[: max(1, len(data) // 2)])
                await self._to_client.drain()
                return
            await self._proxy.gate.wait()
            await self.gate.wait()
            if plan.latency_s or plan.jitter_s:
                await asyncio.sleep(plan.latency_s + plan.jitter_s * self._proxy.random.random())
            step = 7 if plan.split else len(data)
            for at in range(0, len(data), step):
                self._to_client.write(data[at : at + step])
                await self._to_client.drain()
                if plan.split:
                    await asyncio.sleep(0)


class Proxy:
    """Listens on a unix socket or on loopback TCP and forwards to ``upstream``, a path or (host, port)."""

    def __init__(self, upstream: str | tuple[str, int], *, seed: int, plan: Plan = CLEAN) -> None:
        self._upstream = upstream
        self._server: asyncio.Server | None = None
        self._links: set[Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.random = random.Random(seed)
        self.plan = plan
        self.done: Counter[str] = Counter()
        self.gate = asyncio.Event()
        """Cleared: everything is held back in both directions, connections stay open (a cut cable)."""
        self.gate.set()
        self.port = 0

    async def listen_unix(self, path: Path) -> None:
        self._server = await asyncio.start_unix_server(self._accept, str(path))

    async def listen_tcp(self) -> int:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self.port

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self._upstream, str):
            return await asyncio.open_unix_connection(self._upstream)
        return await asyncio.open_connection(*self._upstream)

    def draw(self) -> str:
        """What happens to this chunk's connection: a fate's name, or "" for nothing."""
        plan, x = self.plan, self.random.random()
        for name, chance in (
            ("swallow", plan.swallow),
            ("cut", plan.cut),
            ("rst", plan.rst),
            ("half_close", plan.half_close),
        ):
            if x < chance:
                self.done[name] += 1
                return name
            x -= chance
        return ""

    def lead_to(self, upstream: str | tuple[str, int]) -> None:
        """Where new connections go; those that are open stay where they are (a fail-over)."""
        self._upstream = upstream

    @property
    def subscriptions(self) -> int:
        """How many connections carry one now."""
        return sum(link.subscribes for link in self._links)

    def silence(self, *, subscriptions: bool = False) -> int:
        """Holds back everything on connections that are open now (half-open ones), or on those that carry
        ``subscriptions`` alone; how many there were."""
        chosen = [link for link in self._links if link.subscribes or not subscriptions]
        for link in chosen:
            link.gate.clear()
        return len(chosen)

    def reset_all(self) -> int:
        """RST to every client; how many there were."""
        for link in list(self._links):
            link.abort()
        self.done["rst"] += len(self._links)
        return len(self._links)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for _ in range(3):
            await asyncio.sleep(0)  # transports tell their writers that they closed in later turns of the loop

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = Link(self, (reader, writer))
        task = asyncio.current_task()
        assert task is not None
        self._links.add(link)
        self._tasks.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await link.run()
        finally:
            self._links.discard(link)
            self._tasks.discard(task)


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    if sock is not None and sock.family != socket.AF_UNIX:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
    writer.transport.abort()
