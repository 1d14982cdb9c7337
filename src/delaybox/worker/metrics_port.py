"""The port of a worker's probes and metrics: a small HTTP server in a thread of its own, so that it answers while a
function keeps the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import http
import threading
from collections.abc import Callable
from typing import Final

from delaybox.processes.sockets import bind, bracketed, port_of

_PATIENCE_S: Final = 5.0
_MOST_HEAD: Final = 8 << 10
_MOST_CALLERS: Final = 64
_BACKLOG: Final = 64
TEXT: Final = "text/plain; charset=utf-8"

Answer = tuple[int, str, bytes]
"""Status, content type, body."""


class MetricsPort:
    """Answers GET and HEAD on one address from `start` to `stop`. CannotListen when it is made.

    ``answer``: called with the path and the header ``Accept``, in the thread of the port; None: there is no such path.
    """

    def __init__(self, host: str, port: int, answer: Callable[[str, str], Answer | None]) -> None:
        self._socket = bind(host, port, _BACKLOG, option="--metrics-port")
        self.address = f"{bracketed(host)}:{port_of(self._socket)}"
        self._answer = answer
        self._loop = asyncio.new_event_loop()
        self._over = asyncio.Event()
        self._callers: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._run, name="delaybox-metrics-port", daemon=True)

    def start(self) -> None:
        """Begins to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Closes the port. Twice is harmless."""
        if self._thread.is_alive():
            with contextlib.suppress(RuntimeError):  # it has just ended
                self._loop.call_soon_threadsafe(self._over.set)
            self._thread.join(_PATIENCE_S)

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._accept, sock=self._socket, limit=_MOST_HEAD)
        await self._over.wait()
        server.close()
        for caller in self._callers:
            caller.cancel()
        if self._callers:
            await asyncio.wait(self._callers)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._callers.add(task)
        task.add_done_callback(self._callers.discard)
        try:
            if len(self._callers) <= _MOST_CALLERS:
                async with asyncio.timeout(_PATIENCE_S):
                    await self._one(reader, writer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # a caller that is gone, slow, or speaks no HTTP
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        method, _, rest = head.partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0].decode("latin-1")
        if method not in (b"GET", b"HEAD"):
            status, kind, body = 405, TEXT, b"use GET"
        else:
            status, kind, body = self._answer(path, _accepted(head)) or (
                404, TEXT, b"there is no such path here; use /healthz, /livez, /readyz or /metrics"
            )  # fmt: skip
        more = "Allow: GET, HEAD\r\n" if status == 405 else ""
        reason = http.HTTPStatus(status).phrase
        writer.write(
            f"HTTP/1.1 {status} {reason}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{more}"
            "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n".encode()
        )
        if method != b"HEAD":
            writer.write(body)
        await writer.drain()


def _accepted(head: bytes) -> str:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"accept":
            return value.decode("latin-1")
    return ""
