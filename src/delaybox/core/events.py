"""The feed of events: what happened to tasks, as readers and writers share it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from msgspec import Struct

from delaybox.core.lane import split
from delaybox.core.task import TaskType

KEEP_MS = 3_600_000
MOST_EVENTS = 100_000
MOST_BYTES = 64 * 1024 * 1024
BUFFER = 10_000


class EventKind(StrEnum):
    """What happened to a task."""

    SCHEDULED = "scheduled"
    CHANGED = "changed"
    """It was moved, or its priority, payload or labels were changed, or it was brought back from the dead letters."""
    FIRED = "fired"
    RETRIED = "retried"
    """It failed, or put itself off, and is tried again."""
    DEAD = "dead"
    CANCELLED = "cancelled"
    COMPLETED = "completed"


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRules:
    """How the feed is kept. Not ``enabled``: nothing is written or read. ``always``: written although nobody reads.

    ``keep_ms``: how long it is kept after its last event. ``entries``, ``bytes``: past one of them the oldest go.
    ``buffer``: events that wait for one slow reader at most.
    """

    enabled: bool = True
    always: bool = False
    keep_ms: int = KEEP_MS
    entries: int = MOST_EVENTS
    bytes: int = MOST_BYTES
    buffer: int = BUFFER


NO_EVENTS = EventRules(enabled=False)


class StoredEvent(Struct, frozen=True, array_like=True, gc=False):
    """One event, and how it is stored: fields may be added behind the last one only.

    ``kind``: text, for a newer node may write others. ``at_ms``: when, by Redis's clock. ``due_ms``: when the task is
    due (retried, changed: from now on). ``attempt``: failed attempts so far. ``node``: the member that saw it.
    """

    kind: str
    task_id: bytes
    at_ms: int
    lane: bytes
    priority: int = 2
    due_ms: int = 0
    attempt: int = 0
    deliveries: int = 0
    labels: Mapping[str, str] = {}
    node: str = ""
    reason: str = ""


class Missed(Struct, frozen=True, gc=False):
    """A gap in what a reader gets. ``count``: events that it misses at least; 0: nobody knows how many."""

    count: int
    why: str


@dataclass(frozen=True, slots=True)
class FeedItem:
    """What a reader gets. ``position``: names it in the feed; a reader that goes on behind it misses nothing."""

    position: str
    what: StoredEvent | Missed


@dataclass(frozen=True, slots=True, kw_only=True)
class EventQuery:
    """Which events a reader wants; everything that is set must hold. ``kinds`` empty: all."""

    kinds: frozenset[EventKind] = frozenset()
    queue: str | None = None
    type: TaskType | None = None
    name: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)

    def matches(self, event: StoredEvent) -> bool:
        """Whether everything that is set holds for an event."""
        if self.kinds and event.kind not in self.kinds:
            return False
        if self.queue is not None or self.type is not None or self.name is not None:
            try:
                lane = split(event.lane)
            except ValueError:
                return False  # a newer node's task type
            if self.queue is not None and lane.queue != self.queue:
                return False
            if self.type is not None and lane.type is not self.type:
                return False
            if self.name is not None and lane.name != self.name:
                return False
        return all(event.labels.get(name) == value for name, value in self.labels.items())
