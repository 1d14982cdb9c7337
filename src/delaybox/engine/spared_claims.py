"""What the guests of a process spare each other: one of them claims, and only where it left something the others do.

A message says that something is due in a partition, and not of which function. Guests that serve other functions each
claimed then, and all but one found nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeVar

BEHIND_MS = 1.0
"""Others wake this much later for what is due at a known moment, so that the claim of the favourite is under way. Its
end wakes them sooner where it left something. With 0.2 they often came first: a favourite with a task a millisecond is
that busy."""


class Clear(NamedTuple):
    """What a claim found: at ``now_ms`` nothing was due any more, for anybody. ``next_due_ms``: -1: nothing is near."""

    now_ms: int
    next_due_ms: int


class GuestTracker(Protocol):
    """A tracker of one of the guests."""

    def spared(self, partition: int, claim: int, clear: Clear | None) -> None:
        """Another one's claim from there has ended. None: work may be left, or it failed."""


G = TypeVar("G")


class SparedClaims:
    """The claims under way of all guests of a process.

    Messages and claims are numbered in one order: a claim with a higher number than a message was sent after the
    message had come, so it has seen what that announced. ``favourite``: the guest that got a task last; it waits for
    nobody, because the next task is most likely its own.
    """

    def __init__(self) -> None:
        self.favourite: object = None
        self._under_way: dict[int, int] = {}
        """The number of the last claim under way in each partition."""
        self._trackers: list[GuestTracker] = []
        self._count = 0

    def join(self, tracker: GuestTracker) -> None:
        """A tracker claims beside the others."""
        self._trackers.append(tracker)

    def leave(self, tracker: GuestTracker) -> None:
        """It claims no more. Twice is harmless."""
        if tracker in self._trackers:
            self._trackers.remove(tracker)

    def first(self, guests: Iterable[G]) -> list[G]:
        """The favourite before the others."""
        return sorted(guests, key=lambda guest: guest is not self.favourite)

    def behind_ms(self, guest: object) -> float:
        """How much later than the favourite this one wakes."""
        return 0.0 if len(self._trackers) < 2 or self.favourite in (None, guest) else BEHIND_MS

    def held_off(self, guest: object, learned: Sequence[int]) -> set[int]:
        """Partitions from which another guest's claim is under way that may spare this one its own. ``learned``: by
        partition the number of what it learned last."""
        if not self._under_way or self.favourite is guest:
            return set()
        return {p for p, claim in self._under_way.items() if claim > learned[p]}

    def number(self) -> int:
        """The number of something that has just happened."""
        self._count += 1
        return self._count

    def begin(self, partitions: Collection[int]) -> int:
        """A claim from these is sent now; its number."""
        claim = self.number()
        if len(self._trackers) > 1:
            self._under_way |= dict.fromkeys(partitions, claim)
        return claim

    def end(self, tracker: GuestTracker, partitions: Collection[int], claim: int, clear: Mapping[int, Clear]) -> None:
        """The claim has ended, whether it was answered or not."""
        for p in partitions:
            if self._under_way.get(p) == claim:
                del self._under_way[p]
        for other in self._trackers:
            if other is not tracker:
                for p in partitions:
                    other.spared(p, claim, clear.get(p))
