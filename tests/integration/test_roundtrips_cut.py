"""Connections that are lost, or on which more comes than was asked for, in redis-py's pool and on the way there."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop

from delaybox.store import roundtrips
from delaybox.store.address import ServerSettings
from delaybox.store.connect import make_client
from tests.servers import RealServer
from tests.tls import Certificates, tls_front
from tests.waiting import until_async

ECHO = ("ECHO", "x")


class _Relay:
    """A TCP port before a server, whose connections can be reset."""

    def __init__(self) -> None:
        self.port = 0
        self._taken: list[asyncio.StreamWriter] = []

    @contextlib.asynccontextmanager
    async def to(self, opens: Callable[[], Any]) -> AsyncIterator[_Relay]:
        pumps = list[asyncio.Task[None]]()

        async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                while data := await reader.read(65_536):
                    writer.write(data)
            except OSError:
                pass
            finally:
                writer.close()

        async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            there, back = await opens()
            self._taken.append(writer)
            pumps.extend([asyncio.create_task(pump(reader, back)), asyncio.create_task(pump(there, writer))])

        server = await asyncio.start_server(take, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for one in pumps:
                one.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            await asyncio.sleep(0.01)  # until the loop has closed them

    def reset(self) -> None:
        for writer in self._taken:
            at_once = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
            writer.transport.abort()
        self._taken.clear()


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize("tls", [False, True])
def test_one_that_was_reset_in_the_pool_is_not_noticed_by_the_caller(
    server: RealServer, tmp_path: Path, loop: Callable[[], asyncio.AbstractEventLoop], tls: bool
) -> None:
    """Of asyncio's loop, and with TLS, what was sent there went nowhere: the caller waited for its time-out."""
    certificates = Certificates(tmp_path)

    async def use(relay: _Relay, settings: ServerSettings) -> None:
        client = make_client(settings)
        trips = roundtrips.of(client)
        try:
            await client.ping()
            connection: Any = client.connection_pool._available_connections[0]
            lost = connection.transport
            relay.reset()
            await until_async(lost.is_closing)
            assert await trips.send([ECHO]) == [b"x"]
        finally:
            await client.aclose()

    async def run() -> None:
        if not tls:
            async with _Relay().to(lambda: asyncio.open_unix_connection(server.unix_path)) as relay:
                await use(relay, ServerSettings(host="127.0.0.1", port=relay.port))
            return
        async with (
            tls_front(server.unix_path, certificates) as port,
            _Relay().to(lambda: asyncio.open_connection("127.0.0.1", port)) as relay,
        ):
            await use(relay, certificates.settings(relay.port))

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(run())


async def test_one_on_which_more_came_than_was_asked_for_goes_to_nobody_else(server: RealServer) -> None:
    """A part of it had been read here; redis-py would have taken the rest for the next reply."""
    client, other = make_client(server.settings, max_connections=1), make_client(server.settings)
    trips = roundtrips.of(client)
    try:
        (mine, on) = await trips.send([("CLIENT", "ID"), ("CLIENT", "TRACKING", "ON", "BCAST")])
        assert on == b"OK"
        # It goes back to the pool, which has no more; that a key of this length was written is told behind the reply.
        await trips.send([("SET", "k" * 5_000_000, "v")])
        assert await client.client_id() != mine
        assert await client.echo("x") == b"x"
    finally:
        await other.flushdb()
        await client.aclose()
        await other.aclose()


async def test_what_was_answered_is_not_kept(server: RealServer) -> None:
    """The last reply of each connection stayed in memory until its next use: of a large page of tasks for example."""
    client = make_client(server.settings)
    trips = roundtrips.of(client)
    try:
        assert await trips.send([ECHO]) == [b"x"]
        assert not trips._idle[0]._replies
    finally:
        await client.aclose()
