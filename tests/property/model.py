"""What the store promises, in plain Python: no hints, no buckets, one state a task."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from delaybox.core.task import DeliveryMode, NewTask, Priority
from delaybox.store.record import Draft, Record

SLACK_MS = {Priority.CRITICAL: 0, Priority.HIGH: 2_000, Priority.NORMAL: 10_000, Priority.LOW: 60_000}
LOSSES_CAP = 3
CARRIED_LOSSES = 20
"""Of what a node only carries: messages, and calls that its workers run."""
WAITS_FROM, LONGEST_WAIT_MS = 3, 600_000
"""From this loss with a node on a call waits, at most so long and up to as long again by its id."""


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
    blamed: int = 0
    """Losses with who ran it."""
    carried: int = 0
    """Losses of a WORKER task with a node."""
    deliveries: int = 0
    snoozed_since: int | None = None
    waiting_since: int | None = None
    lock: str = ""
    """While its key is a lock: pending or running."""
    superseded: bool = False
    once: bool = False
    """Handed out at most once."""
    look: bool = False
    """It may expire."""
    first_due: int = 0
    """Of one that may expire: when it was due before it was handed back with a delay."""
    group: str = ""
    fairness_key: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    in_sets: bool = False
    """Sets of the index have its labels, as its record says, and not lists."""
    permits: frozenset[bytes] = frozenset()
    """Pools of which it took a permit when it was leased last."""

    @property
    def extended(self) -> bool:
        """Whether its record has an extension, so that it is not fired in place."""
        return (
            bool(self.once or self.look or self.lock or self.group or self.fairness_key or self.in_sets)
            or None is not self.waiting_since
            or None is not self.snoozed_since
        )

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
            "losses": (self.blamed + self.carried, r.losses),
            "blamed": (self.blamed, r.blamed),
            "deliveries": (self.deliveries, r.deliveries),
            "once": (self.once, r.once),
            "look": (self.look, r.look),
            "first due": (self.first_due, r.first_due_ms),
            "group": (self.group, r.group),
            "superseded": (self.superseded, r.superseded),
            "waiting since": (self.waiting_since, r.waiting_since),
            "snoozed since": (self.snoozed_since, r.snoozed_since),
            "body": (b"" if self.stub else self.body, r.body),
        }
        return ", ".join(f"{name}: model {a!r}, stored {b!r}" for name, (a, b) in pairs.items() if a != b)


@dataclass(slots=True)
class Lease:
    partition: int
    expiry: int
    length: int | None
    """What its id says; None: an id of an older version."""
    held: set[bytes]


@dataclass(slots=True)
class Notes:
    """What a partition notes of its reapers."""

    reaped: int | None = None
    outage: int = 0
    graces: tuple[int, int, int] = (0, 0, 0)
    """When the last three began, the latest first."""
    held: int | None = None

    def hold(self, failing: bool, now: int, lease_ms: int) -> bool:
        """Whether dead-lettering is held: for two leases, and then not for two."""
        if not failing:
            return False
        if self.held is None or not self.held <= now <= self.held + 4 * lease_ms:
            self.held = now
        return now <= self.held + 2 * lease_ms


@dataclass(slots=True)
class Model:
    """Every task that was ever stored, the leases that live, and whom each idempotency key names."""

    tasks: dict[bytes, Task] = field(default_factory=dict)
    leases: dict[bytes, Lease] = field(default_factory=dict)
    keys: dict[bytes, tuple[bytes, bytes]] = field(default_factory=dict)
    notes: dict[int, Notes] = field(default_factory=dict)
    paused: dict[str, bool | None] = field(default_factory=dict)

    def waits(self, t: Task) -> bool:
        """Whether its queue is paused, by a rule of its own or by that of all others."""
        own = self.paused.get(t.lane[1:].partition(b":")[0].decode() or "default")
        return bool(self.paused.get("*") if own is None else own)

    def of(self, *states: State) -> list[Task]:
        return [t for t in self.tasks.values() if t.state in states]

    def create(self, task_id: bytes, partition: int, new: NewTask, d: Draft, body: bytes, due: int) -> None:
        lane = (new.type.value + ("" if new.queue == "default" else new.queue)).encode()
        lane += b":" + new.name.encode() if new.name else b""
        assert task_id not in self.tasks, "an id was given twice"
        self.tasks[task_id] = Task(
            task_id, partition, lane, new.priority, due, d.key, d.body is not None, body
        )  # fmt: skip
        self.tasks[task_id].once = new.delivery is DeliveryMode.AT_MOST_ONCE
        self.tasks[task_id].look = new.expire_after_ms > 0
        self.tasks[task_id].group = new.group
        self.tasks[task_id].fairness_key = new.fairness_key
        self.tasks[task_id].labels = dict(new.labels)
        self.tasks[task_id].in_sets = d.replace and bool(new.labels)
        if new.unique_while is not None:
            self.tasks[task_id].lock = new.unique_while.value
        if d.key is not None:
            self.keys[d.key] = (task_id, d.fingerprint)

    def unlock(self, t: Task) -> None:
        """Its key, which is a lock, is free again, and its record names it no more."""
        if t.lock and t.key is not None:
            if self.keys.get(t.key, (b"",))[0] == t.task_id:
                del self.keys[t.key]
            t.key = None

    def lease_out(self, lease_id: bytes, partition: int, task_ids: list[bytes], expiry: int) -> None:
        for task_id in task_ids:
            t = self.tasks[task_id]
            t.state, t.lease = State.LEASED, lease_id
            t.deliveries += 1
            if t.lock == "pending":
                self.unlock(t)
        if task_ids:
            length = int.from_bytes(lease_id[:4], "big") if len(lease_id) == 20 else None
            self.leases[lease_id] = Lease(partition, expiry, length, set(task_ids))

    def leave(self, lease_id: bytes, task_id: bytes, state: State) -> bool:
        """Takes one task out of a lease; False when it is not in it (stale)."""
        lease = self.leases.get(lease_id)
        if lease is None or task_id not in lease.held:
            return False
        lease.held.discard(task_id)
        if not lease.held:
            del self.leases[lease_id]
        t = self.tasks[task_id]
        if t.superseded:
            # It is never tried again, and is no dead letter.
            state = State.DONE
        if state in (State.DONE, State.DEAD):
            self.unlock(t)
        t.state, t.lease = state, None
        return True

    def charge_loss(
        self, lease_id: bytes, task_id: bytes, doer: str, *, hold: bool, now: int = 0, length: int = 0
    ) -> bool:
        """Whoever had it went away; False when it is not in that lease (stale). ``length``: of the lease of a node."""
        t = self.tasks[task_id]
        carried = t.letter == "w" and doer == "node"
        cap = CARRIED_LOSSES if carried or t.letter == "p" else LOSSES_CAP
        count = (t.carried if carried else t.blamed) + 1
        if hold:
            count = min(count, cap - 1)
        if not self.leave(lease_id, task_id, State.DEAD if count >= cap else State.PENDING):
            return False
        if carried:
            t.carried = count
            if t.state is State.PENDING and count >= WAITS_FROM:
                wait = min(length * 2 ** (count - WAITS_FROM), LONGEST_WAIT_MS)
                t.due = now + wait + wait * int.from_bytes(task_id[14:]) // 65_536
        else:
            t.blamed = count
        return True

    def reap(
        self, partition: int, now: int, *, lease_ms: int, every_ms: int, failing: bool = False
    ) -> tuple[int, int, int, int]:
        """(leases reaped, tasks back, tasks dead, until when nothing is reaped if that is new)."""
        notes = self.notes.setdefault(partition, Notes())
        mine = {i: lease for i, lease in self.leases.items() if lease.partition == partition}
        if not mine:
            return 0, 0, 0, 0
        lengths = {i: lease_ms if lease.length is None else lease.length for i, lease in mine.items()}
        shortest = min(lease_ms, *lengths.values())
        graced, gap = 0, now - notes.reaped if notes.reaped is not None else -1
        if gap < 0 or gap > max(shortest / 3, 3 * every_ms):
            graced = now + shortest
            notes.outage = now
            if notes.reaped is not None and gap < 0:
                notes.graces = (now, 0, 0)
            elif now >= notes.graces[0] + shortest:
                notes.graces = (now, *notes.graces[:2])
        notes.reaped = now
        third = notes.graces[2]
        over = []
        for lease_id, lease in mine.items():
            length = lengths[lease_id]
            stuck = lease.length is not None and lease.expiry > now + max(lease_ms, length) * 4 / 3
            ended = third if stuck else lease.expiry
            thrice = 0 < third >= ended and now >= min(third + length, ended + 3 * length)
            if (thrice or now >= notes.outage + length) and (lease.expiry <= now or stuck):
                over.append(lease_id)
        hold = bool(over) and notes.hold(failing, now, lease_ms)
        back = dead = 0
        for lease_id in over:
            for task_id in list(mine[lease_id].held):
                self.charge_loss(lease_id, task_id, "node", hold=hold, now=now, length=lengths[lease_id])
                lost = self.tasks[task_id].state is State.DEAD
                dead, back = dead + lost, back + (not lost)
        return len(over), back, dead, graced
