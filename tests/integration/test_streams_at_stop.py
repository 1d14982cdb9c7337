"""A REST process that stops, and callers who come over connections that are open already, as a proxy's are: streams end
cleanly and say where to go on, long polls are answered, and what the last requests did is in the feed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator

from redis.asyncio import Redis

from delaybox.api.dashboard.settings import DashboardSettings
from delaybox.core.events import EventQuery, EventRules, StoredEvent
from delaybox.service import Service
from delaybox.store.servers import Servers
from delaybox.store.store import Store
from tests.children import Served
from tests.rest import rest_process
from tests.servers import RealServer
from tests.waiting import PATIENCE_S, until_async

EVENTS = EventRules()
GRACE_S = 20.0
"""So long a process may take on a busy machine; a moment is usual."""


class Kept:
    """A connection as a proxy keeps it, on which the next request finds a process that stops."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def to(cls, process: Served) -> Kept:
        """One that has carried a request."""
        made = cls(*await asyncio.open_connection("127.0.0.1", process.port))
        made.send("GET", "/livez")
        await made._reader.readuntil(b"\r\n\r\nok")
        return made

    def send(self, method: str, path: str, body: bytes = b"", **more: str) -> None:
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "X-Forwarded-For: 10.0.0.1"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in more.items()]
        if body:
            lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        self._writer.write("\r\n".join([*lines, "", ""]).encode() + body)

    async def answer(self) -> tuple[int, bytes]:
        """Status and body of an answer that ends the connection."""
        async with asyncio.timeout(PATIENCE_S):
            raw = await self._reader.read()
        self._writer.close()
        head, _, body = raw.partition(b"\r\n\r\n")
        assert head, "the connection ended without an answer"
        return int(head.split()[1]), body


@contextlib.asynccontextmanager
async def stopping(process: Served) -> AsyncIterator[None]:
    """Inside, the process stops, for as long as a proxy's connections are open."""
    ended = asyncio.create_task(process.stop())

    async def refused() -> bool:
        try:
            _, probe = await asyncio.open_connection("127.0.0.1", process.port)
        except OSError:
            return True
        probe.close()
        return False

    await until_async(refused)
    yield
    await ended
    assert process.exit_code == 0


async def test_a_stream_that_comes_late_says_where_to_go_on(server: RealServer, client: Redis, prefix: str) -> None:
    """An error's answer would end a browser's EventSource for good."""
    pages = DashboardSettings(secret="x" * 40)
    async with rest_process(
        server=server.settings, prefix=prefix, events=EVENTS, dashboard=pages, grace_s=GRACE_S
    ) as process:
        store = await Store.open(Servers(client), prefix=prefix)
        service = Service(store, events=EVENTS)
        before = await service.feed.read(EventQuery())
        fresh, going_on, page, post = [await Kept.to(process) for _ in range(4)]
        async with stopping(process):
            fresh.send("GET", "/v1/events")
            status, text = await fresh.answer()
            assert status == 200 and text.startswith(b"retry: 2000\n")
            named = re.search(rb"^id: (\S+)$", text, re.MULTILINE)
            assert named is not None and text.endswith(b"\n\n"), text
            # What happens after the answer comes behind the position that it names.
            post.send("POST", "/v1/tasks", json.dumps({"delay": "1h", "payload": "late"}).encode())
            status, text = await post.answer()
            assert status == 201
            late = json.loads(text)["id"].replace("-", "")
            going_on.send("GET", "/v1/events", Last_Event_ID="7-0.1")
            assert await going_on.answer() == (200, b"retry: 2000\n: alive\nid: 7-0.1\n\n")
            page.send("GET", "/dashboard/live")
            status, text = await page.answer()
            assert status == 200 and text.startswith(b"retry: 2000\nevent: before\ndata: [") and text.endswith(b"\n\n")
        before.close()
        after = await service.feed.read(EventQuery(), after=named[1].decode())
        async with asyncio.timeout(PATIENCE_S):
            (item,) = await anext(after)
        assert isinstance(item.what, StoredEvent)
        assert (item.what.kind, item.what.task_id.hex()) == ("scheduled", late)
        after.close()
        await service.close()


async def test_long_polls_are_answered_with_the_present_state(server: RealServer, prefix: str) -> None:
    async with rest_process(server=server.settings, prefix=prefix, grace_s=GRACE_S) as process:
        post, waiting, late = [await Kept.to(process) for _ in range(3)]
        post.send("POST", "/v1/tasks", json.dumps({"delay": "1h", "payload": "x"}).encode(), Connection="close")
        status, text = await post.answer()
        assert status == 201
        path = f"/v1/tasks/{json.loads(text)['id']}?wait=30s"
        waiting.send("GET", path)
        async with stopping(process):
            late.send("GET", path)
            for connection in (waiting, late):
                status, text = await connection.answer()
                assert (status, json.loads(text)["state"]) == (200, "scheduled")
