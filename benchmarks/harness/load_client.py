"""Our own HTTP load client, for machines without wrk: ``python -m benchmarks.harness.load_client '<json options>'``.

Raw protocol objects on keep-alive connections, no HTTP library: it must cost far less than the server it loads.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.harness.load import bodies


class Client:
    """Shared by all connections: what to send, what came back."""

    def __init__(self, requests: list[list[str]], *, rate: int) -> None:
        self.requests = [
            (
                f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body.encode())}\r\n\r\n{body}"
            ).encode()
            for method, path, body in requests
        ]
        self.at = 0
        self.rate = rate
        self.idle: deque[Connection] = deque()
        self.times: list[float] = []
        self.refused = 0
        self.stopping = False
        self.open = 0

    def next(self) -> bytes:
        self.at = (self.at + 1) % len(self.requests)
        return self.requests[self.at]


class Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.buffer = b""
        self.sent_at = 0.0
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self.transport = transport  # type: ignore[assignment]
        self.client.open += 1
        if self.client.rate:
            self.client.idle.append(self)
        else:
            self.send()

    def send(self) -> None:
        assert self.transport is not None
        self.sent_at = time.perf_counter()
        self.transport.write(self.client.next())

    def data_received(self, data: bytes) -> None:
        self.buffer = self.buffer + data if self.buffer else data
        head = self.buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        if not self._whole(head):
            return
        client = self.client
        client.times.append(time.perf_counter() - self.sent_at)
        if self.buffer[9:10] != b"2":
            client.refused += 1
        self.buffer = b""
        if client.rate:
            client.idle.append(self)
        elif not client.stopping:
            self.send()

    def _whole(self, head: int) -> bool:
        lower = self.buffer[:head].lower()
        at = lower.find(b"content-length:")
        if at < 0:  # chunked: node's http without a length
            return self.buffer.endswith(b"0\r\n\r\n")
        length = int(lower[at + 15 :].split(b"\r\n", 1)[0])
        return len(self.buffer) >= head + 4 + length

    def connection_lost(self, exc: Exception | None) -> None:
        self.client.open -= 1
        if not self.client.stopping:
            self.client.refused += 1


async def pace(client: Client, rate: int, seconds: float) -> None:
    """Offer ``rate`` a second; what finds no idle connection is offered at the next tick."""
    started, sent = time.perf_counter(), 0
    while (gone := time.perf_counter() - started) < seconds:
        while sent < gone * rate and client.idle:
            client.idle.popleft().send()
            sent += 1
        await asyncio.sleep(0.002)


async def main(options: dict[str, Any]) -> dict[str, Any]:
    if "requests" in options:
        requests = [line.split(" ", 2) for line in Path(options["requests"]).read_text().splitlines()]
    else:
        requests = [["POST", options["path"], body] for body in bodies()]
    client = Client(requests, rate=int(options["rate"]))
    loop = asyncio.get_running_loop()
    started = time.perf_counter()
    connections = [
        await loop.create_connection(lambda: Connection(client), "127.0.0.1", int(options["port"]))
        for _ in range(int(options["connections"]))
    ]
    if client.rate:
        await pace(client, client.rate, float(options["seconds"]))
    else:
        await asyncio.sleep(float(options["seconds"]))
    seconds = time.perf_counter() - started
    client.stopping = True
    answered, refused = sorted(client.times), client.refused
    for transport, _ in connections:
        transport.close()
    n = len(answered)
    return {
        "accepted": n - refused,
        "refused": refused,
        "seconds": seconds,
        "p50_ms": answered[n // 2] * 1000 if n else 0.0,
        "p99_ms": answered[int(n * 0.99)] * 1000 if n else 0.0,
    }


if __name__ == "__main__":
    print(json.dumps(uvloop.run(main(json.loads(sys.argv[1])))), flush=True)
