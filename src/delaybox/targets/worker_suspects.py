"""Tasks that workers died with, once too often to be chance: who may have how many of them at once.

Among them is what kills its workers, and much that only stood beside it. At first a worker has one of them at a time.
As they come to an end more run side by side, for a thousand healthy ones must not wait for each other. When a worker
dies with several, that says nothing against any of them: none is charged, and each of these runs alone the next time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from delaybox.targets.worker_session import Offered, Run, Session

MOST_WAITING = 1_000
"""Further ones are not kept here, or they would fill the node, which then claims nothing else."""
_MOST_TOGETHER = 1_024


class Suspects:
    """Those of one pool. ``alone``: ids of those that must have no company, shared by the pools of a process."""

    def __init__(self, alone: set[bytes]) -> None:
        self._waiting: deque[Offered] = deque()
        self._alone = alone
        self._together = 1
        self._ended = 0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def full(self) -> bool:
        """Whether no more should wait here."""
        return len(self._waiting) >= MOST_WAITING

    def add(self, offered: Offered) -> None:
        """One more waits."""
        self._waiting.append(offered)

    def places(self, sessions: Sequence[Session]) -> int:
        """How many of those that wait can go out now, as far as room goes."""
        free = sum(min(s.room, max(0, self._together - len(s.suspects))) for s in sessions if not s.alone)
        return min(len(self._waiting), free)

    def hand_out(self, sessions: Sequence[Session]) -> None:
        """Gives what waits to those who may have it, the least burdened first."""
        while self._waiting:
            alone = self._waiting[0].delivery.task_id in self._alone
            most = 1 if alone else self._together
            able = [s for s in sessions if s.room > 0 and not s.alone and len(s.suspects) < most]
            if not able:
                return
            session = min(able, key=lambda s: len(s.suspects))
            session.assign([self._waiting.popleft()], suspect=True, alone=alone)

    def take(self) -> list[Offered]:
        """All that wait; none waits then."""
        taken, self._waiting = list(self._waiting), deque()
        return taken

    def forget(self, run: Run) -> None:
        """What came with a claim is dealt with already."""
        self._waiting = deque(o for o in self._waiting if o.run is not run)

    def ended(self, task_ids: Sequence[bytes]) -> None:
        """These came to an end in their worker, which lives."""
        self._alone.difference_update(task_ids)
        self._ended += len(task_ids)
        while self._ended >= self._together and self._together < _MOST_TOGETHER:
            self._ended -= self._together
            self._together *= 2

    def lost(self, company: Sequence[bytes]) -> None:
        """A worker died with some of them; ``company``: with these, if they were several."""
        self._together, self._ended = 1, 0
        if len(self._alone) < 10 * MOST_WAITING:
            self._alone.update(company)
