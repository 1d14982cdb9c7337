"""Permits of tasks that are handed out at most once: acked before, they lie in no lease that would keep these."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence

from delaybox.core.delivery import Delivery
from delaybox.core.errors import DelayBoxError
from delaybox.core.lane import queue_of_lane, split
from delaybox.core.queue import LiveRules
from delaybox.store.loader import ScriptCall
from delaybox.store.permits import keep_call
from delaybox.store.store import MAX_ITEMS, Store

log = logging.getLogger("delaybox.engine")


class KeptPermits:
    """Keeps these permits until the tasks end. If this process dies they come back after one lease's time.

    ``ended`` is called with those whose permits came back.
    """

    def __init__(self, store: Store, rules: LiveRules, ended: Callable[[int, Sequence[Delivery]], None]) -> None:
        self._store = store
        self._rules = rules
        self._ended = ended
        self._tasks: dict[int, dict[bytes, Delivery]] = {}
        self._back: set[asyncio.Task[None]] = set()

    def add(self, deliveries: Iterable[Delivery]) -> None:
        """These were acked and are handed out."""
        for d in deliveries:
            if d.limit_keys or self._rules.of(split(d.lane).queue).concurrency is not None:
                self._tasks.setdefault(d.partition, {})[d.task_id] = d

    async def extend(self, keep_ms: int, shard: int | None = None) -> None:
        """Keeps them for so long from now on. ``shard``: only those at the server of this number.

        StoreUnavailable: some may be kept.
        """
        shards = self._store.shards.of
        here = [p for p in self._tasks if shard is None or shards[p] == shard]
        calls = [call for p in here for call in self._calls(p, self._tasks[p].values(), keep_ms)]
        for reply in await self._store.runner.run_many(calls) if calls else []:
            if isinstance(reply, BaseException):
                raise reply

    def over(self, deliveries: Sequence[Delivery]) -> None:
        """These have ended."""
        for p in {d.partition for d in deliveries}:
            here = self._tasks.get(p, {})
            gone = [here.pop(d.task_id) for d in deliveries if d.partition == p and d.task_id in here]
            if not here:
                self._tasks.pop(p, None)
            if gone:
                task = asyncio.create_task(self._give_back(p, gone))
                self._back.add(task)
                task.add_done_callback(self._back.discard)

    def _calls(self, p: int, tasks: Iterable[Delivery], keep_ms: int) -> list[ScriptCall]:
        pairs = [(name, d.task_id) for d in tasks for name in (queue_of_lane(d.lane), *d.limit_keys)]
        return [
            keep_call(self._store, p, pairs[at : at + MAX_ITEMS], keep_ms) for at in range(0, len(pairs), MAX_ITEMS)
        ]

    async def _give_back(self, p: int, gone: Sequence[Delivery]) -> None:
        for reply in await self._store.runner.run_many(self._calls(p, gone, 0)):
            if isinstance(reply, DelayBoxError):
                log.warning("permits of %d tasks come back a little later: %s", len(gone), reply)
            elif isinstance(reply, BaseException):
                log.error("permits of %d tasks come back a little later: %r", len(gone), reply)
        self._ended(p, gone)
