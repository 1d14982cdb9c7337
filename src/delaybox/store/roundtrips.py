"""Sends commands over redis-py's connections without redis-py's client, whose pool, retries and timers cost twice as
much as the rest of a round trip.

Connecting, TLS and authentication are still done by redis-py; commands and replies go by `store.open_connection`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import hiredis
from redis.asyncio import Redis
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from delaybox.store.open_connection import OpenConnection

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
        self._idle: list[OpenConnection] = []
        self._waiting = 0

    async def send(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """One reply for each command; an error that the server answered stands in its place.

        RedisError or OSError when the connection failed: whether the commands were carried out is then unknown. All of
        it takes no longer than the client's ``socket_timeout``.
        """
        if not commands:
            return []
        opened = await self._take()
        try:
            packed = b"".join([hiredis.pack_command(command) for command in commands])
            replies = await opened.ask(packed, len(commands), self._timeout_s)
        except BaseException as error:
            # The next bytes on this connection may be the reply to this command, so no other command may use it.
            await self._close(opened)
            if isinstance(error, TimeoutError):
                # Otherwise each connection to the same server would take as long to find out.
                opened.connection.distrust()
                raise RedisTimeoutError(f"no answer within {self._timeout_s} s") from None
            raise
        if opened.spoilt:
            # redis-py would not see what has been read of it.
            await self._close(opened)
        elif len(self._idle) >= self._kept or (self._waiting and not self._pool.can_get_connection()):
            await self._give_back(opened)
        else:
            self._idle.append(opened)
        return replies

    async def _take(self) -> OpenConnection:
        while self._idle:
            opened = self._idle.pop()
            if opened.usable:
                return opened
            await self._close(opened)
        self._waiting += 1
        try:
            return OpenConnection(await self._pool.get_connection())
        finally:
            self._waiting -= 1

    async def _close(self, opened: OpenConnection) -> None:
        await opened.connection.disconnect(nowait=True)  # type: ignore[attr-defined]
        await self._give_back(opened)

    async def _give_back(self, opened: OpenConnection) -> None:
        opened.let_go()
        await self._pool.release(opened.connection)


_known: WeakKeyDictionary[Redis, RoundTrips] = WeakKeyDictionary()


def of(client: Redis) -> RoundTrips:
    """The round trips of ``client``."""
    found = _known.get(client)
    if found is None:
        found = _known[client] = RoundTrips(client)
    return found
