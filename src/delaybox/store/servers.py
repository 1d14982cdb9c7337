"""The servers of a store: the only maker of connections, round trips and subscriptions.

Callers name keys and channels, never a server: a key's hash tag names its partition, and the partition its server.
One server holds all of them, or a cluster: then `send` parts commands by their keys' slots, and a channel of a
partition is listened to at the server of its slot (`store.cluster`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from delaybox.core.errors import StoreRefused
from delaybox.store import roundtrips
from delaybox.store.address import ServerSettings
from delaybox.store.cluster import ServerCluster
from delaybox.store.cluster_subscription import Spread
from delaybox.store.connect import close_client, make_client
from delaybox.store.durability_waits import Confirmation
from delaybox.store.loader import translate
from delaybox.store.primaries import Primary
from delaybox.store.probe import ServerFeatures, ServerReport, clock_offset_ms, probe, probe_cluster, report
from delaybox.store.subscription import Subscribed, Subscription

Command = tuple[str | bytes | int | float, ...]
"""A command of Redis, word by word. The second word is its key, if it has one."""

Send = Callable[[Sequence[tuple[Any, ...]]], Awaitable[list[Any]]]
"""See `Servers.send`."""


class Servers:
    """The servers of one store, or of a command that looks at them. Replies are those of RESP3: bytes, int, dict."""

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._settings: ServerSettings | None = None
        self._limits: tuple[float, int] = (5.0, 32)
        self._finding = asyncio.Lock()
        self._cluster: ServerCluster | None = None
        self.send: Send = roundtrips.of(client).send
        """One reply for each command, in one round trip; an error reply stands in the reply's place. Raises RedisError
        or OSError when the connection failed. It is an attribute, so that scripts pay for no call in between."""

    @classmethod
    def connect(cls, settings: ServerSettings, *, timeout_s: float = 5.0, max_connections: int = 32) -> Servers:
        """The servers that ``settings`` lead to. Nothing is sent yet: the first command opens a connection.

        A command waits up to ``timeout_s`` for its reply, and as long for one of ``max_connections`` to be free.
        ConfigError for certificates that are none.
        """
        servers = cls(make_client(settings, timeout_s=timeout_s, max_connections=max_connections))
        # A socket of this machine leads to one server, and so does a sentinel.
        if not settings.unix_path and not settings.sentinel:
            servers._settings = settings
            servers._limits = timeout_s, max_connections
            servers.send = servers._find_and_send
        return servers

    async def close(self) -> None:
        """Closes the connections. Twice is harmless."""
        if self._cluster is not None:
            await self._cluster.close()
        await close_client(self._client)

    async def find(self) -> None:
        """Finds out whether there is one server or a cluster, if that is not known yet. The first command does it by
        itself. StoreUnavailable."""
        try:
            await self._find()
        except (RedisError, OSError) as error:
            raise translate(error) from error

    async def _find(self) -> None:
        async with self._finding:
            # Another command may have found it out meanwhile.
            if self._settings is not None:
                await self._find_by(self._settings)

    async def _find_by(self, settings: ServerSettings) -> None:
        timeout_s, most = self._limits
        last: BaseException | None = None
        starts = ((settings.host, settings.port), *settings.more)
        for at, (host, port) in enumerate(starts):
            there = replace(settings, host=host, port=port, more=starts)
            first = self._client if not at else make_client(there, timeout_s=timeout_s, max_connections=most)
            try:
                self._cluster = await ServerCluster.found(first, there, timeout_s=timeout_s, max_connections=most)
            except (RedisError, OSError) as error:
                last = error
                if at:
                    await first.aclose()
                continue
            if at:
                await self._client.aclose()
                self._client = first
            self.send = self._cluster.send if self._cluster is not None else roundtrips.of(first).send
            self._settings = None
            return
        assert last is not None
        raise last

    def confirmed(self, confirmation: Confirmation) -> Send:
        """As `send`, for scripts alone: what they wrote is confirmed before the replies are there. For servers that
        were found."""
        if self._cluster is not None:
            return partial(self._cluster.send, confirmation=confirmation)
        return partial(confirmation.send, roundtrips.of(self._client).send)

    async def _find_and_send(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        await self._find()
        return await self.send(commands)

    # -- several servers ----------------------------------------------------------------------------------------

    @property
    def sharded(self) -> bool:
        """Whether there is a cluster, whose scripts publish on a partition's channels at its own server alone."""
        return self._cluster is not None

    def shard_of(self, key: str) -> int:
        """The number of the server that has a key; 0 where there is one server. After a fail-over the number is the
        same."""
        return 0 if self._cluster is None else self._cluster.shard_of(key)

    def reachable(self, key: str) -> bool:
        """Whether the server that has a key answers, as far as is known. Of one server nothing is known before it is
        asked."""
        return self._cluster is None or self._cluster.reachable(key)

    def follow(self, follower: Callable[[], None]) -> None:
        """Calls ``follower`` whenever keys have moved to another server, or a server answers again."""
        if self._cluster is not None:
            self._cluster.follow(follower)

    def unfollow(self, follower: Callable[[], None]) -> None:
        """Calls it no more. Twice is harmless."""
        if self._cluster is not None:
            self._cluster.unfollow(follower)

    def primaries(self) -> list[Primary]:
        """The primaries of the cluster; none where there is one server."""
        return [] if self._cluster is None else self._cluster.primaries()

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
        if self._cluster is None:
            *_, done = await self.ask_many([("MULTI",), *commands, ("EXEC",)])
        else:
            try:
                *_, done = await self._cluster.together(commands)
            except (RedisError, OSError) as error:
                raise translate(error) from error
        replies: list[Any] = done
        for reply in replies:
            if isinstance(reply, BaseException):
                raise translate(reply)
        return replies

    async def keys_like(self, pattern: str, count: int) -> AsyncIterator[list[bytes]]:
        """All keys that match a pattern, some at a time. ``count``: about how many keys one round trip looks at."""
        if self._cluster is not None:
            try:
                async for found in self._cluster.keys_like(pattern, count):
                    yield found
            except (RedisError, OSError) as error:
                raise translate(error) from error
            return
        cursor: bytes | int = 0
        while True:
            cursor, found = await self.ask("SCAN", cursor, "MATCH", pattern, "COUNT", count)
            yield found
            if int(cursor) == 0:
                return

    # -- channels -----------------------------------------------------------------------------------------------

    async def publish(self, channel: str, message: str | bytes) -> int:
        """How many subscribers a message reached: of a cluster, those at one of its servers. StoreUnavailable."""
        return int(await self.ask("PUBLISH", channel, message))

    async def notify(self, channel: str, message: str | bytes) -> None:
        """Publishes on a partition's channel, as scripts do there. StoreUnavailable."""
        await self.ask("PUBLISH" if self._cluster is None else "SPUBLISH", channel, message)

    async def listeners(self, channel: str) -> int:
        """How many subscribe to a channel now. StoreUnavailable."""
        if self._cluster is not None:
            counts = await self._cluster.at_each("PUBSUB", "NUMSUB", channel)
            return sum(_first_count(reply) for reply in counts if not isinstance(reply, BaseException))
        reply = await self.ask("PUBSUB", "NUMSUB", channel)
        return _first_count(reply)

    def subscribe(self, *channels: str) -> Subscribed:
        """A subscription to channels, not opened yet. Of a cluster, those of partitions are listened to at their own
        servers."""
        return Subscription(self._client, channels) if self._cluster is None else Spread(self._cluster, channels)

    # -- what the servers are -----------------------------------------------------------------------------------

    async def probe(self) -> ServerFeatures:
        """What the servers can do. StoreRefused: they cannot be trusted with tasks, or refuse us. StoreUnavailable."""
        # What is wrong with a server that does not answer the probe itself says better.
        with contextlib.suppress(RedisError, OSError):
            await self._find()
        if self._cluster is not None:
            return await probe_cluster(self._cluster)
        features = await probe(self._client)
        if features.cluster:
            raise StoreRefused(
                "the server is one of a cluster, and the other ones cannot be found through it; give it as "
                "redis://host:port, and where the server has ACL users allow `+cluster|slots +cluster|nodes +asking` "
                "to DelayBox's user"
            )
        return features

    async def reports(self, *, settings: bool = True) -> list[ServerReport]:
        """What each primary reports of itself (`probe.report`); those that do not answer are left out. StoreUnavailable
        where there is one server and it does not answer."""
        if self._cluster is None:
            try:
                return [await report(self._client, "", settings=settings)]
            except (RedisError, OSError) as error:
                raise translate(error) from error
        found = await asyncio.gather(
            *(report(link.client, str(link), settings=settings) for link in self._cluster.links), return_exceptions=True
        )
        return [one for one in found if isinstance(one, ServerReport)]

    async def prepare(self, source: str) -> bool:
        """Has each server compile a script before it is needed. What fails is left to the first run of the script.
        Whether there was an answer."""
        command = ("SCRIPT", "LOAD", source)
        try:
            await (self.send([command]) if self._cluster is None else self._cluster.at_each(*command))
        except (RedisError, OSError):
            return False
        return True

    async def measured_clock_offset_ms(self) -> float:
        """The server's clock minus this machine's (`probe.clock_offset_ms`); of a cluster that of any server.
        StoreUnavailable."""
        try:
            return await clock_offset_ms(self.send)
        except (RedisError, OSError) as error:
            raise translate(error) from error


def _first_count(reply: Any) -> int:
    """PUBSUB NUMSUB's figure for the first channel; over RESP3 it is a map."""
    if isinstance(reply, dict):
        return int(next(iter(reply.values()), 0))
    return int(reply[1]) if reply else 0


def milliseconds(reply: Sequence[bytes]) -> int:
    """A reply to TIME in Unix ms."""
    seconds, micros = reply
    return int(seconds) * 1000 + int(micros) // 1000
