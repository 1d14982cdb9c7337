"""One subscription to some channels."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from itertools import groupby
from typing import Any, NamedTuple, Protocol

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from delaybox.core.errors import StoreUnavailable
from delaybox.store.loader import translate
from delaybox.store.slots import slot_of

QUIET_S = 3.0
"""After this long without a message the server is asked whether it still knows the subscription."""
ANSWER_S = 3.0
"""Without an answer within this time the subscription counts as lost."""


class Message(NamedTuple):
    """One message. ``opened``: no message; the subscription to ``channel`` begins now, or again. ``data`` is empty
    then."""

    opened: bool
    data: bytes
    channel: str


class Subscribed(Protocol):
    """What `Servers.subscribe` returns. `Subscription` says what its methods do."""

    async def open(self) -> None: ...

    async def change(self, channels: Collection[str]) -> None: ...

    async def next(self, timeout_s: float) -> Message | None: ...

    async def close(self) -> None: ...


class Subscription:
    """A subscription to some channels of one server. A quiet one looks like one whose server is gone, so the server is
    asked now and then.

    ``sharded``: whether a channel is a cluster's, which is subscribed to at the server of its slot.
    """

    def __init__(
        self, client: Redis, channels: Collection[str], sharded: Callable[[str], bool] = lambda _: False
    ) -> None:
        self._pubsub: Any = client.pubsub()
        self._channels = frozenset(channels)
        self._sharded = sharded
        # Two changes at once could end without a channel that the later one wants: each does two things in turn.
        self._changing = asyncio.Lock()
        self._loop = asyncio.get_running_loop()
        self._came_at = self._loop.time()
        self._asked_at: float | None = None

    async def open(self) -> None:
        """Sends the subscription; a message for each confirms it. StoreUnavailable; StoreRefused: an ACL forbids it."""
        try:
            await self._add(self._channels)
        except (RedisError, OSError) as error:
            raise translate(error) from error

    async def change(self, channels: Collection[str]) -> None:
        """Changes the channels; call it after `open`. Errors as of `open`."""
        wanted = frozenset(channels)
        async with self._changing:
            more, fewer = wanted - self._channels, self._channels - wanted
            self._channels = wanted
            try:
                # New channels are added first: without any channel the connection would be idle, and not show that a
                # server is gone.
                if more:
                    await self._add(more)
                if fewer:
                    await self._remove(fewer)
            except (RedisError, OSError) as error:
                raise translate(error) from error

    async def _add(self, channels: Collection[str]) -> None:
        for of_slot in self._by_slot(channels):
            await self._pubsub.ssubscribe(*of_slot)
        if plain := [channel for channel in channels if not self._sharded(channel)]:
            await self._pubsub.subscribe(*plain)

    async def _remove(self, channels: Collection[str]) -> None:
        for of_slot in self._by_slot(channels):
            await self._pubsub.sunsubscribe(*of_slot)
        if plain := [channel for channel in channels if not self._sharded(channel)]:
            await self._pubsub.unsubscribe(*plain)

    def _by_slot(self, channels: Collection[str]) -> list[list[str]]:
        """The sharded ones; one command may name those of one slot only."""
        sharded = sorted((channel for channel in channels if self._sharded(channel)), key=slot_of)
        return [list(group) for _, group in groupby(sharded, slot_of)]

    async def next(self, timeout_s: float) -> Message | None:
        """The next message; None: none came in time. Errors as of `open`: the subscription is lost, open another
        one."""
        try:
            message = await self._next(timeout_s)
        except (RedisError, OSError) as error:
            raise translate(error) from error
        match message:
            case [b"message" | b"smessage", bytes(channel), bytes(data)]:
                return Message(False, data, channel.decode())
            case [b"subscribe" | b"ssubscribe", bytes(channel), *_]:
                return Message(True, b"", channel.decode())
            case [b"sunsubscribe", bytes(channel), *_] if channel.decode() in self._channels:
                raise StoreUnavailable("the channel's slot has moved to another server")
        return None

    async def _next(self, timeout_s: float) -> Any:
        # Not by get_message, whose retries, timers and records of telemetry cost more than all else here. Of what it
        # does beside, nothing is needed: a connection that is lost is opened by another subscription.
        connection = self._pubsub.connection
        message = await connection.read_response(
            timeout=min(timeout_s, QUIET_S), disconnect_on_error=False, push_request=True
        )
        now = self._loop.time()
        if message is not None:
            self._came_at, self._asked_at = now, None
            return message
        if self._pubsub.connection.doubted:
            raise RedisConnectionError("the server was another one, or silent, on other connections")
        if self._asked_at is None:
            if now - self._came_at >= QUIET_S:
                await self._pubsub.ping()
                self._asked_at = now
        elif now - self._asked_at >= ANSWER_S:
            self._pubsub.connection.distrust()
            raise RedisTimeoutError(f"no answer within {ANSWER_S:g} s")
        return None

    async def close(self) -> None:
        """Ends it. Twice is harmless."""
        await self._pubsub.aclose()
