"""Attempts that leave their session, and the leases that their tasks lie in."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from delaybox.wire.gen import worker_pb2 as pb

T = TypeVar("T")


class Reports(Protocol):
    """Takes what an attempt reports: a session, or a stray while no session has it."""

    max_output: int

    def done(self, sequence: int) -> None: ...

    def succeeded(self, sequence: int, output: bytes, content_type: str, duration_ms: int) -> None: ...

    def failed(self, sequence: int, failure: pb.Failed) -> None: ...

    def hand_back(self, sequences: Iterable[int]) -> None: ...

    def progress(self, sequence: int, fraction: float, message: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Parted(Generic[T]):
    """An attempt that leaves its session, with the lease that its task lies in.

    ``end``: its report, alone in a message, if there is one that the node has not confirmed.
    """

    sequence: int
    run: T
    partition: int
    lease: bytes
    end: pb.FromWorker | None = None


class Leases:
    """Finds the partition and lease of a sequence number."""

    def __init__(self, claims: Iterable[pb.Claim]) -> None:
        self._claims = sorted(claims, key=lambda claim: claim.first)
        self._firsts = [claim.first for claim in self._claims]

    def of(self, sequence: int) -> tuple[int, bytes] | None:
        """None: the node named no lease for it."""
        at = bisect_right(self._firsts, sequence) - 1
        if at < 0 or self._claims[at].last < sequence:
            return None
        return self._claims[at].partition, self._claims[at].lease


def reported(message: pb.FromWorker) -> Iterator[int]:
    """The sequence numbers of the attempts whose end a message reports."""
    yield from message.done
    yield from message.handed_back
    yield from (success.sequence for success in message.succeeded)
    yield from (failure.sequence for failure in message.failed)
