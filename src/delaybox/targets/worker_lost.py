"""When a worker that is connected to this node counts as lost, and whether most of them were lost at once.

It is lost when its stream breaks and it does not come back to its session within `RESUME_S` (at once where it holds
nothing), and when it is silent for `SILENT_BEATS` heartbeats.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from delaybox.core.membership import most_left
from delaybox.targets.worker_session import WorkerSession

RESUME_S = 2.0
"""How long a session whose stream broke is kept, so that its worker can come back to it."""
SILENT_BEATS: Final = 3
_PAST = 1_000


class BrokenStreams:
    """The sessions whose stream broke and whose worker may come back. ``lost``: is called with each that did not."""

    def __init__(self, lost: Callable[[WorkerSession], None]) -> None:
        self._lost = lost
        self._until: dict[str, asyncio.TimerHandle] = {}

    def keep(self, session: WorkerSession) -> None:
        """Its stream has just broken."""
        self._until[session.id] = asyncio.get_running_loop().call_later(RESUME_S, self._lost, session)

    def forget(self, session_id: str) -> None:
        """The session is resumed, or over."""
        handle = self._until.pop(session_id, None)
        if handle is not None:
            handle.cancel()


class Lives:
    """When the workers of this node came and went. If most went at once, no task is to blame.

    Kept by identity, because a worker has a session for each kind of function. ``lease_ms``: what "at once"
    means.
    """

    def __init__(self, lease_ms: int) -> None:
        self._lease_us = 1_000 * lease_ms
        self._began: dict[str, int] = {}
        self._sessions: dict[str, set[str]] = {}
        self._past: dict[str, tuple[int, int]] = {}

    def came(self, identity: str, session_id: str) -> None:
        """A session is new."""
        self._sessions.setdefault(identity, set()).add(session_id)
        self._began.setdefault(identity, _now_us())

    def returned(self, identity: str, session_id: str) -> None:
        """A session is resumed, so its worker had not gone."""
        if identity in self._past:
            self._began[identity] = self._past.pop(identity)[0]
        self.came(identity, session_id)

    def went(self, identity: str, session_id: str, *, with_tasks: bool) -> None:
        """A session's worker is gone. A worker that held nothing may have ended as it should. Twice is harmless."""
        sessions = self._sessions.get(identity, set())
        sessions.discard(session_id)
        if with_tasks and identity in self._began:
            # The first session that ends counts for all sessions of this worker, which end at the same moment.
            self._past.pop(identity, None)
            self._past[identity] = (self._began.pop(identity), _now_us())
            if len(self._past) > _PAST:
                del self._past[next(iter(self._past))]
        if not sessions:
            self._sessions.pop(identity, None)
            self._began.pop(identity, None)

    def most_left(self) -> bool:
        """Whether at least three workers, and more than half of all, went away with tasks in hand within one lease."""
        now = _now_us() + 1
        lives = [*((began, now) for began in self._began.values()), *self._past.values()]
        return most_left(lives, now, self._lease_us, quiet_ms=0)


def _now_us() -> int:
    """The time in us: within one ms a worker can go and another come in its place."""
    return time.monotonic_ns() // 1_000
