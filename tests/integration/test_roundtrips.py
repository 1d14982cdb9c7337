"""Commands past redis-py's client: what a connection that failed, hung or was cut off leaves behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Generator
from contextlib import asynccontextmanager
from importlib import metadata
from typing import Any

import pytest
import redis
import uvloop
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from delaybox.store import roundtrips
from delaybox.store.address import ServerSettings
from delaybox.store.connect import make_client
from tests.servers import RealServer
from tests.waiting import until_async

ECHO = ("ECHO", "x")


class _Counted:
    """Awaits something. ``waits``: how often that gave up its turn."""

    def __init__(self, awaited: Awaitable[Any]) -> None:
        self._awaited = awaited
        self.waits = 0

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self._awaited.__await__()
        while True:
            try:
                waits_for = steps.send(None)
            except StopIteration as end:
                return end.value
            self.waits += 1
            yield waits_for


@asynccontextmanager
async def opened(server: RealServer, **options: Any) -> AsyncIterator[Redis]:
    client = make_client(ServerSettings.from_url(server.url), **options)
    try:
        yield client
    finally:
        await client.aclose()


async def connections(client: Redis) -> int:
    return len(await client.client_list())


async def test_replies_come_in_order_and_an_error_stands_in_its_place(server: RealServer) -> None:
    async with opened(server) as client:
        trips = roundtrips.of(client)
        assert roundtrips.of(client) is trips
        first, wrong, last = await trips.send([("ECHO", "a"), ("NOSUCH",), ("ECHO", b"\x00")])
        assert (first, last) == (b"a", b"\x00") and isinstance(wrong, ResponseError)
        assert await trips.send([ECHO]) == [b"x"], "and the connection goes on"


async def test_no_command_has_no_reply_to_wait_for(server: RealServer) -> None:
    async with opened(server) as client:
        assert await asyncio.wait_for(roundtrips.of(client).send([]), 2) == []


async def test_replies_that_came_together_wake_their_caller_once(server: RealServer) -> None:
    """Each wait was four calls of redis-py: they were most of what looks at many partitions cost a gateway."""
    async with opened(server) as client:
        trips = roundtrips.of(client)
        # In a transaction the server answers all in one go.
        commands = [("MULTI",), *[("ECHO", "x")] * 100, ("EXEC",), ("NOSUCH",), ("HELLO", "9"), ("ECHO", "y")]
        await trips.send([ECHO])
        counted = _Counted(trips.send(commands))
        replies = await counted
        assert replies[101] == [b"x"] * 100 and replies[104] == b"y"
        assert all(isinstance(one, ResponseError) for one in replies[102:104])
        assert counted.waits == 1


async def test_a_reply_that_comes_in_pieces_is_whole(server: RealServer) -> None:
    async with opened(server) as client:
        trips = roundtrips.of(client)
        long = "x" * 3_000_000
        assert await trips.send([ECHO, ("ECHO", long), ECHO]) == [b"x", long.encode(), b"x"]


async def test_a_connection_is_used_again(server: RealServer) -> None:
    async with opened(server) as client:
        trips = roundtrips.of(client)
        ids = {(await trips.send([("CLIENT", "ID")]))[0] for _ in range(5)}
        assert len(ids) == 1


async def test_as_many_at_once_as_before_need_no_more_of_the_pool(server: RealServer) -> None:
    async with opened(server) as client:
        trips, taken = roundtrips.of(client), 0
        take = trips._pool.get_connection

        async def counted() -> Any:
            nonlocal taken
            taken += 1
            return await take()

        trips._pool.get_connection = counted
        for _ in range(3):
            assert await asyncio.gather(*[trips.send([ECHO]) for _ in range(16)]) == [[b"x"]] * 16
        assert taken == 16


async def test_a_connection_is_kept_while_others_are_being_opened(server: RealServer) -> None:
    """The pool has more of them for whoever waits."""
    async with opened(server) as client:
        trips, may = roundtrips.of(client), asyncio.Event()
        await trips.send([ECHO])
        take = trips._pool.get_connection

        async def waits() -> Any:
            await may.wait()
            return await take()

        trips._pool.get_connection = waits
        first, second = asyncio.create_task(trips.send([ECHO])), asyncio.create_task(trips.send([ECHO]))
        await first
        assert len(trips._idle) == 1 and not second.done()
        may.set()
        assert await second == [b"x"]


async def test_one_that_the_server_closed_is_not_noticed_by_the_caller(server: RealServer) -> None:
    async with opened(server) as client, opened(server) as admin:
        trips = roundtrips.of(client)
        (mine,) = await trips.send([("CLIENT", "ID")])
        assert await admin.client_kill_filter(_id=str(mine)) == 1
        await admin.ping()
        # Its end has to reach us first, or this would be a cut in the middle of a command.
        while trips._idle[0].usable:
            await asyncio.sleep(0)
        assert await trips.send([ECHO]) == [b"x"]


async def test_a_cut_in_the_middle_is_told_and_the_next_command_goes_through(server: RealServer) -> None:
    async with opened(server) as client, opened(server) as admin:
        trips = roundtrips.of(client)
        (mine,) = await trips.send([("CLIENT", "ID")])
        waiting = asyncio.create_task(trips.send([("BLPOP", "nothing-here", 0)]))
        while not any(c["id"] == str(mine) and c["cmd"] == "blpop" for c in await admin.client_list()):
            await asyncio.sleep(0)
        await admin.client_kill_filter(_id=str(mine))
        with pytest.raises((RedisConnectionError, OSError)):
            await waiting
        assert await trips.send([ECHO]) == [b"x"]


def test_what_is_sent_on_a_connection_just_reset_is_a_failed_connection(server: RealServer) -> None:
    """uvloop raises RuntimeError then, which ended a settler, and the heartbeat kept its leases."""

    async def reset() -> None:
        async with opened(server) as client:
            trips = roundtrips.of(client)
            await trips.send([ECHO])
            connection = trips._idle[0].connection
            connection.transport.abort()
            # redis-py learns of it by its next look at the reader only.
            await until_async(lambda: "closed=True" in repr(connection.transport))
            with pytest.raises(RedisConnectionError, match="was closed"):
                await connection.send_packed_command(b"PING", check_health=False)
            assert await trips.send([ECHO]) == [b"x"]

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(reset())


async def test_a_server_that_hangs_is_not_waited_for_longer_than_was_said(server: RealServer) -> None:
    async with opened(server, timeout_s=1.5) as client:
        trips = roundtrips.of(client)
        with pytest.raises(RedisTimeoutError, match=r"1\.5 s"):
            await trips.send([("BLPOP", "nothing-here", 0)])
        # On a fresh connection: the old one might still be told of the list.
        assert await trips.send([ECHO]) == [b"x"]


async def test_who_is_cancelled_leaves_no_reply_to_the_next(server: RealServer) -> None:
    async with opened(server) as client, opened(server) as admin:
        trips = roundtrips.of(client)
        waiting = asyncio.create_task(trips.send([("BLPOP", "nothing-here", 0)]))
        while not any(c["cmd"] == "blpop" for c in await admin.client_list()):
            await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await trips.send([ECHO, ECHO]) == [b"x", b"x"]


async def test_there_are_never_more_connections_than_the_client_may_have(server: RealServer) -> None:
    async with opened(server, max_connections=4) as client, opened(server) as admin:
        before = await connections(admin)
        trips = roundtrips.of(client)
        replies = await asyncio.gather(*(trips.send([ECHO]) for _ in range(50)), client.echo("x"))
        assert replies == [*([[b"x"]] * 50), b"x"]
        assert await connections(admin) - before <= 4
        await client.aclose()


async def test_a_new_connection_reads_no_metadata_of_packages(
    server: RealServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """redis-py looked its own version up for each: 0.3 ms of processor time, and a burst of commands needs many."""
    looked: list[str] = []
    async with opened(server) as first:
        await roundtrips.of(first).send([ECHO])
    monkeypatch.setattr(metadata, "version", looked.append)
    async with opened(server) as client:
        trips = roundtrips.of(client)
        await asyncio.gather(*(trips.send([ECHO]) for _ in range(5)))
        assert await connections(client) >= 5 and not looked
        named = (await client.client_list())[0]
        assert (named["lib-name"], named["lib-ver"]) == ("redis-py", redis.__version__)
