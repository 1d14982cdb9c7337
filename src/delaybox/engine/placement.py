"""Where this member claims WORKER tasks, and whether it answers a call for help."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from delaybox.core.placement import Server, placed

_AT_LEAST = 2
_TASKS_EACH = 50
"""A call wakes one more member for each of this many waiting tasks."""


class Placement:
    """Until a list with this member on it was read, it claims in every partition, as if it were alone."""

    def __init__(self, member_id: str, partitions: int) -> None:
        self._id = member_id
        self._partitions = partitions
        self._placed: list[frozenset[bytes]] | None = None
        self._listed: frozenset[bytes] = frozenset()
        self._servers: list[Server] = []
        self._followers: list[Callable[[], None]] = []

    @property
    def known(self) -> bool:
        """Whether a list with this member was read."""
        return self._placed is not None

    @property
    def alone(self) -> bool:
        """Whether there is no other member that could help."""
        return len(self._servers) < 2

    def follow(self, follower: Callable[[], None]) -> None:
        """Calls ``follower`` at every change."""
        self._followers.append(follower)

    def assign(self, servers: Sequence[Server]) -> None:
        """Applies a new list of members: those that have connected workers."""
        if list(servers) == self._servers:
            return
        self._servers = sorted(servers)
        self._listed = next((server.lanes for server in servers if server.id == self._id), frozenset())
        self._placed = placed(self._id, servers, self._partitions) if self._listed else None
        for follower in self._followers:
            follower()

    def among(self, partition: int, lanes: Sequence[bytes]) -> tuple[bytes, ...]:
        """Those of ``lanes`` that this member claims there. One that no list has yet is claimed everywhere."""
        if self._placed is None:
            return tuple(lanes)
        mine = self._placed[partition]
        return tuple(lane for lane in lanes if lane in mine or lane not in self._listed)

    def called(self, seed: int, waiting: int) -> bool:
        """Whether this member is among the few that answer a call. All compute the same choice, so no message is
        needed.

        One task announced to 99 idle members that all claimed cost 6.7 ms of the server's time.
        """
        count = _AT_LEAST + waiting // _TASKS_EACH
        if count >= len(self._servers):
            return True
        return self._id in {server.id for server in random.Random(seed).sample(self._servers, count)}
