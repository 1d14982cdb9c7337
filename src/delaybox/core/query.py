"""What readers ask for, and the pages that they get."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from delaybox.core.task import TaskState, TaskType, TaskView


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskQuery:
    """Which tasks a list shows; everything that is set must hold. Due range in Unix ms, end excluded. ``group`` "": any
    or none."""

    state: TaskState | None = None
    queue: str | None = None
    type: TaskType | None = None
    name: str | None = None
    """Of a function or a named command."""
    labels: Mapping[str, str] = field(default_factory=dict)
    group: str = ""
    due_from_ms: int = 0
    due_to_ms: int = 10**15


@dataclass(frozen=True, slots=True)
class Page:
    """Part of a list. ``cursor`` continues it; empty at the end. A short page with a cursor is legal.

    ``scanned``: labels, or a function, were asked for that have no index, so all that waits is looked through.
    """

    items: list[TaskView]
    cursor: str = ""
    scanned: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStats:
    """One queue of one task type now. ``pending`` counts those that wait, the ``ready`` ones (due, without a slot) too.

    ``complete``: all were counted; else the store holds too many, and ``pending`` counts only tasks that are due soon,
    or ``in_flight`` is an estimate. ``fired_per_s``: over the last minute, as the living nodes report it.
    ``ready_lanes``: the lanes with ready tasks; ``unserved``: the functions among them that no connected worker serves.
    ``waits``: why its tasks wait by the rules of the queue, "" where they do not. ``oldest_wait_ms``: for how long the
    first in line of its due tasks waits.
    """

    queue: str
    type: TaskType
    pending: int
    ready: int
    in_flight: int
    complete: bool = False
    fired_per_s: float = 0.0
    ready_lanes: tuple[bytes, ...] = ()
    unserved: tuple[str, ...] = ()
    waits: str = ""
    oldest_wait_ms: int = 0


class QueueList(list[QueueStats]):
    """Queues with tasks. ``complete``: all tasks were counted, so a queue that is not here has none; else it may have
    some that are not due soon. The same as that of each, and there also where the list is empty."""

    def __init__(self, found: Iterable[QueueStats] = (), *, complete: bool) -> None:
        super().__init__(found)
        self.complete = complete


@dataclass(frozen=True, slots=True)
class QueueWait:
    """A queue with due tasks: for how long the first in line waits, and whether the queue is paused."""

    queue: str
    wait_ms: int
    paused: bool = False


@dataclass(frozen=True, slots=True)
class ForecastStep:
    """Tasks due in [start_ms, start_ms + step)."""

    start_ms: int
    count: int


@dataclass(slots=True)
class BulkResult:
    """The outcome of changing many tasks. ``skipped``: matched, but running or gone before they could be changed.

    ``sample``: the ids of the first ones. ``scanned``: labels, or a function, were asked for that have no index.
    ``cursor``: where to go on, if it ended before it was through: at its limit, or because its time was over.
    """

    matched: int = 0
    changed: int = 0
    skipped: int = 0
    sample: list[str] = field(default_factory=list)
    scanned: bool = False
    cursor: str = ""
