"""Sends some workers elsewhere where this process has many more of them than others.

Streams that come through a load balancer stay where they were opened, so nodes that started later would get none. A
worker that is asked moves only once it has a session elsewhere, and brings along what it runs; one that finds no other
node stays.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence

from delaybox.core.membership import Member
from delaybox.targets.worker_session import WorkerSession

log = logging.getLogger("delaybox.workers")

EVERY_S = 1.0
_MANY = 1.25
"""Up to this many times the mean is no reason to move anybody."""
_UNDER_WAY_S = 3.0
"""So long a worker that was asked may be on its way: it counts as gone already."""
_AGAIN_S = 30.0
_AGAIN_MOST_S = 900.0
"""A worker that stayed found no other node. It is asked again after `_AGAIN_S`, then after twice as long each time."""


def surplus(mine: int, others: Sequence[int]) -> int:
    """How many of this process's ``mine`` sessions are too many, beside processes that have ``others``."""
    mean = (mine + sum(others)) / (len(others) + 1)
    even = math.ceil(mean)
    return mine - even if mine > even and mine > _MANY * mean else 0


class WorkerSpread:
    """The decisions of one process. ``me``: its member id."""

    def __init__(self, me: str) -> None:
        self._me = me
        self._others: list[int] | None = None
        self._asked: dict[str, tuple[float, int]] = {}
        """When each session was asked last, and how often."""

    def listed(self, ranking: Iterable[Member]) -> None:
        """Takes a new list of members."""
        takers = {m.id: m.activity.worker_count for m in ranking if m.kind == "grpc" and "work" in m.roles}
        # One that does not rank ends, or was silent a moment ago: its workers leave anyway.
        self._others = [count for member, count in takers.items() if member != self._me] if self._me in takers else None

    def choose(self, sessions: Sequence[WorkerSession], now: float) -> list[WorkerSession]:
        """The sessions to ask now: about half of those that are too many, those with the fewest tasks first."""
        if not self._others:
            return []
        here = {session.id for session in sessions}
        self._asked = {one: asked for one, asked in self._asked.items() if one in here}
        under_way = sum(now - at < _UNDER_WAY_S for at, _ in self._asked.values())
        count = math.ceil(surplus(len(sessions) - under_way, self._others) / 2)
        if count <= 0:
            return []
        able = [s for s in sessions if s.connected and not s.draining and s.profile.moves and self._may_ask(s, now)]
        chosen = sorted(able, key=lambda session: session.held)[:count]
        for session in chosen:
            self._asked[session.id] = now, self._asked.get(session.id, (0.0, 0))[1] + 1
        if chosen:
            log.info(
                "%d workers are asked to move: %d are connected here, and %d to %d others",
                len(chosen),
                len(sessions),
                sum(self._others),
                len(self._others),
            )
        return chosen

    def _may_ask(self, session: WorkerSession, now: float) -> bool:
        at, times = self._asked.get(session.id, (0.0, 0))
        return not times or now - at >= min(_AGAIN_S * 2 ** (times - 1), _AGAIN_MOST_S)
