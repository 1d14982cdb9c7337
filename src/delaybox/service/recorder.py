"""Writes down how tasks ended: apart from acks and claims, seldom, and best effort. Passes it on to the feed of events.

What the store does not take, because it is full or away, is left out: nothing waits for it, and a task's end does not
depend on it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence

from delaybox.core.delivery import Delivery, Failed
from delaybox.core.events import EventKind
from delaybox.core.history import ENDED, HistoryRules
from delaybox.core.partition import of_id
from delaybox.core.task import TaskState
from delaybox.service.failures import FailureNotes
from delaybox.store import history
from delaybox.store.asyncio_end import end
from delaybox.store.record import Record, read
from delaybox.store.store import Claimed, Store

log = logging.getLogger("delaybox.service")

PAUSE_S = 0.1
"""A partition is written to once in this time at most."""
_BUSY_PAUSE_S = 0.5
"""The same while more tasks end than are noted: the same in fewer calls costs less, and then few ends can be looked up
anyway."""
BURST = 5_000
A_SECOND = 3_000
"""Successes that a process notes at once, and in a second for longer."""
_WORTH = 100
"""With room for fewer ends a claim does not name what it fires."""
_AT_ONCE = 2
"""Partitions in one round trip, because all others wait while the server carries out the scripts of one."""


class Recorder:
    """Collects the ends that one process sees. ``now``: Redis's clock (ms) as a partition's server has it.

    ``node``: the member that carries tasks out here; "" where callers end them. With rules that keep nothing every call
    returns at once.
    """

    def __init__(self, store: Store, rules: HistoryRules, now: Callable[[int], int], node: str = "") -> None:
        self._store = store
        self._rules = rules
        self._now = now
        self._node = node.encode()[:255]
        self._keeps = rules.keep_ms > 0
        self._failures = FailureNotes(store, rules, node)
        # More than a partition keeps at all need not be sent to it.
        self._most = min(history.MOST_NOTED, max(1, rules.entries // store.partitions))
        self._waiting: dict[int, dict[bytes, bytes]] = {}
        self._beyond: dict[int, list[int]] = {}
        self._tokens = float(BURST)
        self._filled_at = time.monotonic()
        self._flushed_at = -1e9
        self._flushing: asyncio.Task[None] | None = None
        self._asleep = self._fresh = False
        self.wake: Callable[[], None] = lambda: None
        """Ends the pause of whoever repeats `step`."""
        self._refused = 0

    @property
    def on(self) -> bool:
        """Whether anybody wants to know how tasks end."""
        return self._keeps or self._store.events.wanted

    def ended(self, deliveries: Sequence[Delivery], state: TaskState, reason: str = "") -> None:
        """Notes deliveries of one partition that ended their tasks; never blocks.

        Of very many that succeed most are only counted: to note each of them would cost a drain a tenth of its rate.
        """
        if not deliveries:
            return
        if self._store.events.wanted:
            self._store.events.ended(deliveries, state, reason)
        if not self._keeps:
            return
        partition = deliveries[0].partition
        deliveries = self._first(partition, state, deliveries, self._most - len(self._waiting.get(partition, ())))
        if state is TaskState.SUCCEEDED:
            deliveries = self._first(partition, state, deliveries, self._allowed(len(deliveries)))
        if deliveries:
            ends = history.of_deliveries(deliveries, state, self._node, reason, ended_ms=self._now(partition))
            self._waiting.setdefault(partition, {}).update(ends)
        if self._asleep:
            self._begin()

    def failed(self, d: Delivery, failed: Failed) -> None:
        """Notes why an attempt failed; never blocks."""
        self._failures.note(d, failed, self._now(d.partition))
        if self._asleep:
            self._begin()

    @property
    def room(self) -> bool:
        """Whether it is worth the while that claims name what they fire in place."""
        return self._keeps and self._filled() >= _WORTH

    def in_place(self, partition: int, claimed: Claimed) -> None:
        """Notes tasks that a claim published itself, as far as it names them; the others are only counted."""
        named = claimed.named
        if named and self._store.events.wanted:
            records = [read(named[at], named[at + 1]) for at in range(0, len(named), 2)]
            self._store.events.records(EventKind.FIRED, records)
            self._store.events.records(EventKind.COMPLETED, records)
        if not self._keeps:
            return
        room = max(self._most - len(self._waiting.get(partition, ())), 0)
        count = self._allowed(min(len(named) // 2, room))
        if count < len(claimed.lateness_ms):
            self._count(partition, TaskState.SUCCEEDED, len(claimed.lateness_ms) - count)
        if count:
            ends = history.of_fired(named[: 2 * count], self._node, fired_ms=claimed.now_ms)
            self._waiting.setdefault(partition, {}).update(ends)
        if self._asleep:
            self._begin()

    def cancelled(self, records: Sequence[Record]) -> None:
        """Notes pending tasks that a caller cancelled."""
        if self._store.events.wanted:
            self._store.events.records(EventKind.CANCELLED, records)
        for r in records if self._keeps else ():
            partition = of_id(r.task_id, self._store.partitions)
            waiting = self._waiting.setdefault(partition, {})
            if len(waiting) >= self._most:
                self._count(partition, TaskState.CANCELLED, 1)
                continue
            waiting[r.task_id] = history.entry(
                TaskState.CANCELLED,
                r.lane,
                self._node,
                "",
                due_ms=r.due_ms,
                fired_ms=0,
                ended_ms=self._now(partition),
                priority=r.priority,
                attempt=r.attempt,
                deliveries=r.deliveries,
            )

    def _first(self, partition: int, state: TaskState, deliveries: Sequence[Delivery], room: int) -> Sequence[Delivery]:
        """As many of them as there is room for; the others are counted."""
        if room >= len(deliveries):
            return deliveries
        self._count(partition, state, len(deliveries) - room)
        return deliveries[:room]

    def _count(self, partition: int, state: TaskState, count: int) -> None:
        self._waiting.setdefault(partition, {})
        self._beyond.setdefault(partition, [0, 0, 0])[ENDED.index(state)] += count

    def _allowed(self, count: int) -> int:
        """How many of so many ends may be noted now: BURST at once, and A_SECOND from then on."""
        room = min(count, int(self._filled()))
        self._tokens -= room
        return room

    def _filled(self) -> float:
        now = time.monotonic()
        self._tokens = min(BURST, self._tokens + (now - self._filled_at) * A_SECOND)
        self._filled_at = now
        return self._tokens

    def waiting(self, task_id: bytes) -> bytes | None:
        """The entry of an end that this process noted and has not written yet."""
        return self._waiting.get(of_id(task_id, self._store.partitions), {}).get(task_id)

    def _begin(self) -> None:
        """Something was noted while nothing waited. What comes within a pause is written with it."""
        self._asleep, self._fresh = False, True
        self.wake()

    async def step(self) -> float:
        """For a loop: writes what was noted since the last step. Where there is nothing, it is called again after
        `wake`."""
        if self._fresh:
            self._fresh = False
            return PAUSE_S
        if not self._waiting and not self._failures.waiting:
            self._asleep = True
            return math.inf
        pause_s = _BUSY_PAUSE_S if self._beyond else PAUSE_S
        await self.flush()
        return pause_s

    async def flush(self) -> None:
        """Writes what was noted; what is refused is left out."""
        self._flushed_at = asyncio.get_running_loop().time()
        waiting, self._waiting = self._waiting, {}
        beyond, self._beyond = self._beyond, {}
        partitions = list(waiting)
        for at in range(0, len(partitions), _AT_ONCE):
            await self._write(partitions[at : at + _AT_ONCE], waiting, beyond)
        if self._failures.waiting:
            calls = list(self._failures.calls())
            for at in range(0, len(calls), _AT_ONCE):
                for reply in await self._store.runner.run_many(calls[at : at + _AT_ONCE]):
                    if isinstance(reply, BaseException):
                        log.debug("why some attempts failed is not written down: %s", reply)

    async def _write(
        self, partitions: Sequence[int], waiting: dict[int, dict[bytes, bytes]], beyond: dict[int, list[int]]
    ) -> None:
        calls = [
            history.note_call(self._store, p, self._rules, waiting[p].items(), beyond.get(p, (0, 0, 0)))
            for p in partitions
        ]
        for p, reply in zip(partitions, await self._store.runner.run_many(calls), strict=True):
            if isinstance(reply, BaseException):
                if not self._refused:
                    log.warning("how tasks ended is not written down for now: %s", reply)
                self._refused += len(waiting[p])
            elif self._refused:
                log.info("how tasks ended is written down again; %d ends were left out", self._refused)
                self._refused = 0

    async def soon(self) -> None:
        """Writes what was noted: now if the last time is `PAUSE_S` ago, else later, without waiting for it."""
        if not self._waiting:
            return
        loop = asyncio.get_running_loop()
        left = self._flushed_at + PAUSE_S - loop.time()
        if left <= 0 and self._flushing is None:
            await self.flush()
        elif self._flushing is None:
            self._flushing = asyncio.create_task(self._later(left), name="delaybox-history")

    async def _later(self, pause_s: float) -> None:
        try:
            await asyncio.sleep(pause_s)
            await self.flush()
        finally:
            self._flushing = None

    async def close(self) -> None:
        """Writes what is left. Harmless when repeated."""
        if self._flushing is not None:
            await end(self._flushing)
        if self._waiting or self._failures.waiting:
            await self.flush()
