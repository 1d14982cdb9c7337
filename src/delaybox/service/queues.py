"""What queues hold, how fast they are served, and how long their tasks wait."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextlib import suppress
from dataclasses import replace

from delaybox.core.lane import split
from delaybox.core.query import QueueList, QueueStats, QueueWait
from delaybox.core.task import TaskType
from delaybox.service.rules import Rules
from delaybox.service.served import Served, living
from delaybox.service.why_waiting import functions_unserved, why_paused
from delaybox.store import lanes
from delaybox.store.oldest import oldest
from delaybox.store.store import Store

_Key = tuple[TaskType, str]
"""A queue has figures for each task type."""
_FRESH_S = 1.0
_FRESH_OF_MANY_S = 5.0
"""Where one look does not see every lane, the next one comes later, because each reads a lot."""
_MOST_LOOKS = 10
"""Looks whose findings count, where one does not see every lane."""


class OldestWaits:
    """Since when the first in line of each queue is due. Read again after a second."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._looks: deque[dict[_Key, int]] = deque()
        self._turn = 0
        self._now_ms = 0
        self._until = 0.0
        self._looking = asyncio.Lock()

    async def ask(self) -> dict[_Key, int]:
        """How many ms the first in line waits. Where more lanes wait than one look sees, a queue may be missing, or be
        here for ten looks after its last task was taken. StoreUnavailable."""
        async with self._looking:
            if time.monotonic() >= self._until:
                await self._look()
        found: dict[_Key, int] = {}
        for look in self._looks:
            for key, due_ms in look.items():
                found[key] = max(found.get(key, 0), self._now_ms - due_ms)
        return found

    async def _look(self) -> None:
        self._turn += 1
        seen = await oldest(self._store, self._turn)
        due_ms: dict[_Key, int] = {}
        for lane, since_ms in seen.due_ms.items():
            with suppress(ValueError):  # a newer node's task type
                parts = split(lane)
                key = parts.type, parts.queue
                due_ms[key] = min(since_ms, due_ms.get(key, since_ms))
        self._looks.append(due_ms)
        while len(self._looks) > min(seen.calls, _MOST_LOOKS):
            self._looks.popleft()
        self._now_ms = seen.now_ms
        self._until = time.monotonic() + (_FRESH_S if seen.calls == 1 else _FRESH_OF_MANY_S)


class QueueFigures:
    """The queues of one store, for readers."""

    def __init__(self, store: Store, rules: Rules) -> None:
        self._store = store
        self._rules = rules
        self._oldest = OldestWaits(store)

    async def every(self, *, pending: bool) -> QueueList:
        """See `Service.queues`. StoreUnavailable."""
        listed = await lanes.queues(self._store, pending=pending)
        found = {(q.type, q.queue): q for q in listed}
        rates: dict[_Key, float] = {}
        here = await living(self._store)
        served = Served.by(here)
        for member in here:
            for key, rate in member.activity.fired_per_s.items():
                with suppress(ValueError):  # a newer node's task type
                    lane = split(key.encode())
                    rates[lane.type, lane.queue] = rates.get((lane.type, lane.queue), 0.0) + rate
        for task_type, queue in rates.keys() - found.keys():
            found[task_type, queue] = QueueStats(
                queue=queue, type=task_type, pending=0, ready=0, in_flight=0, complete=listed.complete
            )
        stored = await self._rules.fresh(now=True)
        waits = await self._oldest.ask()
        shown = (
            replace(
                q,
                waits=why_paused(q.queue, stored),
                fired_per_s=round(rates.get(at, 0.0), 3),
                unserved=functions_unserved(q.ready_lanes, served),
                # What was seen to wait a second ago may have been taken since.
                oldest_wait_ms=waits.get(at, 0) if q.ready or q.pending else 0,
            )
            for at, q in sorted(found.items(), key=lambda item: (item[0][0].value, item[0][1]))
        )
        return QueueList(shown, complete=listed.complete)

    async def waits(self) -> list[QueueWait]:
        """See `Service.queue_waits`. StoreUnavailable."""
        by_queue: dict[str, int] = {}
        for (_, queue), wait_ms in (await self._oldest.ask()).items():
            by_queue[queue] = max(wait_ms, by_queue.get(queue, 0))
        stored = await self._rules.fresh()
        longest = sorted(by_queue.items(), key=lambda item: (-item[1], item[0]))
        return [QueueWait(queue, wait_ms, bool(why_paused(queue, stored))) for queue, wait_ms in longest]
