"""When the workers of a node came and went: whether most of them went at once, which is no task's work."""

from __future__ import annotations

import time

from delaybox.core.fleet import most_left

_PAST = 1_000


class Lives:
    """By identity: a worker has a session for each kind of function. ``lease_ms``: within so long is at once."""

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
        """A session is resumed: its worker had not gone."""
        if identity in self._past:
            self._began[identity] = self._past.pop(identity)[0]
        self.came(identity, session_id)

    def went(self, identity: str, session_id: str, *, with_tasks: bool) -> None:
        """A session has none any more. Who held nothing may have been told to end. Twice is harmless."""
        sessions = self._sessions.get(identity, set())
        sessions.discard(session_id)
        if with_tasks and identity in self._began:
            # One of its sessions speaks for all of them: they end within the moment.
            self._past.pop(identity, None)
            self._past[identity] = (self._began.pop(identity), _now_us())
            if len(self._past) > _PAST:
                del self._past[next(iter(self._past))]
        if not sessions:
            self._sessions.pop(identity, None)
            self._began.pop(identity, None)

    def most_left(self) -> bool:
        """Whether at least three, and more than half, went away with tasks in hand within a lease."""
        now = _now_us() + 1
        lives = [*((began, now) for began in self._began.values()), *self._past.values()]
        return most_left(lives, now, self._lease_us, quiet_ms=0)


def _now_us() -> int:
    """Finer than ms: a worker that takes the place of another may come in the same one."""
    return time.monotonic_ns() // 1_000
