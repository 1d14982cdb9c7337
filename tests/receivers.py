"""A real HTTP server for webhooks, on a thread of its own: it keeps what it received and answers as a test wishes."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import NamedTuple

from tests.waiting import PATIENCE_S, until


class Received(NamedTuple):
    """One request. ``headers``: names in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


Reply = Callable[[Received, asyncio.StreamWriter], Awaitable[None]]


def reply(status: int, body: bytes = b"", **headers: str) -> bytes:
    """An answer; ``retry_after`` in the arguments is the header retry-after."""
    lines = [f"HTTP/1.1 {status} x", f"content-length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Receiver:
    """``answers``: by path, bytes or a coroutine function that writes the answer; other paths get 200."""

    def __init__(self, tls: ssl.SSLContext | None = None, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self.host = host
        self.port = port
        self.requests: list[Received] = []
        self.connections = 0
        self.answers: dict[str, bytes | list[bytes] | Reply] = {}
        self._tls = tls
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def url(self, path: str = "/", host: str = "127.0.0.1") -> str:
        return f"http{'s' if self._tls else ''}://{host}:{self.port}{path}"

    def to(self, path: str) -> list[Received]:
        """The requests to a path."""
        return [one for one in self.requests if one.path == path]

    def wait(self, path: str, count: int = 1) -> list[Received]:
        """The requests to a path, once there are so many."""
        return until(lambda: found if len(found := self.to(path)) >= count else None, about=lambda: self.requests)

    def start(self) -> None:
        self._thread.start()
        self._ready.wait(30)

    def stop(self) -> None:
        """Twice is harmless."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join(PATIENCE_S)

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        self._stopping = asyncio.Event()
        self.open: set[asyncio.Task[None]] = set()
        server = await asyncio.start_server(self._carry, self.host, self.port, ssl=self._tls)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stopping.wait()
        server.close()
        for task in self.open:
            task.cancel()
        await asyncio.gather(*self.open, return_exceptions=True)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.open.add(task)
        self.connections += 1
        try:
            while await self._one(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self.open.discard(task)
            writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        line = (await reader.readline()).decode()
        if not line:
            return False
        method, path, _ = line.split()
        headers = {}
        while head := (await reader.readline()).decode("latin-1").rstrip("\r\n"):
            name, _, value = head.partition(":")
            headers[name.lower()] = value.strip()
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        got = Received(method, path, headers, body)
        self.requests.append(got)
        answer = self.answers.get(path, reply(200, b"ok"))
        if isinstance(answer, list):
            answer = answer.pop(0) if len(answer) > 1 else answer[0]
        if isinstance(answer, bytes):
            writer.write(answer)
            await writer.drain()
            return True
        await answer(got, writer)
        return False


@contextlib.contextmanager
def receiver(tls: ssl.SSLContext | None = None, *, host: str = "127.0.0.1", port: int = 0) -> Iterator[Receiver]:
    """A running receiver."""
    found = Receiver(tls, host=host, port=port)
    found.start()
    try:
        yield found
    finally:
        found.stop()
