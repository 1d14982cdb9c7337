"""After an outage: limits how much overdue work a node takes in a second, so that what is due now still fires on
time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from delaybox.engine.clock_estimate import local_ms

OVERDUE_MS = 5_000
"""Later than this is a backlog, not lateness."""
TICK_MS = 20.0
_BURST_MS = 100.0


class CatchUp:
    """A token for each overdue task, ``rate`` of them a second (0: no limit), over all of a node's partitions.

    A partition is *behind* until a claim from it proves that nothing overdue is left; at first all partitions are.
    While it is behind, overdue tasks are claimed apart from fresh ones, and only as many as there are tokens.
    """

    def __init__(self, rate: int, partitions: int, now: Callable[[], float] = local_ms) -> None:
        self._rate = rate
        self._partitions = partitions
        self._now = now
        self._most = max(1.0, rate * _BURST_MS / 1000)
        self._tokens = self._most
        self._filled = now()
        self._behind: set[int] = set()
        self._turn = 0
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

    def shares(self, due: Sequence[int]) -> dict[int, int]:
        """How many overdue tasks each partition that is behind may hand out now; the tokens are taken."""
        behind = [p for p in due if p in self._behind]
        now = self._now()
        self._tokens = min(self._most, self._tokens + (now - self._filled) * self._rate / 1000)
        self._filled = now
        tokens = int(self._tokens)
        if not behind or tokens <= 0:
            return {}
        # With fewer tokens than partitions these take turns.
        self._turn += 1
        start = self._turn % len(behind)
        behind = behind[start:] + behind[:start]
        share, more = divmod(tokens, len(behind))
        shares = {p: share + (i < more) for i, p in enumerate(behind) if share or i < more}
        self._tokens -= sum(shares.values())
        return shares

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
            if clear and not overdue and taken < share:
                self._behind.discard(partition)
        elif overdue and self._rate:
            self._tokens -= overdue
            self._behind.add(partition)
