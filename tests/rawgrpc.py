"""gRPC spoken by hand over a socket, as no library would: frames of HTTP/2, within the windows of the server."""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from typing import Self

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS = 1, 1, 4


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def message(raw: bytes, *, claimed: int | None = None, compressed: bool = False) -> bytes:
    """A message as it stands in DATA; ``claimed``: the length that is said in place of its own."""
    return bytes([compressed]) + (len(raw) if claimed is None else claimed).to_bytes(4, "big") + raw


def head(path: str, **more: str) -> bytes:
    """Header fields without compression. Underscores in names are hyphens."""
    fields = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "localhost"}
    fields |= {"te": "trailers", "content-type": "application/grpc"}
    fields |= {name.replace("_", "-"): value for name, value in more.items()}
    return b"".join(
        b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in fields.items()
    )


class Raw:
    """One connection. ``ended`` is set when the server has closed it; ``closed``: streams that it has ended."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.ended = asyncio.Event()
        self.closed: set[int] = set()
        self.answers: dict[int, bytes] = {}
        self._window = 65_535
        self._windows: dict[int, int] = {}
        self._first = 65_535
        self._more = asyncio.Event()
        self._next = 1

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writer.write(PREFACE + frame(SETTINGS, 0, 0))
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._reading.cancel()
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    def call(self, path: str, **headers: str) -> int:
        """Opens a stream: its number."""
        number, self._next = self._next, self._next + 2
        self._windows[number] = self._first
        self._writer.write(frame(HEADERS, END_HEADERS, number, head(path, **headers)))
        return number

    async def send(self, stream: int, raw: bytes, *, end: bool = False, size: int = 16_384) -> None:
        """Sends DATA as the windows allow. ConnectionError when the server has closed."""
        at = 0
        while True:
            while (room := min(self._window, self._windows.get(stream, 0), size, len(raw) - at)) <= 0 and at < len(raw):
                if self.ended.is_set() or stream in self.closed:
                    raise ConnectionError
                self._more.clear()
                await self._more.wait()
            part = raw[at : at + room]
            at += len(part)
            self._window -= len(part)
            self._windows[stream] -= len(part)
            self._writer.write(frame(DATA, END_STREAM if end and at == len(raw) else 0, stream, part))
            await self._writer.drain()
            if at == len(raw):
                return

    async def answered(self, stream: int) -> bytes:
        """What came on a stream until the server ended it."""
        while stream not in self.closed and not self.ended.is_set():
            self._more.clear()
            await self._more.wait()
        return self.answers.get(stream, b"")

    async def _read(self) -> None:
        try:
            while True:
                begun = await self._reader.readexactly(9)
                size, kind, flags = int.from_bytes(begun[:3], "big"), begun[3], begun[4]
                stream = int.from_bytes(begun[5:], "big")
                payload = await self._reader.readexactly(size)
                self._take(kind, flags, stream, payload)
                self._more.set()
        except (OSError, EOFError):
            pass
        finally:
            self.ended.set()
            self._more.set()

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == SETTINGS and not flags & ACK:
            for at in range(0, len(payload), 6):
                if payload[at : at + 2] == b"\x00\x04":
                    first = int.from_bytes(payload[at + 2 : at + 6], "big")
                    for number in self._windows:
                        self._windows[number] += first - self._first
                    self._first = first
            self._writer.write(frame(SETTINGS, ACK, 0))
        elif kind == PING and not flags & ACK:
            self._writer.write(frame(PING, ACK, 0, payload))
        elif kind == WINDOW_UPDATE:
            more = int.from_bytes(payload, "big")
            if stream:
                self._windows[stream] = self._windows.get(stream, 0) + more
            else:
                self._window += more
        elif kind in (DATA, HEADERS):
            self.answers[stream] = self.answers.get(stream, b"") + payload
        if kind == RST_STREAM or (kind in (DATA, HEADERS) and flags & END_STREAM):
            self.closed.add(stream)
