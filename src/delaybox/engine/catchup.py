"""After an outage: limits how much overdue work a node takes in a second, so that what is due now still fires on
time."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence

from delaybox.engine.clock_estimate import local_ms

OVERDUE_MS = 5_000
"""Later than this is a backlog, not lateness."""
TICK_MS = 20.0
_BURST_MS = 100.0
_RETURNS_MS = 1_000.0
"""A partition that was left with overdue work is back long before: every `TICK_MS`, if this node still looks after
it."""


class CatchUp:
    """A token for each overdue task, ``rate`` of them a second (0: no limit), over all of a node's partitions.

    A partition is *behind* until a claim from it proves that nothing overdue is left; at first all partitions are.
    While it is behind, overdue tasks are claimed apart from fresh ones, and only as many as there are tokens. Those
    that are known to have some get the same number each, so that the urgent ones of all come before the rest of any.
    """

    def __init__(self, rate: int, partitions: int, now: Callable[[], float] = local_ms) -> None:
        self._rate = rate
        self._partitions = partitions
        self._now = now
        self._most = max(1.0, rate * _BURST_MS / 1000)
        self._tokens = self._most
        self._filled = now()
        self._behind: set[int] = set()
        self._wanting: dict[int, float] = {}
        """Partition -> when a claim last left overdue work there, or may have, or it was behind and got no token."""
        self._reserved: dict[int, int] = {}
        """Partition -> tokens of the bucket that only it may take."""
        self._served = -1
        """The partition that got the last token that was spread."""
        self.suspect()

    @property
    def limited(self) -> bool:
        """Whether there is a limit at all."""
        return self._rate > 0

    def suspect(self, partition: int | None = None) -> None:
        """There may be a backlog in ``partition`` (None: in any)."""
        if self._rate:
            self._behind.update(range(self._partitions) if partition is None else (partition,))

    def behind(self, partition: int) -> bool:
        """Whether a backlog may lie there."""
        return partition in self._behind

    def shares(self, due: Sequence[int], most: int) -> dict[int, int]:
        """How many overdue tasks each partition that is behind may hand out now, at most ``most``; the tokens are
        taken."""
        behind = [p for p in due if p in self._behind]
        now = self._now()
        self._tokens = min(self._most, self._tokens + (now - self._filled) * self._rate / 1000)
        self._filled = now
        tokens = int(self._tokens)
        if not behind:
            return {}
        # Whoever gets none now has a part of those that come: else it would wait for as long as the others take all.
        self._wanting |= dict.fromkeys(behind, now)
        if tokens <= 0:
            return {}
        self._wanting = {p: at for p, at in self._wanting.items() if now - at < _RETURNS_MS}
        self._reserve(tokens, sorted(self._wanting))
        shares: dict[int, int] = {}
        for p in behind:
            if share := min(self._reserved.pop(p, 0), tokens, most):
                shares[p] = share
                tokens -= share
        self._tokens -= sum(shares.values())
        return shares

    def _reserve(self, tokens: int, waiting: Sequence[int]) -> None:
        """Spreads the tokens that are nobody's over those that wait. Each looks by a timer of its own: if who looks
        took all, one that looks alone would be far ahead of the others."""
        reserved = self._reserved = {p: self._reserved.get(p, 0) for p in waiting}
        # What one does not come for goes to the others when it has so many.
        most = max(1, int(self._most) // len(waiting))
        free = tokens - sum(reserved.values())
        # With fewer tokens than partitions these take turns.
        start = bisect_right(waiting, self._served)
        turns = [*waiting[start:], *waiting[:start]]
        while free > 0 and (open_to := [p for p in turns if reserved[p] < most]):
            each = max(1, free // len(open_to))
            for p in open_to[:free]:
                more = min(each, most - reserved[p])
                reserved[p] += more
                free -= more
                self._served = p

    def brought(self, partition: int, late_ms: Sequence[float], now_ms: float, *, share: int, clear: bool) -> float:
        """A claim brought tasks so late; the rest is as of `took`. Returns when to look there again for the backlog:
        not before there are tokens; inf: there is none."""
        overdue = sum(ms > OVERDUE_MS for ms in late_ms)
        self.took(partition, share=share, taken=len(late_ms), overdue=overdue, clear=clear)
        return now_ms + TICK_MS if self.behind(partition) else math.inf

    def took(self, partition: int, *, share: int, taken: int, overdue: int, clear: bool) -> None:
        """A claim took ``taken`` tasks of the ``share`` it had (0: it was not limited). ``clear``: it left none due."""
        if share:
            self._tokens += max(share - taken, 0)
            if taken >= share:
                self._wanting[partition] = self._now()
            else:
                self._wanting.pop(partition, None)
                if clear and not overdue:
                    self._behind.discard(partition)
        elif overdue and self._rate:
            self._tokens -= overdue
            self._behind.add(partition)
