"""What the store promises, in plain Python: no hints, no buckets, one state a task."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from delaybox.core.task import NewTask, Priority
from delaybox.store.record import Draft, Record

SLACK_MS = {Priority.CRITICAL: 0, Priority.HIGH: 2_000, Priority.NORMAL: 10_000, Priority.LOW: 60_000}
LOSSES_CAP = 3
MESSAGE_LOSSES = 20


class State(Enum):
    PENDING = "pending"
    LEASED = "leased"
    DEAD = "dead"
    DONE = "done"
    CANCELLED = "cancelled"
    DISCARDED = "discarded"


# What cancel and reschedule answer for a task that is not pending.
REFUSALS = {State.LEASED: "running", State.DEAD: "dead"}


@dataclass(slots=True)
class Task:
    """One task, as a caller could know it."""

    task_id: bytes
    partition: int
    lane: bytes
    priority: Priority
    due: int
    key: bytes | None
    stub: bool
    body: bytes
    state: State = State.PENDING
    lease: bytes | None = None
    attempt: int = 0
    losses: int = 0
    deliveries: int = 0

    @property
    def letter(self) -> str:
        return chr(self.lane[0])

    @property
    def critical(self) -> bool:
        return self.priority is Priority.CRITICAL

    @property
    def virtual_deadline(self) -> int:
        return self.due + SLACK_MS[self.priority]

    def differs(self, r: Record) -> str:
        """What a stored record says otherwise; empty when it agrees."""
        pairs = {
            "due": (self.due, r.due_ms),
            "priority": (int(self.priority), r.priority),
            "lane": (self.lane, r.lane),
            "key": (self.key, r.key),
            "stub": (self.stub, r.stub),
            "attempt": (self.attempt, r.attempt),
            "losses": (self.losses, r.losses),
            "deliveries": (self.deliveries, r.deliveries),
            "body": (b"" if self.stub else self.body, r.body),
        }
        return ", ".join(f"{name}: model {a!r}, stored {b!r}" for name, (a, b) in pairs.items() if a != b)


@dataclass(slots=True)
class Lease:
    partition: int
    expiry: int
    held: set[bytes]


@dataclass(slots=True)
class Model:
    """Every task that was ever stored, the leases that live, and whom each idempotency key names."""

    tasks: dict[bytes, Task] = field(default_factory=dict)
    leases: dict[bytes, Lease] = field(default_factory=dict)
    keys: dict[bytes, tuple[bytes, bytes]] = field(default_factory=dict)

    def of(self, *states: State) -> list[Task]:
        return [t for t in self.tasks.values() if t.state in states]

    def create(self, task_id: bytes, partition: int, new: NewTask, d: Draft, body: bytes, due: int) -> None:
        lane = (new.type.value + ("" if new.queue == "default" else new.queue)).encode()
        lane += b":" + new.name.encode() if new.name else b""
        assert task_id not in self.tasks, "an id was given twice"
        self.tasks[task_id] = Task(
            task_id, partition, lane, new.priority, due, d.key, d.body is not None, body
        )  # fmt: skip
        if d.key is not None:
            self.keys[d.key] = (task_id, d.fingerprint)

    def lease_out(self, lease_id: bytes, partition: int, task_ids: list[bytes], expiry: int) -> None:
        for task_id in task_ids:
            t = self.tasks[task_id]
            t.state, t.lease = State.LEASED, lease_id
            t.deliveries += 1
        if task_ids:
            self.leases[lease_id] = Lease(partition, expiry, set(task_ids))

    def leave(self, lease_id: bytes, task_id: bytes, state: State) -> bool:
        """Takes one task out of a lease; False when it is not in it (stale)."""
        lease = self.leases.get(lease_id)
        if lease is None or task_id not in lease.held:
            return False
        lease.held.discard(task_id)
        if not lease.held:
            del self.leases[lease_id]
        t = self.tasks[task_id]
        t.state, t.lease = state, None
        return True

    def charge_loss(self, lease_id: bytes, task_id: bytes) -> bool:
        """Whoever had it went away; False when it is not in that lease (stale)."""
        t = self.tasks[task_id]
        lost = t.losses + 1 >= (MESSAGE_LOSSES if t.letter == "p" else LOSSES_CAP)
        if not self.leave(lease_id, task_id, State.DEAD if lost else State.PENDING):
            return False
        t.losses += 1
        return True

    def reap(self, partition: int, now: int, longest: int, jumped: bool) -> tuple[int, int, int]:
        """(leases reaped, tasks back, tasks dead)."""
        mine = {i: lease for i, lease in self.leases.items() if lease.partition == partition}
        for lease in mine.values():
            if jumped or lease.expiry > now + longest:
                lease.expiry = now + longest
        reaped = back = dead = 0
        for lease_id, lease in mine.items():
            if lease.expiry > now:
                continue
            reaped += 1
            for task_id in list(lease.held):
                self.charge_loss(lease_id, task_id)
                lost = self.tasks[task_id].state is State.DEAD
                dead, back = dead + lost, back + (not lost)
        return reaped, back, dead
