"""Commands and replies of one connection, past the streams of asyncio and the reading of redis-py: those take a reply
through two buffers and seven coroutines. Replies are parsed where they arrive, and whoever waits is woken once.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import hiredis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, ResponseError

from delaybox.store.connections import WRONG_SERVER, Doubted

_NOT_YET: Final = object()
"""In place of a reply that has not come whole."""
_CLOSED: Final = "Connection closed by server."
"""In redis-py's words, by which a probe tells what may be wrong."""


class OpenConnection(asyncio.Protocol):
    """An open connection of redis-py, whose stream is set aside until `let_go`."""

    def __init__(self, connection: Doubted) -> None:
        self.connection = connection
        self.spoilt = False
        """Whether the server has closed the connection, or has sent something that nobody asked for."""
        self._transport: Any = connection.transport
        self._stream: Any = self._transport.get_protocol()
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(
            protocolError=InvalidResponse, replyError=connection.error_of, notEnoughData=_NOT_YET
        )
        self._waiter: asyncio.Future[list[Any]] | None = None
        self._replies: list[Any] = []
        self._wanted = 0
        self._transport.set_protocol(self)

    @property
    def usable(self) -> bool:
        """Whether it leads to the right server, as far as is known, and nothing has come that would be taken for the
        next reply."""
        return not (self.spoilt or self.connection.doubted)

    def let_go(self) -> None:
        """The connection is redis-py's again. Harmless for one that is closed."""
        if not self._transport.is_closing():
            self._transport.set_protocol(self._stream)

    async def ask(self, packed: bytes, count: int, timeout_s: float | None) -> list[Any]:
        """The replies to so many commands; an error that the server answered stands in its place.

        RedisError when the connection failed, TimeoutError: then more may still come, so it must be closed. The same
        when the caller is cancelled.
        """
        if self.spoilt:
            raise RedisConnectionError(_CLOSED)
        waiter: asyncio.Future[list[Any]] = self._loop.create_future()
        self._waiter = waiter
        self._replies, self._wanted = [], count
        timer = None if timeout_s is None else self._loop.call_later(timeout_s, self._give_up, TimeoutError())
        try:
            try:
                self._transport.write(packed)
            except RuntimeError as error:
                # What uvloop raises where the server has reset the connection and this process has not seen it yet.
                raise RedisConnectionError(f"the connection was closed: {error}") from None
            return await waiter
        finally:
            self._waiter, self._replies = None, []
            if timer is not None:
                timer.cancel()

    # -- called by the transport --------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        waiter = self._waiter
        if waiter is None or waiter.done():
            self.spoilt = True
            return
        reader, replies, wanted = self._reader, self._replies, self._wanted
        reader.feed(data)
        try:
            while len(replies) < wanted:
                reply = reader.gets()
                if reply is _NOT_YET:
                    return
                if not isinstance(reply, (list, BaseException)) or self._counts(reply):
                    replies.append(reply)
        except Exception as error:  # noqa: BLE001 - whoever asked raises it
            waiter.set_exception(error)
        else:
            self.spoilt = reader.has_data()
            waiter.set_result(replies)

    def _counts(self, reply: list[Any] | BaseException) -> bool:
        """Whether this is a reply. Raises an error that is none: the connection is useless."""
        if isinstance(reply, list):
            if isinstance(reply, hiredis.PushNotification):
                return False  # nothing was subscribed to on this connection
            if reply and isinstance(reply[0], RedisConnectionError):
                raise reply[0]
            return True
        if isinstance(reply, WRONG_SERVER):
            self.connection.distrust()
        if not isinstance(reply, ResponseError):
            raise reply
        return True

    def eof_received(self) -> Any:
        self._end(RedisConnectionError(_CLOSED))
        return self._stream.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        error = RedisConnectionError(_CLOSED if exc is None else f"the connection was lost: {exc}")
        error.__cause__ = exc
        self._end(error)
        # redis-py waits for it where it closes a connection in peace.
        self._stream.connection_lost(exc)

    def pause_writing(self) -> None:
        self._stream.pause_writing()

    def resume_writing(self) -> None:
        self._stream.resume_writing()

    def _end(self, error: Exception) -> None:
        self.spoilt = True
        self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error)
