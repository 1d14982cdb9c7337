"""What a process knows of tasks that it has just stored, before anybody waits for them.

A caller that schedules a task and then waits for it would have it looked at twice: at once, for it may have ended
before, and when it ends. A process that has listened for ends since before it stored the task needs neither look: the
end of one task announces its result as well.
"""

from __future__ import annotations

from typing import Final

KEPT_S: Final = 1.0
"""Results are kept at least this long where they are announced, so what is known here is what a look would find."""
_MOST_STORED: Final = 1_024
MOST_ENDED: Final = 256


class OwnTasks:
    """Tasks that were stored here lately, and announcements of single ends. Both are forgotten after a moment."""

    __slots__ = ("_ended", "_seen", "_stored", "_unnoted")

    def __init__(self) -> None:
        self._seen = 0
        """Announcements so far."""
        self._unnoted = 0
        """The last of these whose tasks were not noted."""
        self._stored: dict[bytes, float] = {}
        self._ended: dict[bytes, bytes] = {}

    @property
    def mark(self) -> int:
        """How far announcements were noted."""
        return self._seen

    def missed(self) -> None:
        """Ends may have been announced that were not noted."""
        self._unnoted = self._seen = self._seen + 1
        self._stored.clear()
        self._ended.clear()

    def stored(self, task_id: bytes, mark: int, now: float) -> None:
        """A task was stored. ``mark``: as it was before the task was sent. ``now``: in seconds."""
        if mark < self._unnoted or self._seen - mark > MOST_ENDED:
            # It may have ended already.
            return
        self._stored[task_id] = now + KEPT_S
        if len(self._stored) > _MOST_STORED:
            del self._stored[next(iter(self._stored))]

    def ended(self, task_id: bytes, message: bytes) -> None:
        """A task has ended. This may come here before the answer to the call that stored it."""
        self._seen += 1
        self._ended[task_id] = message
        if len(self._ended) > MOST_ENDED:
            first = next(iter(self._ended))
            del self._ended[first]
            self._stored.pop(first, None)

    def several_ended(self, task_ids: bytes) -> None:
        """Tasks have ended of which only the ids were announced, 16 bytes each."""
        self._unnoted = self._seen = self._seen + 1
        if self._stored:
            for at in range(0, len(task_ids), 16):
                self._stored.pop(task_ids[at : at + 16], None)

    def take(self, task_id: bytes, now: float) -> bytes | None:
        """The message that announced its end; b"": it has not ended; None: it must be looked at. Known once."""
        until = self._stored.pop(task_id, 0.0)
        message = self._ended.pop(task_id, b"")
        return message if now < until else None
