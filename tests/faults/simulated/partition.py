"""A partition in a simulation: what waits there, and its permits, as the scripts keep them."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import NamedTuple

from delaybox.core.queue_limits import Grant, Needs
from delaybox.core.shares import Waiting


@dataclass
class Permits:
    """Of one pool, as lib/limits.lua keeps them. ``used``: until when each permit in use is used."""

    number: int
    budget: int = 0
    seq: int = 0
    waiting: int = 0
    used: list[float] = field(default_factory=list)
    critical: bool = False

    def visit(self, grant: Grant | None, good: int, now: int) -> Needs:
        """Takes a grant, which counts until ``good``, gives back what it must, and reports."""
        cap = None
        if grant is not None:
            if grant.seq > self.seq and now <= good:
                self.budget, self.seq = grant.budget, grant.seq
            cap = grant.cap
        self.used = [until for until in self.used if until >= now]
        want = len(self.used) + self.waiting
        if cap is not None:
            self.budget = min(self.budget, max(cap, len(self.used)))
        elif grant is not None:
            self.budget = min(self.budget, max(want, len(self.used)))
        deadline = 4_000_000 * (not self.critical) + self.number
        return Needs(partition=self.number, budget=self.budget, seq=self.seq, want=want, deadline=deadline, at=now)

    def claim(self, now: int, hold: float) -> int:
        """How many of those that wait begin now."""
        self.used = [until for until in self.used if until >= now]
        taken = min(self.waiting, max(self.budget - len(self.used), 0))
        self.waiting -= taken
        self.used += [now + hold] * taken
        return taken


class Task(NamedTuple):
    """``due`` in ms of the server's clock."""

    due: int
    number: int
    queue: str
    critical: bool
    takes_ms: int


class Partition:
    """``pools``: how long (ms) a claim uses a permit, by the queue that has a limit."""

    def __init__(self, number: int, pools: dict[str, float]) -> None:
        self.number = number
        self.looked_at = 0
        """When somebody made ready what was due."""
        self.permits = {queue: Permits(number) for queue in pools}
        self._pools = pools
        self._pending: list[Task] = []
        self._ready: dict[str, deque[Task]] = {}
        self._critical: deque[Task] = deque()

    def store(self, task: Task) -> None:
        heappush(self._pending, task)

    def pending(self) -> list[Task]:
        return self._pending

    def look(self, now: int) -> None:
        """Makes ready what is due, as who keeps time for it does."""
        self.looked_at = now
        while self._pending and self._pending[0].due <= now:
            self.put(heappop(self._pending))

    def put(self, task: Task) -> None:
        """It is ready: it fell due, or whoever had it is gone."""
        if task.critical:
            self._critical.append(task)
            return
        self._ready.setdefault(task.queue, deque()).append(task)
        if task.queue in self.permits:
            self.permits[task.queue].waiting += 1

    def ended(self, task: Task) -> None:
        """A permit that is used as long as its task runs comes back."""
        if self._pools.get(task.queue) == float("inf") and not task.critical:
            self.permits[task.queue].used.remove(float("inf"))

    def waits(self) -> Waiting:
        lanes = {b"w" + queue.encode(): self._open(queue) for queue in self._ready}
        return Waiting(len(self._critical), sum(lanes.values()), lanes)

    def backlog(self) -> Counter[str]:
        """Of what has no limit: more hands help."""
        found = Counter({queue: len(tasks) for queue, tasks in self._ready.items() if queue not in self.permits})
        found["critical"] = len(self._critical)
        return found

    def empty(self) -> bool:
        return not self._pending and not self._critical and not any(self._ready.values())

    def _open(self, queue: str) -> int:
        """How many could be claimed."""
        if queue not in self.permits:
            return len(self._ready[queue])
        pool = self.permits[queue]
        return min(pool.waiting, max(pool.budget - len(pool.used), 0))

    def claim(self, critical: int, lanes: dict[bytes, int], now: int) -> list[Task]:
        """What a claim script hands out for such a wish, within the permits."""
        taken = [self._critical.popleft() for _ in range(min(critical, len(self._critical)))]
        for lane, count in lanes.items():
            queue = lane[1:].decode()
            ready = self._ready.get(queue, deque())
            if (pool := self.permits.get(queue)) is not None:
                held, pool.waiting = pool.waiting, min(pool.waiting, count)
                asked = pool.waiting
                count = pool.claim(now, self._pools[queue])
                pool.waiting = held - count
                assert count <= asked
            taken += [ready.popleft() for _ in range(min(count, len(ready)))]
        return taken
