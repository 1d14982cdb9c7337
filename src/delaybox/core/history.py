"""What is remembered of tasks that have ended, and what readers ask of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from msgspec import Struct

from delaybox.core.task import Priority, TaskState, TaskType

KEEP_MS = 3_600_000
KEEP_FAILED_MS = 24 * 3_600_000
MOST_ENTRIES = 100_000
MOST_BYTES = 64 * 1024 * 1024
MOST_FAILURE_BYTES = 16 * 1024 * 1024
FAILURES_EACH = 10
"""Failures that are remembered of one task: the last ones."""
FAILURES_EACH_BYTES = 32 * 1024
ENDED = (TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED)


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryRules:
    """How long ends are remembered, and how much of them the whole store keeps. ``keep_ms`` 0: none is written.

    ``entries``, ``bytes``: past one of them the oldest go first, those of failures last. ``failures``: bytes of reasons
    and tracebacks of failed attempts, kept for ``keep_failed_ms`` after a task's last one; past it the oldest go.
    """

    keep_ms: int = 0
    keep_failed_ms: int = KEEP_FAILED_MS
    entries: int = MOST_ENTRIES
    bytes: int = MOST_BYTES
    failures: int = MOST_FAILURE_BYTES


NO_HISTORY = HistoryRules()


class EndedTask(Struct, frozen=True, kw_only=True, gc=False):
    """How one task ended. Its payload, headers and labels are not kept. Moments in Unix ms by Redis's clock.

    ``fired_ms``: when it was handed out last; 0: it never was. ``attempt``: failed attempts, the last one included.
    ``node``: the member that had it; "" where a caller ended it.
    """

    task_id: str
    state: TaskState
    due_ms: int
    fired_ms: int
    ended_ms: int
    type: TaskType
    queue: str
    name: str = ""
    priority: Priority = Priority.NORMAL
    attempt: int = 0
    deliveries: int = 0
    node: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryQuery:
    """Which ends a list shows; everything that is set must hold. EndedTask in [from_ms, to_ms)."""

    state: TaskState | None = None
    queue: str | None = None
    type: TaskType | None = None
    name: str | None = None
    from_ms: int = 0
    to_ms: int = 10**15

    def matches(self, one: EndedTask) -> bool:
        """Whether everything that is set holds for an end."""
        return (
            (self.state is None or one.state is self.state)
            and (self.queue is None or one.queue == self.queue)
            and (self.type is None or one.type is self.type)
            and (self.name is None or one.name == self.name)
            and self.from_ms <= one.ended_ms < self.to_ms
        )


@dataclass(frozen=True, slots=True)
class HistoryPage:
    """Part of a list of ends, the newest first. ``cursor`` continues it; a short page with a cursor is legal.

    ``beyond``: how many ended in each state that were only counted, since the store was created.
    """

    items: list[EndedTask]
    cursor: str = ""
    beyond: Mapping[TaskState, int] = field(default_factory=dict)
