"""For whom a tracker claims, and what its claims under way may bring."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

from delaybox.store.store import Claimed


class Taker(Protocol):
    """The taker for whom a tracker claims: what it serves, how much it can take now, and where tasks go."""

    @property
    def types(self) -> str:
        """Letters of the task types served by lease."""

    def lanes_at(self, partition: int, *, all_: bool) -> tuple[bytes, ...]:
        """The lanes of limited types (`store.replies.ClaimLimits`) that it claims there; ``all_``: that it serves."""

    @property
    def free(self) -> int:
        """Slots free."""

    @property
    def in_flight(self) -> int:
        """Deliveries handed out and not settled."""

    def names(self) -> str:
        """How claims are to name what they fire in place (`store.replies.ClaimLimits`)."""

    def fired_in_place(self, partition: int, claimed: Claimed) -> None:
        """A claim published tasks itself."""

    def full(self, partitions: Sequence[int]) -> None:
        """There is no room for what may be due there."""

    def lends(self, partition: int) -> bool:
        """Calls others to a partition, to claim there in its place for a while. Whether it did."""

    def waits(self, partition: int, queues: Mapping[bytes, int]) -> None:
        """These queues lack permits for what is ready there (`store.replies.Claimed.waits`)."""

    def met(self, lanes: Sequence[bytes]) -> bool:
        """A claim met lanes with needs that it did not name (`store.replies.Claimed.met`). Whether the next claim names
        one of them."""

    def accept(self, partition: int, lease_id: bytes, leased: Sequence[bytes]) -> list[float]:
        """Takes what one claim leased (flat: id, record, ...). Returns how late each task is (ms)."""


_ROUNDS = 2
"""Most rounds under way at once, but for one at each server."""
_FULL_CLAIM = 150


class Asked:
    """What claims under way may bring, of all trackers of one taker. ``count``: how many tasks; ``rounds``: those that
    overlap. ``fewer`` is called when the count falls: another tracker may wait for just that room; None for a tracker
    alone, which looks after its own claims at what they left."""

    def __init__(self) -> None:
        self.count = 0
        self.rounds = 0
        self.trackers = 1
        self.fewer: Callable[[], None] | None = None

    def room(self, free: int) -> int:
        """How many tasks a tracker may ask for now, of so many slots free: one of several takes its share of them, or
        the others would wait for its answer."""
        left = free - self.count
        return left if self.trackers == 1 else min(left, -(-free // self.trackers))

    def room_beside(self, free: int, own: int) -> int:
        """The same for a tracker that has asked for ``own`` of them already, which it keeps."""
        left = free - self.count + own
        return max(own, left if self.trackers == 1 else min(left, -(-free // self.trackers)))

    @contextmanager
    def holding(self, count: int) -> Iterator[None]:
        """Nobody else may ask for so many tasks meanwhile."""
        self.count += count
        try:
            yield
        finally:
            self.count -= count

    def enough(self, own: int) -> bool:
        """Whether a tracker with so many rounds under way begins no other.

        One at each of several servers keeps them busy. With two at each, this process had thousands of tasks in hand,
        and then too few slots for whole claims.
        """
        return own >= _ROUNDS or self.rounds >= max(_ROUNDS, self.trackers)

    def in_full(self, slots: int, most: int) -> int:
        """From how many partitions full claims can be made with so many slots. ``most``: tasks of one claim.

        A claim that brings as many as there were slots for passes for a lack of slots. So a share of the slots that are
        free is not divided into claims that are smaller than they might be.
        """
        return max(1, slots // (_FULL_CLAIM if self.trackers == 1 else most))

    def answered(self, count: int) -> None:
        """A claim that asked for so many is over."""
        self.count -= count
        if self.fewer is not None:
            self.fewer()
