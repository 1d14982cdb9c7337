"""The servers of a store: the only maker of connections, round trips and subscriptions.

Callers name keys and channels, never a server: a key's hash tag names its partition, and the partition its server.
Today one server holds all of them. With Redis Cluster only this module changes: `send` parts commands by their keys'
slots, one client for each primary, and a channel is listened to on the server of its slot.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from delaybox.store import roundtrips
from delaybox.store.address import ServerSettings
from delaybox.store.connect import make_client
from delaybox.store.loader import translate
from delaybox.store.probe import ServerFeatures, info_of, probe
from delaybox.store.subscription import Subscription

Command = tuple[str | bytes | int | float, ...]
"""A command of Redis, word by word. The second word is its key, if it has one."""

Send = Callable[[Sequence[tuple[Any, ...]]], Awaitable[list[Any]]]
"""See `Servers.send`."""

_CLOCK_LOOKS = 5


class Servers:
    """The servers of one store, or of a command that looks at them. Replies are those of RESP3: bytes, int, dict."""

    def __init__(self, client: Redis) -> None:
        self._client = client
        self.send: Send = roundtrips.of(client).send
        """One reply for each command, in one round trip; an error reply stands in the reply's place. Raises RedisError
        or OSError when the connection failed. It is an attribute, so that scripts pay for no call in between."""

    @classmethod
    def connect(cls, settings: ServerSettings, *, timeout_s: float = 5.0, max_connections: int = 32) -> Servers:
        """The servers that ``settings`` lead to. Nothing is sent yet: the first command opens a connection.

        A command waits up to ``timeout_s`` for its reply, and as long for one of ``max_connections`` to be free.
        ConfigError for certificates that are none.
        """
        return cls(make_client(settings, timeout_s=timeout_s, max_connections=max_connections))

    async def close(self) -> None:
        """Closes the connections. Twice is harmless."""
        await self._client.aclose()

    # -- commands -----------------------------------------------------------------------------------------------

    async def ask(self, *command: str | bytes | int | float) -> Any:
        """The reply to one command. StoreUnavailable, or another error of `loader.translate`."""
        return (await self.ask_many((command,)))[0]

    async def ask_many(self, commands: Sequence[Command]) -> list[Any]:
        """One reply for each command, in one round trip; the first error that is among them is raised, as by `ask`."""
        replies = await self.replies(commands)
        for reply in replies:
            if isinstance(reply, BaseException):
                raise reply
        return replies

    async def replies(self, commands: Sequence[Command]) -> list[Any]:
        """As `ask_many`, but an error reply stands in the reply's place. StoreUnavailable when no server answered."""
        if not commands:
            return []
        try:
            found = await self.send(commands)
        except (RedisError, OSError) as error:
            raise translate(error) from error
        return [translate(reply) if isinstance(reply, BaseException) else reply for reply in found]

    async def together(self, commands: Sequence[Command]) -> list[Any]:
        """As `ask_many`, in one moment (MULTI): all keys must be of one partition, or one and the same."""
        *_, done = await self.ask_many([("MULTI",), *commands, ("EXEC",)])
        replies: list[Any] = done
        for reply in replies:
            if isinstance(reply, BaseException):
                raise translate(reply)
        return replies

    async def keys_like(self, pattern: str, count: int) -> AsyncIterator[list[bytes]]:
        """All keys that match a pattern, some at a time. ``count``: about how many keys one round trip looks at."""
        cursor: bytes | int = 0
        while True:
            cursor, found = await self.ask("SCAN", cursor, "MATCH", pattern, "COUNT", count)
            yield found
            if int(cursor) == 0:
                return

    # -- channels -----------------------------------------------------------------------------------------------

    async def publish(self, channel: str, message: str | bytes) -> int:
        """How many subscribers a message reached. StoreUnavailable."""
        return int(await self.ask("PUBLISH", channel, message))

    async def listeners(self, channel: str) -> int:
        """How many subscribe to a channel now. StoreUnavailable."""
        reply = await self.ask("PUBSUB", "NUMSUB", channel)
        return int(reply[1]) if reply else 0

    def subscribe(self, *channels: str) -> Subscription:
        """A subscription to channels, not opened yet."""
        return Subscription(self._client, channels)

    # -- what the servers are -----------------------------------------------------------------------------------

    async def probe(self) -> ServerFeatures:
        """What the servers can do. StoreRefused: they cannot be trusted with tasks, or refuse us. StoreUnavailable."""
        return await probe(self._client)

    async def info(self) -> Mapping[str, Any]:
        """INFO's fields by name; empty where an ACL forbids it. StoreUnavailable."""
        try:
            return await info_of(self._client)
        except (RedisError, OSError) as error:
            raise translate(error) from error

    async def setting(self, name: str) -> str:
        """A setting of the server; empty where it is hidden from us."""
        reply = (await self.replies([("CONFIG", "GET", name)]))[0]
        return next((value.decode() for value in reply.values()), "") if isinstance(reply, dict) else ""

    async def time_ms(self) -> int:
        """The server's clock, Unix ms. StoreUnavailable."""
        return milliseconds(await self.ask("TIME"))

    async def measured_clock_offset_ms(self) -> float:
        """The server's clock minus this machine's, from the quickest of a few round trips. StoreUnavailable.

        0 where they differ by less than this can measure: probably it is one clock, and no task must seem early by it.
        """
        best, offset = float("inf"), 0.0
        for _ in range(_CLOCK_LOOKS):
            sent = time.time()
            seconds, micros = await self.ask("TIME")
            answered = time.time()
            if answered - sent < best:
                best = answered - sent
                offset = (int(seconds) + int(micros) / 1e6 - (sent + answered) / 2) * 1000
        return offset if abs(offset) > best * 1000 / 2 else 0.0


def milliseconds(reply: Sequence[bytes]) -> int:
    """A reply to TIME in Unix ms."""
    seconds, micros = reply
    return int(seconds) * 1000 + int(micros) // 1000
