"""A load balancer that leads each new connection to the next node that listens, as those in front of nodes do."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine


class Balancer:
    """`to`: ports of nodes on this machine, in turn; more can be added."""

    def __init__(self) -> None:
        self.to: list[int] = []
        self.port = 0
        self._turn = 0
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()

    async def listen(self) -> None:
        self._server = await asyncio.start_server(self._lead, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _lead(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        me = asyncio.current_task()
        assert me is not None
        self._open.add(me)
        try:
            for _ in self.to:
                self._turn += 1
                with contextlib.suppress(OSError):
                    there, back = await asyncio.open_connection("127.0.0.1", self.to[self._turn % len(self.to)])
                    await _both(_pipe(reader, back), _pipe(there, writer))
                    return
        finally:
            self._open.discard(me)
            writer.close()


async def _both(*ways: Coroutine[None, None, None]) -> None:
    """Until one of them ends, which ends the other."""
    tasks = [asyncio.ensure_future(way) for way in ways]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()
