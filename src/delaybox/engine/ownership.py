"""Which partitions this member keeps time for: its own, those whose owner has stopped looking, and those whose new
owner has not begun to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from delaybox.core.membership import Member
from delaybox.core.ownership import Assignment, Candidate, assigned

Kept = Callable[[frozenset[int]], None]
"""Called with all partitions that this member keeps time for, whenever these change, or those that it watches."""
_MUCH = 100_000
"""Members times partitions: from here on shares are computed in a thread, for it takes longer than a claim."""


async def shared(members: Sequence[Member], partitions: int) -> list[Assignment]:
    """Who has which partition; [] without members. A node of the previous version divides evenly, whatever others can
    do, so all do while one of its members is among them."""
    stated = all(member.capacity is not None for member in members)
    candidates = [Candidate(m.id, m.host, (m.capacity if stated else None) or 1.0) for m in members]
    if len(candidates) * partitions > _MUCH:
        return await asyncio.to_thread(assigned, candidates, partitions)
    return assigned(candidates, partitions)


class Ownership:
    """Until the first list of members is read, this member keeps time for all, because every script is safe from
    everybody.

    ``stands_in``: partitions that it watches, and keeps time for while their owner does not. ``acting``: those of them
    where it does. ``ceded``: partitions of others by now that it keeps time for until `release`.
    """

    def __init__(self, partitions: int) -> None:
        self.owned = frozenset(range(partitions))
        self.stands_in: frozenset[int] = frozenset()
        self.acting: frozenset[int] = frozenset()
        self.ceded: frozenset[int] = frozenset()
        self.kept = self.owned
        self._followers: list[Kept] = []

    def follow(self, follower: Kept, *, first: bool = False) -> None:
        """Calls ``follower`` at every change. ``first``: before the others."""
        self._followers.insert(0 if first else len(self._followers), follower)

    def assign(self, owned: frozenset[int], stands_in: frozenset[int], *, cedes: bool = False) -> None:
        """Applies a new list of members. ``cedes``: what it kept, and others own by now, is ceded."""
        if (owned, stands_in) != (self.owned, self.stands_in):
            acting = self.acting & stands_in
            if cedes:
                self.ceded = self.kept - owned - acting
            self.owned, self.stands_in = owned, stands_in
            self._settle(acting)

    def release(self, partitions: frozenset[int]) -> None:
        """Others look after these, which were ceded."""
        self.ceded -= partitions
        self._settle(self.acting)

    def act(self, partition: int) -> None:
        """The owner of this partition does not look, so this member keeps time for it as well."""
        self._settle(self.acting | {partition} & self.stands_in)

    def rest(self, partition: int) -> None:
        """The owner of this partition looks again."""
        self._settle(self.acting - {partition})

    def acts(self, partition: int) -> bool:
        """Whether this member keeps time for the partition in its owner's place."""
        return partition in self.acting

    def _settle(self, acting: frozenset[int]) -> None:
        self.acting = acting
        self.kept = self.owned | acting | self.ceded
        for follower in self._followers:
            follower(self.kept)


class PartOwnership(Ownership):
    """The partitions of an ownership that lie at one server. ``mine``: these partitions."""

    def __init__(self, whole: Ownership, mine: frozenset[int]) -> None:
        self._whole = whole
        self._mine = mine
        self._followers: list[Kept] = []
        self._take()
        whole.follow(lambda _: self._changed())

    def move(self, mine: frozenset[int]) -> None:
        """Partitions have come from another server, or gone to one."""
        if mine != self._mine:
            self._mine = mine
            self._changed()

    def act(self, partition: int) -> None:
        """As of the whole."""
        self._whole.act(partition)

    def rest(self, partition: int) -> None:
        """As of the whole."""
        self._whole.rest(partition)

    def acts(self, partition: int) -> bool:
        """As of the whole."""
        return self._whole.acts(partition)

    def _take(self) -> None:
        self.owned = self._whole.owned & self._mine
        self.stands_in = self._whole.stands_in & self._mine
        self.kept = self._whole.kept & self._mine

    def _changed(self) -> None:
        self._take()
        for follower in self._followers:
            follower(self.kept)
