"""Which partitions this member keeps time for: its own, and those whose owner has gone quiet."""

from __future__ import annotations

from collections.abc import Callable

Kept = Callable[[frozenset[int]], None]
"""Gets all partitions that this member keeps time for, whenever these change or those that it watches."""


class Ownership:
    """Until the first list of members is read this member keeps all: every script is safe from everybody.

    ``stands_in``: partitions that it watches, to keep them while their owner does not.
    """

    def __init__(self, partitions: int) -> None:
        self.owned = frozenset(range(partitions))
        self.stands_in: frozenset[int] = frozenset()
        self.kept = self.owned
        self._acting: frozenset[int] = frozenset()
        self._followers: list[Kept] = []

    def follow(self, follower: Kept) -> None:
        """Calls ``follower`` at every change."""
        self._followers.append(follower)

    def assign(self, owned: frozenset[int], stands_in: frozenset[int]) -> None:
        """By the list of members as it is now."""
        if (owned, stands_in) != (self.owned, self.stands_in):
            self.owned, self.stands_in = owned, stands_in
            self._settle(self._acting & stands_in)

    def act(self, partition: int) -> None:
        """Its owner does not look: keeps it as well."""
        self._settle(self._acting | {partition} & self.stands_in)

    def rest(self, partition: int) -> None:
        """Its owner looks again."""
        self._settle(self._acting - {partition})

    def acts(self, partition: int) -> bool:
        """Whether it is kept in its owner's place."""
        return partition in self._acting

    def _settle(self, acting: frozenset[int]) -> None:
        self._acting = acting
        self.kept = self.owned | acting
        for follower in self._followers:
            follower(self.kept)
