"""Which partitions this member keeps time for: its own, and those whose owner has stopped looking."""

from __future__ import annotations

from collections.abc import Callable

Kept = Callable[[frozenset[int]], None]
"""Called with all partitions that this member keeps time for, whenever these change, or those that it watches."""


class Ownership:
    """Until the first list of members is read, this member keeps time for all, because every script is safe from
    everybody.

    ``stands_in``: partitions that it watches, and keeps time for while their owner does not.
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
        """Applies a new list of members."""
        if (owned, stands_in) != (self.owned, self.stands_in):
            self.owned, self.stands_in = owned, stands_in
            self._settle(self._acting & stands_in)

    def act(self, partition: int) -> None:
        """The owner of this partition does not look, so this member keeps time for it as well."""
        self._settle(self._acting | {partition} & self.stands_in)

    def rest(self, partition: int) -> None:
        """The owner of this partition looks again."""
        self._settle(self._acting - {partition})

    def acts(self, partition: int) -> bool:
        """Whether this member keeps time for the partition in its owner's place."""
        return partition in self._acting

    def _settle(self, acting: frozenset[int]) -> None:
        self._acting = acting
        self.kept = self.owned | acting
        for follower in self._followers:
            follower(self.kept)
