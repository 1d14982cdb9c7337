"""What takes tasks from a tracker in a test; a test changes what it is about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from delaybox.store.store import Claimed


class Collecting:
    """Collects the ids of what it gets, and has no lanes of its own."""

    types, free, in_flight = "s", 1_000, 0

    def __init__(self) -> None:
        self.got: list[bytes] = []

    def lanes_at(self, partition: int, *, all_: bool) -> tuple[bytes, ...]:
        return ()

    def waits(self, partition: int, queues: Mapping[bytes, int]) -> None: ...

    def names(self) -> str:
        return ""

    def fired_in_place(self, partition: int, claimed: Claimed) -> None: ...

    def met(self, lanes: Sequence[bytes]) -> bool:
        return False

    def full(self, partitions: Sequence[int]) -> None: ...

    def lends(self, partition: int) -> bool:
        return False

    def accept(self, partition: int, lease_id: bytes, leased: Sequence[bytes]) -> list[float]:
        self.got += leased[::2]
        return [0.0] * (len(leased) // 2)
