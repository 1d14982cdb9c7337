"""Sentinels: they name the primary, and a connection made through them leads to it, and to no other server.

All sentinels are asked twice a second, and of their answers the one of the newest epoch counts: a sentinel that was cut
off may still name the old primary. When the name leads to another server than before, all connections are closed that
lead to the old one, which may still answer, and would lose what it takes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from delaybox.store.asyncio_end import end
from delaybox.store.connections import Doubt, TcpConnection, TlsConnection
from delaybox.store.slots import Address

log = logging.getLogger("delaybox.store")

_LOOK_S = 0.5
_ANSWER_S = 0.5
"""A sentinel that does not answer within this time is left out."""
_FRESH_S = 0.25
"""So long after a look a new connection needs none of its own."""
_LEAVE_S = 0.1
"""What is under way at the old primary may still be answered for this long."""


class UnknownPrimary(RedisConnectionError):
    """No sentinel knows the name."""


class Sentinels:
    """The sentinels of one primary. ``clients``: one for each; ``doubt``: that of the connections to the primary."""

    def __init__(self, name: str, clients: list[Redis], doubt: Doubt, places: str) -> None:
        self._name = name
        self._clients = clients
        self._doubt = doubt
        self._places = places
        self._at: Address | None = None
        self._epoch = -1
        self._looked = -1e9
        self._looking: asyncio.Lock | None = None
        self._watching: asyncio.Task[None] | None = None
        self.leave: Callable[[], Any] = lambda: None
        """Closes all connections to the primary, those in use included."""

    def __str__(self) -> str:
        return f"{self._name!r} of the sentinels {self._places}"

    async def close(self) -> None:
        """Ends the looks. Twice is harmless."""
        watching, self._watching = self._watching, None
        if watching is not None:
            await end(watching)
        for client in self._clients:
            await client.aclose()

    async def primary(self) -> Address:
        """Where the primary is now. UnknownPrimary; RedisConnectionError when no sentinel answers."""
        loop = asyncio.get_running_loop()
        if self._watching is None:
            self._watching = loop.create_task(self._watch(), name="delaybox-sentinels")
            self._looking = asyncio.Lock()
        assert self._looking is not None
        async with self._looking:
            if self._at is None or loop.time() - self._looked > _FRESH_S:
                await self._look()
        assert self._at is not None
        return self._at

    async def _look(self) -> None:
        answers = await asyncio.gather(*(self._ask(client) for client in self._clients))
        self._looked = asyncio.get_running_loop().time()
        found = [answer for answer in answers if isinstance(answer, tuple)]
        if not found:
            unknown = [answer for answer in answers if isinstance(answer, ResponseError)]
            if unknown:
                raise UnknownPrimary(await self._unknown())
            raise RedisConnectionError(f"none of the sentinels {self._places} answers: {answers[0]}")
        epoch, address = max(found)
        if self._at is None or (epoch >= self._epoch and address != self._at):
            before, self._at = self._at, address
            if before is not None:
                log.warning(
                    "the sentinels name %s:%d as the primary %r, and %s:%d no more", *address, self._name, *before
                )
                self._doubt.count += 1
                await asyncio.sleep(_LEAVE_S)
                await self.leave()
        self._epoch = max(self._epoch, epoch)

    async def _ask(self, client: Redis) -> tuple[int, Address] | BaseException:
        try:
            async with asyncio.timeout(_ANSWER_S):
                reply: Any = await client.execute_command("SENTINEL", "MASTER", self._name)
        except (RedisError, OSError) as error:
            return error
        facts = {_text(name): _text(value) for name, value in _pairs(reply)}
        return int(facts.get("config-epoch", 0)), (facts["ip"], int(facts["port"]))

    async def _unknown(self) -> str:
        known: set[str] = set()
        for client in self._clients:
            with contextlib.suppress(RedisError, OSError, TimeoutError):
                async with asyncio.timeout(_ANSWER_S):
                    masters: Any = await client.execute_command("SENTINEL", "MASTERS")
                each = masters if isinstance(masters, list) else list(masters.values())
                known |= {_text(dict(_pairs(one)).get(b"name", b"")) for one in each}
        names = ", ".join(sorted(known - {""})) or "none"
        return (
            f"the sentinels {self._places} know no primary {self._name!r} (they know: {names}); correct the name at "
            "the end of the server's URL"
        )

    async def _watch(self) -> None:
        assert self._looking is not None
        while True:
            await asyncio.sleep(_LOOK_S)
            async with self._looking:
                try:
                    await self._look()
                except (RedisError, OSError) as error:
                    log.debug("no look at the sentinels: %s", error)


class _ByName:
    """Goes before a connection class in a list of base classes: connects to what the sentinels name."""

    def __init__(self, *, sentinels: Sentinels, **options: Any) -> None:
        self._sentinels = sentinels
        super().__init__(**options)

    async def _connect(self) -> None:
        self.host, self.port = await self._sentinels.primary()
        await super()._connect()  # type: ignore[misc]

    async def on_connect_check_health(self, check_health: bool = True) -> None:
        await super().on_connect_check_health(check_health)  # type: ignore[misc]
        # The sentinels know of a fail-over a moment before or after the servers do. Any user may ask this, unlike ROLE.
        await self.send_command("HELLO", 3, check_health=False)  # type: ignore[attr-defined]
        greeting = await self.read_response()  # type: ignore[attr-defined]
        if greeting[b"role"] != b"master":
            raise RedisConnectionError(f"{self.host}:{self.port} is not, or not yet, the primary that sentinels name")


class NamedTcpConnection(_ByName, TcpConnection):
    """Over TCP, to the primary that sentinels name."""


class NamedTlsConnection(_ByName, TlsConnection):
    """Over TLS, to the primary that sentinels name."""


def _pairs(reply: Any) -> list[tuple[Any, Any]]:
    if isinstance(reply, dict):
        return list(reply.items())
    return list(zip(reply[0::2], reply[1::2], strict=True))


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
