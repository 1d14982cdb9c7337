"""The rules of queues, for callers: set, changed, shown, and returned to the default."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from msgspec import structs

from delaybox.core.errors import InvalidTask, StoreUnavailable
from delaybox.core.limit_keys import read_name
from delaybox.core.queue import (
    NO_RULES,
    OTHERS,
    LiveRules,
    QueueRules,
    Ramp,
    RuleBook,
    has_pace,
)
from delaybox.core.queue_limits import Pool, Rate
from delaybox.core.task import DEFAULT_QUEUE, TaskState, TaskView
from delaybox.service.why_waiting import by_rules, why_limited, why_paused
from delaybox.store import permits, ramps, rules
from delaybox.store.rules import StoredRules
from delaybox.store.store import Store

_FRESH_S = 1.0
_TRIES = 10
_MOST_LOOKED_AT = 20
"""Limit keys that are looked at to find one that waits for its limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownRules:
    """The rules of a queue.

    ``own``: set for it alone; ``effect``: what holds for it. ``newer``: the names of rules that a newer version set,
    which this one does not know. ``waits``: why its tasks wait, "" where they do not. ``version``: of all rules.
    """

    queue: str
    own: QueueRules
    effect: QueueRules
    newer: tuple[str, ...] = ()
    waits: str = ""
    version: int = 0


class Rules:
    """The rules in one store. ``configured``: those of this node's configuration, which come after them."""

    def __init__(self, store: Store, configured: RuleBook | None = None) -> None:
        self._store = store
        self._live = LiveRules(configured)
        self._read: Mapping[str, StoredRules] = {}
        self._until = 0.0
        self._looking = asyncio.Lock()

    # -- reading ------------------------------------------------------------------------------------------------

    async def fresh(self, *, now: bool = False) -> Mapping[str, QueueRules]:
        """All stored rules, at most a second old, or as they are now. StoreUnavailable."""
        if now or time.monotonic() >= self._until:
            async with self._looking:
                if now or time.monotonic() >= self._until:
                    if await rules.version(self._store) != self._live.version:
                        number, self._read = await rules.every(self._store, self._read)
                        self._live.take(number, {queue: one.rules for queue, one in self._read.items()})
                    self._until = time.monotonic() + _FRESH_S
        return self._live.stored

    async def in_effect(self) -> LiveRules:
        """What holds for each queue, at most a second old. StoreUnavailable."""
        await self.fresh()
        return self._live

    async def of(self, queue: str) -> ShownRules:
        """The rules of a queue now. StoreUnavailable."""
        await self.fresh(now=True)
        shown = self._shown(queue)
        if shown.waits or queue == OTHERS or not shown.effect.limited:
            return shown
        return replace(shown, waits=await self._why_limited(queue, shown.effect))

    async def _why_limited(self, queue: str, effect: QueueRules) -> str:
        name, pools = b"" if queue == DEFAULT_QUEUE else queue.encode(), effect.pools(queue)
        whole = f"queue {queue!r}"
        if pools and (why := await self._why_held(name, pools, whole, effect.pace, effect.ramp)):
            return why
        waiting = await permits.waiting_keys(self._store, name) if effect.keys else []
        for one in waiting[:_MOST_LOOKED_AT]:
            key = read_name(one)
            limit = next((limit for limit in effect.keys or () if key is not None and limit.by == key.by), None)
            if key is None or limit is None:
                continue
            about = f"{whole} with {key.by} {key.value!r}"
            if why := await self._why_held(one, limit.pools(one), about, limit.rate):
                return f"{why} ({len(waiting):,} keys of the queue wait)" if len(waiting) > 1 else why
        return ""

    async def _why_held(
        self, name: bytes, pools: Sequence[Pool], what: str, rate: Rate | None, ramp: Ramp | None = None
    ) -> str:
        uses = await permits.use(self._store, name, pools)
        reasons = (
            why_limited(what, pool, rate, use.used, use.next_ms, ramp) for pool, use in zip(pools, uses, strict=True)
        )
        # Without anybody who waits a limit that is used up is no reason.
        return next((why for why in reasons if why), "") if uses[0].waiting else ""

    async def every(self) -> list[ShownRules]:
        """Every queue with rules of its own, by name. StoreUnavailable."""
        return [self._shown(queue) for queue in sorted(await self.fresh(now=True))]

    async def with_reason(self, views: list[TaskView]) -> list[TaskView]:
        """The views; those of due tasks that wait in a paused queue with that reason. StoreUnavailable."""
        if not any(view.state is TaskState.READY for view in views):
            return views
        stored = await self.fresh()
        if not any(one.paused or one.limited or one.ramp for one in stored.values()):
            return views
        return [
            structs.replace(view, reason=waits)
            if view.state is TaskState.READY and (waits := by_rules(view, stored, self._live.of(view.queue)))
            else view
            for view in views
        ]

    def _shown(self, queue: str) -> ShownRules:
        read = self._read.get(queue, StoredRules())
        return ShownRules(
            queue=queue,
            own=read.rules,
            effect=self._live.of(queue),
            newer=tuple(sorted(read.newer)),
            waits=why_paused(queue, self._live.stored),
            version=max(self._live.version, 0),
        )

    # -- changing -----------------------------------------------------------------------------------------------

    async def set(
        self, queue: str, wanted: QueueRules, *, clear: Collection[str] = (), whole: bool = False
    ) -> ShownRules:
        """Sets the rules that are not None and clears those named (`core.queue.RULE_NAMES`); in force when it returns
        for whatever is claimed then, on other nodes within a second. ``whole``: the queue has no other rules then.

        InvalidTask where too many queues have rules, and for a burst without a rate. StoreUnavailable: it may be in
        force, and may be set again.
        """
        for _ in range(_TRIES):
            before = await rules.one(self._store, queue)
            base = NO_RULES if whole else replace(before.rules, **dict.fromkeys(clear))
            ramp = await self._ramp(queue, before.rules, wanted.over(base))
            if wanted.burst is not None:
                self._check_burst(queue, wanted.burst, wanted.over(base))
            new = rules.encode(replace(wanted.over(base), ramp=ramp), {} if whole else before.newer)
            if await self._stored(queue, before.raw, new):
                return await self.of(queue)
        raise StoreUnavailable(f"the rules of queue {queue!r} are being changed by others all the time; try again")

    async def _ramp(self, queue: str, before: QueueRules, after: QueueRules) -> Ramp | None:
        """The ramp of a queue whose rules are changed. One that goes on is not measured again, unless its rate changes;
        it ends where there is no rate any more, or another pause."""
        stored = await self.fresh(now=True)
        others = NO_RULES if queue == OTHERS else stored.get(OTHERS, NO_RULES)
        was, will = before.over(others), replace(after, ramp=None).over(others)
        if will.paused or will.resume_rate is None:
            return None
        if after.paused is None and not was.paused and was.resume_rate == will.resume_rate:
            return before.ramp
        if was.paused or (was.ramp is not None and will.resume_rate != was.resume_rate):
            now = await self._store.ping()
            since = now if was.ramp is None else was.ramp.since_ms
            return await ramps.ramp(self._store, stored, queue, replace(after, ramp=None), since, now)
        return was.ramp

    def _check_burst(self, queue: str, burst: int, after: QueueRules) -> None:
        if not has_pace(queue, self._live.would_be(queue, after), self._live.stored.values()):
            raise InvalidTask("burst", f"burst {burst} has no rate; give a rate with it, such as '100/s'")

    async def unset(self, queue: str) -> ShownRules:
        """Returns a queue to the default. Errors as `set`."""
        return await self.set(queue, NO_RULES, whole=True)

    async def _stored(self, queue: str, old: bytes, new: bytes) -> bool:
        if old == new:
            word, number = "stored", await rules.version(self._store)
        else:
            word, number = await rules.change(self._store, [(queue, old, new)])
        if word == "full":
            raise InvalidTask(
                "queue",
                f"{rules.MOST} queues have rules already; set a rule for all others with queue {OTHERS!r}, or unset "
                "queues that need none",
            )
        if word != "stored":
            return False
        stored = await self.fresh(now=True)
        number = self._live.version
        if number:
            found = await rules.copies(self._store, range(self._store.partitions), number)
            await rules.copy(self._store, found.behind + found.away, number, rules.codes(stored))
        return True
