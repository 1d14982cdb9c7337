"""Where this member claims WORKER tasks, and whether it answers a call for help."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence

from delaybox.core.placement import Server, placed

_TASKS_EACH = 50
"""A call wakes one more member for each of this many waiting tasks."""
_TRIES = 16


class Placement:
    """Until a list with this member on it was read, it claims in every partition, as if it were alone."""

    def __init__(self, member_id: str, partitions: int) -> None:
        self._id = member_id
        self._partitions = partitions
        self._placed: list[frozenset[bytes]] | None = None
        self._withdrawn = False
        self._listed: frozenset[bytes] = frozenset()
        self._others: frozenset[bytes] | None = None
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
        self._others = None
        self._placed = placed(self._id, servers, self._partitions) if self._listed else None
        for follower in self._followers:
            follower()

    def withdraw(self) -> None:
        """This member claims nowhere any more: its workers finish what they have, and others claim in its place."""
        self._withdrawn = True
        for follower in self._followers:
            follower()

    def among(self, partition: int, lanes: Sequence[bytes]) -> tuple[bytes, ...]:
        """Those of ``lanes`` that this member claims there. One that no list has yet is claimed everywhere."""
        if self._withdrawn:
            return ()
        if self._placed is None:
            return tuple(lanes)
        mine = self._placed[partition]
        return tuple(lane for lane in lanes if lane in mine or lane not in self._listed)

    def others_run(self, lanes: Collection[bytes]) -> bool:
        """Whether each of these lanes is served by another member as well."""
        if self._others is None:
            self._others = frozenset().union(*(server.lanes for server in self._servers if server.id != self._id))
        return self._others.issuperset(lanes)

    @property
    def count(self) -> int:
        """How many members have connected workers."""
        return len(self._servers)

    def drawn(self, seed: int, waiting: int) -> tuple[str, ...]:
        """The two members, this one among them, of which the one with more room answers a call; it alone, where it
        answers in any case; (): neither. All compute the same pairs, so no message is needed.
        """
        called = 1 + waiting // _TASKS_EACH
        if called >= len(self._servers):
            return (self._id,)
        drawn = self._draw(seed, 2 * called)
        at = next((at for at, server in enumerate(drawn) if server.id == self._id), -1)
        return tuple(server.id for server in drawn[at & ~1 : (at & ~1) + 2]) if at >= 0 else ()

    def run_the_same(self, pair: Sequence[str]) -> bool:
        """Whether these two have a lane in common."""
        one, other = ([lane for s in self._servers if s.id == name for lane in s.lanes] for name in pair)
        return not frozenset(one).isdisjoint(other)

    def seed_for_others(self, seed: int) -> int:
        """A seed from this one on by which this member is not drawn for a single task, if there are others enough."""
        if len(self._servers) <= 2:
            return seed
        for other in range(seed, seed + _TRIES):
            if self._id not in {server.id for server in self._draw(other, 2)}:
                return other
        return seed

    def _draw(self, seed: int, count: int) -> list[Server]:
        return random.Random(seed).sample(self._servers, min(count, len(self._servers)))
