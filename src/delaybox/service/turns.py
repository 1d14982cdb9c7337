"""Which partition gets tasks that may lie in any."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from delaybox.service.pace import BulkPace
from delaybox.store.shards import Shards

IN_A_ROW = 4
"""Batches that go to partitions of one server, one after another, where there are several servers."""
BEHIND = 3
"""A server that has so many batches to answer gets no further one while another has fewer."""
AHEAD_IN_A_ROW = 16
AHEAD_BEHIND = 6
"""The same while the servers wait for this process, so that no more of them are woken than are needed."""


class Turns:
    """Each partition has its turn once in a round, but for those that are away or whose server stays behind until all
    others have had theirs. Partitions of one server follow one another: it then wakes for several batches, and its
    caches are warm for most of them (ADR 0074); for more of them while this process is what all wait for (ADR 0077).
    """

    def __init__(self, shards: Shards, pace: BulkPace | None = None) -> None:
        self._shards = shards
        self._pace = pace or BulkPace()
        self._placed: list[int] | None = None
        self._servers: list[int] = []
        self._partitions: dict[int, list[int]] = {}
        self._at = 0
        """Which server is in its row."""
        self._row = 0
        """How much of it is over."""
        self._most_in_a_row = IN_A_ROW
        self._left: dict[int, int] = {}
        """Turns of each server in this round."""
        self._cursors: dict[int, int] = {}
        self._unanswered: Counter[int] = Counter()

    def next(self, busy: Callable[[int], bool], *, waits: bool = False) -> int:
        """The partition whose turn it is. ``busy``: whether a server should get nothing now, if another one answers.

        ``waits``: somebody waits for this one round trip alone. It goes to a server with the fewest batches to answer,
        so that it need not wait for those of bulk calls, and the row of another server goes on after it.
        """
        if self._placed is not self._shards.of:
            self._arrange()
        if not waits and self._shards.several:
            self._pace.batch()
        ahead = self._pace.ahead
        most = (AHEAD_BEHIND if ahead else BEHIND) - 1
        if waits:
            most = min((self._unanswered[server] for server in self._servers if not busy(server)), default=most)
        self._most_in_a_row = AHEAD_IN_A_ROW if ahead else IN_A_ROW

        def keeps_up(server: int) -> bool:
            return self._unanswered[server] <= most and not busy(server)

        for takes in (keeps_up, lambda server: not busy(server), lambda _: True):
            for new_round in (False, True):
                found = self._first(takes, new_round=new_round, between=waits)
                if found is not None:
                    return found
        # Nothing answers, and the caller is told so of whichever it is.
        self._at = (self._at + 1) % len(self._servers)
        return self._partitions[self._servers[self._at]][0]

    @contextmanager
    def under_way(self, partitions: Sequence[int]) -> Iterator[None]:
        """While a batch for each of these partitions is."""
        servers = [self._shards.of[p] for p in partitions]
        self.sent(servers)
        try:
            yield
        finally:
            self.answered(servers)

    def sent(self, servers: Iterable[int]) -> None:
        """A batch was sent to each of these."""
        self._unanswered.update(servers)

    def answered(self, servers: Iterable[int]) -> None:
        """Each of these has answered a batch, or it is not waited for any more."""
        self._unanswered.subtract(servers)

    def _first(self, takes: Callable[[int], bool], *, new_round: bool, between: bool) -> int | None:
        for at in self._from_here():
            server = self._servers[at]
            if not new_round and not self._left[server]:
                continue
            if takes(server) and (found := self._reachable(server)) is not None:
                if new_round:
                    self._left = {server: len(partitions) for server, partitions in self._partitions.items()}
                self._left[server] -= 1
                if at == self._at and self._row < self._most_in_a_row:
                    self._row += 1
                elif not between or self._row >= self._most_in_a_row:
                    self._at, self._row = at, 1
                return found
        return None

    def _from_here(self) -> Iterator[int]:
        count = len(self._servers)
        first = self._at if self._row < self._most_in_a_row else self._at + 1
        return (at % count for at in range(first, first + count))

    def _reachable(self, server: int) -> int | None:
        partitions = self._partitions[server]
        count = len(partitions)
        for step in range(1, count + 1):
            at = (self._cursors[server] + step) % count
            if self._shards.reachable(partitions[at]):
                self._cursors[server] = at
                return partitions[at]
        return None

    def _arrange(self) -> None:
        self._placed = self._shards.of
        self._partitions = self._shards.group(range(len(self._placed)))
        self._servers = list(self._partitions)
        self._cursors = {server: self._cursors.get(server, -1) for server in self._servers}
        self._left = {server: len(partitions) for server, partitions in self._partitions.items()}
        self._at %= len(self._servers)
