"""Attempts on their way from one node to another: their session is over or ends, and no node has adopted them yet.

No I/O here. The crew adds strays and passes the nodes' answers on; sessions that can adopt are offered all there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Generic, TypeVar

from delaybox.wire.gen import worker_pb2 as pb
from delaybox.worker.parted import Parted
from delaybox.worker.session import CARRIED_AT_ONCE, NodeSession

T = TypeVar("T")


class Stray(Generic[T]):
    """Takes the report of one attempt in place of a session, until a node adopts it.

    ``giver``: the session of a node that goes away and is still there; it is informed when another node has the task.
    """

    def __init__(self, parted: Parted[T], *, max_output: int, giver: NodeSession[T] | None = None) -> None:
        self.run = parted.run
        self.partition, self.lease = parted.partition, parted.lease
        self.max_output = max_output
        self.number = 0
        self.over = False
        """It was adopted or lost."""
        self._giver, self._given = giver, parted.sequence
        self._end = parted.end
        self._progress: tuple[float, str] | None = None

    @property
    def running(self) -> bool:
        """Whether nothing was reported yet."""
        return self._end is None

    # Reports, as a session takes them. The sequence number is that of a session that is over.

    def done(self, sequence: int) -> None:
        """The task ended well and nobody wants its result."""
        self._end = pb.FromWorker(done=[0])

    def succeeded(self, sequence: int, output: bytes, content_type: str, duration_ms: int) -> None:
        """The task ended well, with a result to keep."""
        success = pb.Succeeded(output=output, content_type=content_type, duration_ms=duration_ms)
        self._end = pb.FromWorker(succeeded=[success])

    def failed(self, sequence: int, failure: pb.Failed) -> None:
        """The attempt failed."""
        self._end = pb.FromWorker(failed=[failure])

    def hand_back(self, sequences: Iterable[int]) -> None:
        """The task is handed back, untouched."""
        self._end = pb.FromWorker(handed_back=[0])

    def progress(self, sequence: int, fraction: float, message: str) -> None:
        """How far the task is; the last report is passed on."""
        self._progress = fraction, message

    def settle(self, session: NodeSession[T], sequence: int) -> None:
        """A node has adopted the task: its session gets the report, now or later."""
        session.held[sequence] = self.run
        if self._progress is not None:
            session.progress(sequence, *self._progress)
        end = self._end
        if end is None:
            return
        if end.done:
            session.done(sequence)
        elif end.handed_back:
            session.hand_back((sequence,))
        for success in end.succeeded:
            session.succeeded(sequence, success.output, success.content_type, success.duration_ms)
        for failure in end.failed:
            session.failed(sequence, failure)

    def close(self) -> None:
        """It is not on its way any more."""
        self.over = True
        if self._giver is not None:
            self._giver.gave(self._given)


class Strays(Generic[T]):
    """All strays of a crew. ``takers``: sessions that are connected and whose nodes adopt."""

    def __init__(self) -> None:
        self.takers: list[NodeSession[T]] = []
        self._free: list[Stray[T]] = []
        self._offered: dict[int, tuple[NodeSession[T], Stray[T]]] = {}
        self._number = 0

    def __len__(self) -> int:
        return len(self._free) + len(self._offered)

    @property
    def running(self) -> list[T]:
        """The attempts among them that have not ended."""
        strays = [*self._free, *(stray for _, stray in self._offered.values())]
        return [stray.run for stray in strays if stray.running]

    def add(self, strays: Sequence[Stray[T]]) -> None:
        """Adds strays; `arrange` offers them."""
        self._free += strays

    def arrange(self) -> Sequence[tuple[NodeSession[T], Sequence[Stray[T]]]]:
        """Which session the strays without one are to be offered to; the caller offers them with `offered`."""
        if not self.takers or not self._free:
            return ()
        free, self._free = self._free, []
        taker = min(self.takers, key=lambda session: len(session.held))
        for stray in free:
            self._number += 1
            stray.number = self._number
            self._offered[stray.number] = (taker, stray)
        by: dict[tuple[int, bytes], list[Stray[T]]] = {}
        for stray in free:
            by.setdefault((stray.partition, stray.lease), []).append(stray)
        return [
            (taker, group[at : at + CARRIED_AT_ONCE])
            for group in by.values()
            for at in range(0, len(group), CARRIED_AT_ONCE)
        ]

    def answered(self, session: NodeSession[T], number: int) -> Stray[T] | None:
        """The stray that a node answered for; None when it was not offered to that session, or is over."""
        taker, stray = self._offered.get(number, (None, None))
        if taker is not session or stray is None:
            return None
        del self._offered[number]
        stray.close()
        return stray

    def free(self, session: NodeSession[T]) -> None:
        """This session is over: what it was offered, and has not answered, is offered to others."""
        for number, (taker, stray) in list(self._offered.items()):
            if taker is session:
                del self._offered[number]
                self._free.append(stray)

    def give_up(self, strays: Sequence[Stray[T]]) -> list[Stray[T]]:
        """No node has adopted these in time. Returns those that were still on their way."""
        late = {id(stray) for stray in strays if not stray.over}
        self._free = [stray for stray in self._free if id(stray) not in late]
        self._offered = {n: pair for n, pair in self._offered.items() if id(pair[1]) not in late}
        gone = [stray for stray in strays if id(stray) in late]
        for stray in gone:
            stray.close()
        return gone
