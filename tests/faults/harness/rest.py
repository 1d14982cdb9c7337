"""A small HTTP/1.1 client with kept connections: enough load from one core, and any bytes one likes in a body."""

from __future__ import annotations

import asyncio
import json
from typing import Any, NamedTuple


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Rest:
    """Calls to one port of loopback. OSError or EOFError: no whole answer came, so what happened is unknown."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def call(self, method: str, path: str, body: bytes = b"", *, timeout_s: float = 15.0) -> Answer:
        async with asyncio.timeout(timeout_s):
            if self._idle:
                try:
                    return await self._exchange(*self._idle.pop(), method, path, body)
                except (OSError, EOFError):
                    # A kept connection may have been closed long ago; only a fresh one tells about the server.
                    if method != "GET":
                        raise
            return await self._exchange(*await asyncio.open_connection("127.0.0.1", self._port), method, path, body)

    async def post(self, task: dict[str, Any], *, timeout_s: float = 15.0) -> Answer:
        return await self.call("POST", "/task", json.dumps(task).encode(), timeout_s=timeout_s)

    async def _exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, method: str, path: str, body: bytes
    ) -> Answer:
        keep = False
        try:
            head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\n"
            if method == "POST":
                head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            writer.write(head.encode() + b"\r\n" + body)
            await writer.drain()
            lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (x.partition(":") for x in lines[1:]) if name}
            if headers.get("transfer-encoding") == "chunked":
                content = await _chunks(reader)
            else:
                content = await reader.readexactly(int(headers.get("content-length", "0")))
            keep = headers.get("connection") != "close"
            return Answer(int(lines[0].split()[1]), headers, content)
        finally:
            if keep:
                self._idle.append((reader, writer))
            else:
                writer.close()

    async def close(self) -> None:
        for _, writer in self._idle:
            writer.close()
        self._idle.clear()
        await asyncio.sleep(0)


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    content = b""
    while size := int((await reader.readline()).strip() or b"0", 16):
        content += await reader.readexactly(size)
        await reader.readline()
    await reader.readline()
    return content
