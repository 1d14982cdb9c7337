"""The Go original's pending tasks: a sorted set of serialized tasks, scored by their due time in ms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from delaybox.core.errors import StoreRefused
from delaybox.store import keys
from delaybox.store.servers import Servers
from delaybox.store.store import Store

_FOLDED_KEPT_S = 30 * 24 * 3600


class OriginalSet:
    """The set ``key`` on the original's server. Every method: StoreUnavailable when that does not answer."""

    def __init__(self, servers: Servers, key: str) -> None:
        self._servers = servers
        self._key = key

    async def size(self) -> int:
        """How many members it has. StoreRefused where the key holds something else."""
        kind = (await self._servers.ask("TYPE", self._key)).decode()
        if kind not in ("zset", "none"):
            raise StoreRefused(f"key {self._key!r} is a {kind}, not the original's sorted set; name the right key")
        return int(await self._servers.ask("ZCARD", self._key))

    async def members(self, at: int, count: int) -> list[tuple[bytes, float]]:
        """(member, score) from rank ``at`` on, lowest score first."""
        found = await self._servers.ask("ZRANGE", self._key, at, at + count - 1, "WITHSCORES")
        return [(member, float(score)) for member, score in found]

    async def remove(self, members: Sequence[bytes]) -> None:
        """Removes members, in one command. Members that are not there are ignored."""
        await self._servers.ask("ZREM", self._key, *members)


async def keep_folded(store: Store, folded: Mapping[str, str]) -> None:
    """Stores for 30 days which task stands for each folded copy: uuid of the copy -> id of the task."""
    key = keys.folded(store.prefix)
    fields = [part for pair in folded.items() for part in pair]
    await store.servers.ask_many([("HSET", key, *fields), ("EXPIRE", key, _FOLDED_KEPT_S)])
