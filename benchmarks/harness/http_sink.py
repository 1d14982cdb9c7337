"""A receiver of webhooks that costs little: it answers 204 and notes how late each request comes.

Prints ``{"ports": [...], "silent": port}`` once it listens (each port is a host of its own; the silent one accepts
connections and never answers), then one line with what came. Every hundredth signature is checked.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from typing import Any

import uvloop

from delaybox import webhook

_ANSWER = b"HTTP/1.1 204 No Content\r\n\r\n"
_CHECKED_EACH = 100


class Sink:
    """What came to all ports."""

    def __init__(self, count: int, secret: str, answer_s: float) -> None:
        self.count = count
        self.secret = secret
        self.answer_s = answer_s
        self.late: dict[int, list[float]] = {}
        self.n = 0
        self.checked = 0
        self.done = asyncio.Event()

    def take(self, port: int, head: bytes, body: bytes) -> None:
        """A whole request."""
        now_ms = time.time_ns() / 1e6
        at = head.index(b"delaybox-due: ") + 14
        self.late.setdefault(port, []).append(now_ms - int(head[at : head.index(b"\r", at)]))
        self.n += 1
        if self.n % _CHECKED_EACH == 1:
            pairs = [line.split(b": ", 1) for line in head.split(b"\r\n")[1:] if line]
            webhook.verify(body, {name.decode(): value.decode() for name, value in pairs}, self.secret)
            self.checked += 1
        if self.n == self.count:
            self.done.set()


class _Carrier(asyncio.Protocol):
    def __init__(self, sink: Sink, port: int) -> None:
        self._sink, self._port, self._read = sink, port, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self._read += data
        while (end := self._read.find(b"\r\n\r\n")) >= 0:
            head = self._read[:end]
            at = head.index(b"content-length: ") + 16
            length = int(head[at : head.index(b"\r", at)])
            if len(self._read) < end + 4 + length:
                return
            body = self._read[end + 4 : end + 4 + length]
            self._read = self._read[end + 4 + length :]
            self._sink.take(self._port, head + b"\r\n", body)
            if self._sink.answer_s:
                asyncio.get_running_loop().call_later(self._sink.answer_s, self._transport.write, _ANSWER)
            else:
                self._transport.write(_ANSWER)


async def receive(options: dict[str, Any]) -> dict[str, Any]:
    """Until ``count`` requests came, or ``seconds`` went by."""
    loop = asyncio.get_running_loop()
    sink = Sink(int(options["count"]), options["secret"], float(options["answer_ms"]) / 1_000)
    servers, ports = [], []
    for _ in range(int(options["hosts"])):
        carriers: list[int] = [0]
        server = await loop.create_server(lambda port=carriers: _Carrier(sink, port[0]), "127.0.0.1", 0, backlog=4096)
        carriers[0] = server.sockets[0].getsockname()[1]
        servers.append(server)
        ports.append(carriers[0])
    silent = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0, backlog=4096)
    print(json.dumps({"ports": ports, "silent": silent.sockets[0].getsockname()[1]}), flush=True)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(sink.done.wait(), float(options["seconds"]))
    return {
        "n": sink.n,
        "checked": sink.checked,
        "finished_ms": time.time_ns() / 1e6,
        # In short: a line of more than 64 KiB may be torn where nobody reads yet.
        "late_ms": [[round(late, 3) for late in sink.late.get(port, [])] for port in ports],
    }


if __name__ == "__main__":
    print(json.dumps(uvloop.run(receive(json.loads(sys.argv[1])))), flush=True)
