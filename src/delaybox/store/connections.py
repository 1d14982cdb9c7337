"""Connections that are closed when they lead to the wrong server, or to none any more.

After a fail-over the address leads to another server, but an open connection still leads to the old one, which replies
READONLY to every write for ever, or nothing at all. The first such reply, or the first reply that does not come, casts
doubt on all connections of the client that are open then: each is closed before its next use, and opened again.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterable
from typing import Any

import hiredis
from redis.asyncio import Connection, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import BusyLoadingError, MasterDownError, ReadOnlyError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

WRONG_SERVER = (ReadOnlyError, MasterDownError, BusyLoadingError)
"""Errors of a server that is not, or not yet, the one to write to."""


class Doubt:
    """The doubt that all connections of a client share. ``count``: how often it was raised."""

    def __init__(self) -> None:
        self.count = 0


class Doubted:
    """Goes before redis-py's connection class in a list of base classes."""

    def __init__(self, *, doubt: Doubt | None = None, **options: Any) -> None:
        self._doubt = doubt or Doubt()
        self._trusted_at = -1
        super().__init__(**options)

    @property
    def doubted(self) -> bool:
        """Whether another connection, or this one, has met the wrong server or silence since it was opened."""
        return self._trusted_at != self._doubt.count

    def distrust(self) -> None:
        """This connection met the wrong server, or silence: all connections opened since the last doubt lose trust."""
        if not self.doubted:
            self._doubt.count += 1
            # Imported late: a node must first set the folder of its counters, which prometheus-client reads when it is
            # imported.
            from delaybox import metrics

            metrics.store_doubted()

    @property
    def transport(self) -> Any:
        """Of an open connection."""
        return self._writer.transport  # type: ignore[attr-defined]

    def error_of(self, reply: str) -> Exception:
        """The exception for an error that the server answered."""
        error: Exception = self._parser.parse_error(reply)  # type: ignore[attr-defined]
        return error

    async def _connect(self) -> None:
        self._trusted_at = self._doubt.count
        await super()._connect()  # type: ignore[misc]

    async def connect(self) -> None:
        """Pools call it before every use."""
        if self.doubted and self.is_connected:  # type: ignore[attr-defined]
            await self.disconnect(nowait=True)  # type: ignore[attr-defined]
        await super().connect()  # type: ignore[misc]

    async def can_read(self) -> bool:
        """Whether the connection must not be used as it is; redis-py's pool then closes it and opens it again."""
        # The reader of one that was reset while it was idle does not say that nothing more will come.
        lost = self.is_connected and self.transport.is_closing()  # type: ignore[attr-defined]
        return self.doubted or lost or bool(await super().can_read())  # type: ignore[misc]

    async def send_packed_command(self, *args: Any, **options: Any) -> None:
        try:
            await super().send_packed_command(*args, **options)  # type: ignore[misc]
        except RuntimeError as error:
            # What uvloop raises where the server has reset the connection and the reader has not seen it yet; asyncio's
            # own loop raises an OSError.
            raise RedisConnectionError(f"the connection was closed: {error}") from None

    async def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return await super().read_response(*args, **options)  # type: ignore[misc]
        except (*WRONG_SERVER, RedisTimeoutError):
            self.distrust()
            raise


class _Packing:
    """Packs commands in C. redis-py's asyncio connections do it in Python: 0.95 us a task in bulk against 0.21."""

    def pack_command(self, *args: Any) -> list[bytes]:
        if isinstance(args[0], str) and " " in args[0]:
            args = (*args[0].split(), *args[1:])  # "CONFIG GET" is two words to the server
        return [hiredis.pack_command(args)]

    def pack_commands(self, commands: Iterable[Iterable[Any]]) -> list[bytes]:
        return [b"".join(self.pack_command(*command)[0] for command in commands)]


class TcpConnection(_Packing, Doubted, Connection):
    """Over TCP."""


class TlsConnection(_Packing, Doubted, SSLConnection):
    """Over TLS. ``tls``: made once for all connections."""

    def __init__(self, *, tls: ssl.SSLContext, **options: Any) -> None:
        super().__init__(**options)
        # redis-py would make one for each connection, reading all of the system's authorities every time.
        self.ssl_context.context = tls


class UnixConnection(_Packing, Doubted, UnixDomainSocketConnection):
    """Over a unix socket."""


def keepalive(timeout_s: float) -> dict[int, int]:
    """Options of a TCP socket by which the kernel ends a connection whose other side is gone, within about twice
    ``timeout_s``: without them it takes a quarter of an hour where there is something to send, else two hours."""
    wanted = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 2, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": int(2_000 * timeout_s)}
    # Linux has all of them.
    return {getattr(socket, name): value for name, value in wanted.items() if hasattr(socket, name)}
