"""Sends commands over redis-py's connections without redis-py's client, whose pool, retries and timers cost twice as
much as the rest of a round trip: one command over a unix socket took 107 us of CPU, and 41 this way (uvloop, redis-py
8.0).

Connecting, TLS, authentication and reading replies are still done by redis-py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import hiredis
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from delaybox.store.connections import NOT_YET

_KEPT = 16
"""Most connections that are kept here, and at most half of a small pool: other users of the client need some, too. To
take one from redis-py's pool and to give it back costs 20 to 40 us of processor time."""


class NotSent(RedisError):
    """Nothing was sent, because the server of these keys does not answer now or their slot moves: a repeat is harmless,
    to the same keys or to others."""


class RoundTrips:
    """The round trips of one client. Get it by `of`: all users of the client share its connections."""

    def __init__(self, client: Redis) -> None:
        self._pool: Any = client.connection_pool
        self._timeout_s: float | None = self._pool.connection_kwargs.get("socket_timeout")
        self._kept = min(_KEPT, self._pool.max_connections // 2)
        self._idle: list[Any] = []
        self._waiting = 0

    async def send(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """One reply for each command; an error that the server answered stands in its place.

        RedisError or OSError when the connection failed: whether the commands were carried out is then unknown. All of
        it takes no longer than the client's ``socket_timeout``.
        """
        connection = await self._take()
        replies: list[Any] = []
        try:
            async with asyncio.timeout(self._timeout_s):
                packed = b"".join([hiredis.pack_command(command) for command in commands])
                await connection.send_packed_command(packed, check_health=False)
                received = connection.received
                for _ in commands:
                    if (reply := received()) is NOT_YET:
                        try:
                            reply = await connection.read_response()
                        except ResponseError as error:
                            reply = error
                    replies.append(reply)
        except BaseException as error:
            # The next bytes on this connection may be the reply to this command, so no other command may use it.
            await connection.disconnect(nowait=True)
            await self._give_back(connection)
            if isinstance(error, TimeoutError):
                # Otherwise each connection to the same server would take as long to find out.
                connection.distrust()
                raise RedisTimeoutError(f"no answer within {self._timeout_s} s") from None
            raise
        if len(self._idle) >= self._kept or (self._waiting and not self._pool.can_get_connection()):
            await self._give_back(connection)
        else:
            self._idle.append(connection)
        return replies

    async def _take(self) -> Any:
        while self._idle:
            connection = self._idle.pop()
            try:
                # True: the server has closed the connection, or has sent something that nobody asked for.
                spoilt = await connection.can_read()
            except (RedisError, OSError):
                spoilt = True
            if not spoilt:
                return connection
            await connection.disconnect(nowait=True)
            await self._give_back(connection)
        self._waiting += 1
        try:
            connection = await self._pool.get_connection()
        finally:
            self._waiting -= 1
        # One time limit for the whole round trip replaces redis-py's limit for each step.
        connection.socket_timeout = None
        return connection

    async def _give_back(self, connection: Any) -> None:
        connection.socket_timeout = self._timeout_s
        await self._pool.release(connection)


_known: WeakKeyDictionary[Redis, RoundTrips] = WeakKeyDictionary()


def of(client: Redis) -> RoundTrips:
    """The round trips of ``client``."""
    found = _known.get(client)
    if found is None:
        found = _known[client] = RoundTrips(client)
    return found
