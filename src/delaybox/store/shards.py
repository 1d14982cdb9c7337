"""Which partitions lie at the same server, and how far the clock of each server is off."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from delaybox.store.servers import Servers


class Shards:
    """``of``: for each partition the number of its server (`Servers.shard_of`). Where there is one server, all are
    0."""

    def __init__(self, servers: Servers, tags: Sequence[str]) -> None:
        self._servers = servers
        self._tags = tags
        self._offsets_ms: dict[int, int] = {}
        self.of: list[int] = []
        self.several = False
        """Whether partitions lie at more servers than one."""
        self._place()
        servers.follow(self._place)

    def _place(self) -> None:
        self.of = [self._servers.shard_of(tag) for tag in self._tags]
        self.several = len(set(self.of)) > 1

    def group(self, partitions: Iterable[int]) -> dict[int, list[int]]:
        """Partitions by the number of their server."""
        found: dict[int, list[int]] = {}
        for p in partitions:
            found.setdefault(self.of[p], []).append(p)
        return found

    def reachable(self, partition: int) -> bool:
        """Whether the partition's server answers, as far as is known."""
        return self._servers.reachable(self._tags[partition])

    def follow(self, follower: Callable[[], None]) -> None:
        """Calls ``follower`` whenever partitions have moved to another server, or a server answers again."""
        self._servers.follow(follower)

    def unfollow(self, follower: Callable[[], None]) -> None:
        """Calls it no more. Twice is harmless."""
        self._servers.unfollow(follower)

    def observe(self, partition: int, now_ms: int) -> int:
        """Takes the clock that the partition's server has just answered (ms), and returns it."""
        self._offsets_ms[self.of[partition]] = now_ms - time.time_ns() // 1_000_000
        return now_ms

    def now_ms(self, partition: int) -> int:
        """The clock of the partition's server, by this machine's and how far that was off at the last answer."""
        return time.time_ns() // 1_000_000 + self._offsets_ms.get(self.of[partition], 0)
