"""Suspects: tasks that are one loss short of the cap, because workers died with them. Decides which worker gets how
many.

A few of them kill their workers; most only ran beside such a task. At first a worker has one suspect at a time. As
suspects end well, more of them run side by side, so that a thousand healthy ones do not wait for each other. When a
worker dies with several, it is not known which one killed it: none is charged, and each of them runs alone next time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from delaybox.targets.worker_offers import ClaimedTasks, Offered
from delaybox.targets.worker_session import WorkerSession

MOST_WAITING = 1_000
"""Most suspects that wait here. More would fill the node, which then could claim nothing else."""
_MOST_TOGETHER = 1_024


class Suspects:
    """The suspects of one pool. ``alone``: ids of those that must be a worker's only suspect; all pools of a process
    share it. ``most``: how many may run side by side at most. ``cost``: places that each of them takes."""

    def __init__(self, alone: set[bytes], most: int = _MOST_TOGETHER, cost: int = 1) -> None:
        self._most = most
        self._cost = cost
        self._waiting: deque[Offered] = deque()
        self._alone = alone
        self._together = 1
        self._ended = 0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def full(self) -> bool:
        """Whether as many wait as may."""
        return len(self._waiting) >= MOST_WAITING

    def add(self, offered: Offered) -> None:
        """Adds one that waits."""
        self._waiting.append(offered)

    def places(self, sessions: Sequence[WorkerSession]) -> int:
        """How many waiting suspects can be handed out now, by the room of the sessions."""
        if not self._waiting:
            return 0
        free = sum(min(s.room // self._cost, max(0, self._together - len(s.suspects))) for s in sessions if not s.alone)
        return min(len(self._waiting), free)

    def hand_out(self, sessions: Sequence[WorkerSession]) -> None:
        """Gives waiting suspects to sessions that may have them, those with the fewest suspects first."""
        while self._waiting:
            alone = self._waiting[0].delivery.task_id in self._alone
            most = 1 if alone else self._together
            able = [s for s in sessions if s.room >= self._cost and not s.alone and len(s.suspects) < most]
            if not able:
                return
            session = min(able, key=lambda s: len(s.suspects))
            session.assign([self._waiting.popleft()], suspect=True, alone=alone, cost=self._cost)

    def take(self) -> list[Offered]:
        """Removes and returns all that wait."""
        taken, self._waiting = list(self._waiting), deque()
        return taken

    def forget(self, run: ClaimedTasks) -> None:
        """Drops the tasks of a claim that are reported already."""
        self._waiting = deque(o for o in self._waiting if o.run is not run)

    def ended(self, task_ids: Sequence[bytes]) -> None:
        """These suspects came to an end, and their worker lives."""
        self._alone.difference_update(task_ids)
        self._ended += len(task_ids)
        while self._ended >= self._together and self._together < self._most:
            self._ended -= self._together
            self._together *= 2

    def lost(self, company: Sequence[bytes]) -> None:
        """A worker died while it had suspects. ``company``: their ids, if it had several."""
        self._together, self._ended = 1, 0
        if len(self._alone) < 10 * MOST_WAITING:
            self._alone.update(company)
