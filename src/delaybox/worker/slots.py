"""Places for tasks, shared by the sessions with several servers, so that never more run than there are places."""

from __future__ import annotations

from typing import Protocol


class Holder(Protocol):
    """What `Slots` needs of a session."""

    @property
    def taken(self) -> int: ...

    def drain(self) -> None: ...


class Slots:
    """Gives each session an equal share. ``lingering`` places are taken by runs whose session is over.

    A session that joins while others hold all the credit gets its share as soon as they have taken some back.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.lingering = 0
        self.ahead = 0
        """Tasks that are to wait for a place, over all sessions."""
        self._holders: list[Holder] = []
        self._short: set[Holder] = set()

    def join(self, holder: Holder) -> None:
        """Adds a session; sessions that have more than their new share take credit back."""
        if holder in self._holders:
            return
        self._holders.append(holder)
        share = self.share
        for other in self._holders:
            if other.taken > share:
                other.drain()

    def leave(self, holder: Holder) -> None:
        """Removes a session. The caller must count what it still runs as ``lingering``."""
        if holder in self._holders:
            self._holders.remove(holder)
            self._short.discard(holder)

    @property
    def short(self) -> bool:
        """Some session got less than its share: all should ask again when a place comes free."""
        return bool(self._short)

    @property
    def share(self) -> int:
        """The share of one session, at least 1. With more sessions than places some wait for a place."""
        return max(1, self.size // max(1, len(self._holders)))

    @property
    def taken(self) -> int:
        """Places that are taken, in all sessions together."""
        return self.lingering + sum(holder.taken for holder in self._holders)

    def ahead_of(self, holder: Holder) -> int:
        """How many of `ahead` this session may have."""
        return self.ahead // len(self._holders) if holder in self._holders else 0

    def room(self, holder: Holder) -> int:
        """How much more credit this session may give; 0 for one that has not joined."""
        if holder not in self._holders:
            return 0
        share = self.share
        if holder is self._holders[0]:
            share += max(0, self.size - share * len(self._holders))  # what does not divide
        wanted = share - holder.taken
        free = self.size - self.taken
        if wanted > free:
            self._short.add(holder)
        else:
            self._short.discard(holder)
        return max(0, min(wanted, free))
