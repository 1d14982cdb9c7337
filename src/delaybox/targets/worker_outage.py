"""Notes when the workers of a node came and went. If most went at once, no task is to blame."""

from __future__ import annotations

import time

from delaybox.core.membership import most_left

_PAST = 1_000


class Lives:
    """Kept by identity, because a worker has a session for each kind of function. ``lease_ms``: what "at once"
    means."""

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
