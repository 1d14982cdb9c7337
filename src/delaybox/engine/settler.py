"""Settles deliveries in the store: acks, failures and hand-backs that arrive together share a round trip."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

from delaybox import failpoints, metrics
from delaybox.core.delivery import Delivery, Done, Elsewhere, Failed, HandBack, Lost, Outcome, Snoozed
from delaybox.core.errors import DelayBoxError, StoreUnavailable
from delaybox.core.events import EventKind
from delaybox.core.queue import LiveRules
from delaybox.core.task import TaskState
from delaybox.engine.loops import end
from delaybox.engine.options import EngineOptions
from delaybox.engine.stored import StoreProgress
from delaybox.engine.verdicts import Verdicts
from delaybox.service.recorder import Recorder
from delaybox.store.batches import by_bytes
from delaybox.store.loader import ScriptCall
from delaybox.store.settling import acked, fail_calls, lose_calls, release_calls
from delaybox.store.settling import failed as failures
from delaybox.store.settling import lost as losses
from delaybox.store.snooze import snooze_calls
from delaybox.store.snooze import snoozed as snoozes
from delaybox.store.states import states
from delaybox.store.store import MAX_ITEMS, Store

log = logging.getLogger("delaybox.engine")

_AFTER = {
    "ack": "after_ack_reply",
    "complete": "after_ack_reply",
    "fail": "after_fail_reply",
    "snooze": "after_fail_reply",
    "lose": "after_release_reply",
    "release": "after_release_reply",
}
"""The named place behind the answer of each script."""
_Lease = tuple[int, bytes]
_Item = tuple[Delivery, Outcome]
"""An outcome that is no plain ack."""
Freed = Sequence[bytes] | None
"""Queues and limit keys of which a permit came back that others may use (`settling.acked`); None: it is not known."""


@dataclass(frozen=True, slots=True)
class _Settling:
    """Outcomes of one lease on their way into the store. ``ended`` gets the replies when there is one to each call."""

    items: Sequence[_Item]
    calls: Sequence[ScriptCall]
    ended: Callable[[Sequence[Any]], Freed]


class Settler:
    """Collects outcomes and settles them; ``settled`` is called with those whose slots came free. ``recorder`` notes
    how tasks ended.

    An outcome whose settling failed because the store was away is kept and sent again: while its lease lives the task
    is not run twice.
    """

    def __init__(
        self,
        store: Store,
        options: EngineOptions,
        settled: Callable[[Sequence[Delivery], Freed], None],
        rules: LiveRules,
        recorder: Recorder,
    ) -> None:
        self._verdicts = Verdicts(rules, options.retry)
        self._recorder = recorder
        self._store = store
        self._options = options
        self._settled = settled
        self._acks: list[Delivery] = []
        self._others: list[_Item] = []
        self._dead_by_loss: list[Delivery] = []
        """Some of them became dead letters because of losses."""
        self.stored = StoreProgress()
        """How far what was reported is stored."""
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins; returns at once."""
        self._task = asyncio.create_task(self._run(), name="delaybox-settler")

    async def stop(self, timeout_s: float) -> None:
        """Settles what was reported, as long as ``timeout_s`` allows, then ends."""
        if self._task is None:
            return
        try:
            await asyncio.wait_for(self._idle.wait(), timeout_s)
        except TimeoutError:
            log.warning("%d outcomes could not be stored in Redis in time", len(self._acks) + len(self._others))
        task, self._task = self._task, None
        await end(task)

    def report(self, deliveries: Sequence[Delivery], outcome: Outcome) -> None:
        """Accepts outcomes; never blocks."""
        if isinstance(outcome, Done) and outcome.result is None and not outcome.stored:
            self._acks += deliveries
        elif isinstance(outcome, Elsewhere):
            self._settled(deliveries, None)
            return
        else:
            self._others += [(d, outcome) for d in deliveries]
        self.stored.reported()
        self._idle.clear()
        self._wake.set()

    async def _run(self) -> None:
        pause = 0.0
        while True:
            if not self._acks and not self._others:
                self._idle.set()
                await self._wake.wait()
                if self._options.settle_ms:
                    await asyncio.sleep(self._options.settle_ms / 1000)
            self._wake.clear()
            self.stored.begins()
            acks, self._acks = self._acks, []
            others, self._others = self._others, []
            ok = await self._settle(acks, others)
            self.stored.ends(all_=ok)
            pause = 0.0 if ok else min(max(pause * 2, 0.05), 1.0)
            if pause:
                await asyncio.sleep(pause)

    async def _settle(self, acks: list[Delivery], others: list[_Item]) -> bool:
        """All outcomes of all leases in one round trip. False: some must be sent again, and are kept for that."""
        groups, calls = self._ack_calls(acks)
        settlings = self._settlings(others) if others else []
        for s in settlings:
            calls += as_needed(s.calls, [d for d, _ in s.items])
        if not calls:
            return True
        replies = iter(await self._sent(calls))
        for script in {call.script for call in calls}:
            failpoints.hit(_AFTER[script])
        ok = True
        for group in groups:
            ok &= self._acked(group, next(replies))
        for s in settlings:
            ok &= self._ended(s, list(islice(replies, len(s.calls))))
        if self._dead_by_loss:
            await self._note_lost()
        return ok

    def _ack_calls(self, acks: list[Delivery]) -> tuple[list[list[Delivery]], list[ScriptCall]]:
        """One call for each lease, of which each is for a group of deliveries."""
        by: defaultdict[_Lease, list[Delivery]] = defaultdict(list)
        lease_id = None
        for d in acks:
            # Mostly many of one claim follow one another, which has one object for its lease.
            if d.lease_id is not lease_id:
                lease_id, add = d.lease_id, by[d.partition, d.lease_id].append
            add(d)
        groups: list[list[Delivery]] = []
        calls: list[ScriptCall] = []
        for (partition, lease_id), ds in by.items():
            for at in range(0, len(ds), MAX_ITEMS):
                group = ds[at : at + MAX_ITEMS]
                groups.append(group)
                call = self._store.ack_call(partition, lease_id, [d.task_id for d in group])
                calls += as_needed((call,), group)
        if calls:
            failpoints.hit("before_ack")
        return groups, calls

    def _acked(self, group: list[Delivery], reply: Any) -> bool:
        """Whether these need not be sent again."""
        if isinstance(reply, DelayBoxError):
            self._acks += group
            return False
        freed: Freed = None
        if isinstance(reply, BaseException):
            log.error("an ack was refused by the server: %r; its tasks run again when their lease expires", reply)
        else:
            stale, freed = acked(reply)
            if stale:
                metrics.stale_ack(len(stale))
            if self._recorder.on:
                self._recorder.ended(_without(group, stale), TaskState.SUCCEEDED)
        self._settled(group, freed)
        return True

    def _settlings(self, others: list[_Item]) -> list[_Settling]:
        """Each lease's outcomes of one kind together."""
        done: defaultdict[_Lease, list[tuple[Delivery, Done]]] = defaultdict(list)
        failed: defaultdict[_Lease, list[tuple[Delivery, Failed]]] = defaultdict(list)
        snoozed: defaultdict[_Lease, list[tuple[Delivery, Snoozed]]] = defaultdict(list)
        back: defaultdict[tuple[int, bytes, int, int], list[tuple[Delivery, HandBack]]] = defaultdict(list)
        lost: defaultdict[tuple[int, bytes, bool], list[tuple[Delivery, Lost]]] = defaultdict(list)
        for d, outcome in others:
            if isinstance(outcome, Done):
                done[d.partition, d.lease_id].append((d, outcome))
            elif isinstance(outcome, Failed):
                failed[d.partition, d.lease_id].append((d, outcome))
            elif isinstance(outcome, Snoozed):
                snoozed[d.partition, d.lease_id].append((d, outcome))
            elif isinstance(outcome, Lost):
                lost[d.partition, d.lease_id, outcome.together].append((d, outcome))
            elif isinstance(outcome, HandBack):
                back[d.partition, d.lease_id, outcome.delay_ms, outcome.until_ms].append((d, outcome))
        makers: list[tuple[Callable[[], Iterable[_Settling]], Sequence[_Item]]] = [
            *((partial(self._complete, *lease, items), items) for lease, items in done.items()),
            *((partial(self._fail, *lease, items), items) for lease, items in failed.items()),
            *((partial(self._snooze, *lease, items), items) for lease, items in snoozed.items()),
            *((partial(self._lose, *lease, items), items) for lease, items in lost.items()),
            *((partial(self._release, *lease, items), items) for lease, items in back.items()),
        ]
        settlings = [s for make, items in makers for s in self._made(make, items)]
        if done:
            failpoints.hit("before_ack")
        if failed or snoozed:
            failpoints.hit("before_fail")
        if lost or back:
            failpoints.hit("before_release")
        return settlings

    async def _sent(self, calls: Sequence[ScriptCall]) -> Sequence[Any]:
        """As the runner's `run_many`, which raises nothing. Should it raise all the same, the outcomes are sent again:
        if the settler ended, the heartbeat would hold every lease of this node for ever."""
        try:
            return await self._store.runner.run_many(calls)
        except Exception as error:
            log.exception("outcomes could not be sent; they are sent again")
            return [StoreUnavailable(f"outcomes could not be sent: {error}")] * len(calls)

    def _made(self, make: Callable[[], Iterable[_Settling]], items: Sequence[_Item]) -> list[_Settling]:
        try:
            return list(make())
        except Exception:
            log.exception("outcomes cannot be stored; their tasks run again when their lease expires")
            self._settled([d for d, _ in items], None)
            return []

    def _ended(self, s: _Settling, replies: Sequence[Any]) -> bool:
        """Whether these need not be sent again.

        Those that no repeat can mend are dropped: if such an error ended the settler, the heartbeat would hold every
        lease of this node for ever.
        """
        if any(isinstance(reply, DelayBoxError) for reply in replies):
            self._others += s.items
            return False
        freed: Freed = None
        try:
            for reply in replies:
                if isinstance(reply, BaseException):
                    raise reply
            freed = s.ended(replies)
        except Exception:
            log.exception("outcomes were refused by the server; their tasks run again when their lease expires")
        self._settled([d for d, _ in s.items], freed)
        return True

    def _complete(self, partition: int, lease_id: bytes, items: Sequence[tuple[Delivery, Done]]) -> Iterator[_Settling]:
        stored = [((d, o), self._verdicts.of_success(d, o)) for d, o in items]
        cancelled = {d.task_id for d, o in items if o.result is not None and o.result.cancelled}
        for group in by_bytes(stored, lambda pair: len(pair[1][2])):
            mine = [item for item, _ in group]
            call = self._store.complete_call(partition, lease_id, [kept for _, kept in group], cancelled)
            yield _Settling(mine, [call], partial(self._completed, mine))

    def _completed(self, items: Sequence[tuple[Delivery, Done]], replies: Sequence[Any]) -> Freed:
        (reply,) = replies
        stale, freed = acked(reply)
        if stale:
            metrics.stale_ack(len(stale))
        if self._recorder.on:
            self._note_results(items, stale)
        return freed

    def _release(
        self,
        partition: int,
        lease_id: bytes,
        delay_ms: int,
        until_ms: int,
        items: Sequence[tuple[Delivery, HandBack]],
    ) -> Iterator[_Settling]:
        def ended(replies: Sequence[Any]) -> None:
            stale = {task_id for reply in replies for task_id in reply}
            if stale:
                metrics.stale_ack(len(stale))
            for d, outcome in items:
                if outcome.stored is not None:
                    outcome.stored(d.task_id, d.task_id not in stale)

        ids = [d.task_id for d, _ in items]
        calls = release_calls(self._store, partition, lease_id, ids, delay_ms=delay_ms, until_ms=until_ms)
        yield _Settling(items, calls, ended)

    def _lose(self, partition: int, lease_id: bytes, failing: bool, items: Sequence[_Item]) -> Iterator[_Settling]:
        def ended(replies: Sequence[Any]) -> None:
            stale, dead, dropped = losses(replies)
            if stale:
                metrics.stale_ack(len(stale))
            if dead:
                metrics.dead_lettered(dead)
                if self._recorder.on:
                    self._dead_by_loss += [d for d, _ in items]
            self._report_dropped(dropped)

        o = self._options
        calls = lose_calls(
            self._store,
            partition,
            lease_id,
            [d.task_id for d, _ in items],
            losses_cap=o.losses_cap,
            dead_cap=o.dead_cap,
            lease_ms=o.lease_ms,
            failing=failing,
        )
        yield _Settling(items, calls, ended)

    def _fail(self, partition: int, lease_id: bytes, items: Sequence[tuple[Delivery, Failed]]) -> Iterator[_Settling]:
        verdicts = [self._verdicts.of_failure(d, outcome) for d, outcome in items]

        def ended(replies: Sequence[Any]) -> None:
            stale, dropped = failures(replies)
            if stale:
                metrics.stale_ack(len(stale))
            refused = set(stale)
            for (d, outcome), verdict in zip(items, verdicts, strict=True):
                if verdict.task_id in refused:
                    continue
                self._recorder.failed(d, outcome)
                if verdict.delay_ms is None:
                    metrics.dead_lettered()
                    self._recorder.ended((d,), TaskState.FAILED, verdict.reason)
                else:
                    metrics.retried(d.type.name)
                    self._retried(d, verdict.delay_ms, verdict.reason, failed=1)
            self._report_dropped(dropped)

        calls = fail_calls(self._store, partition, lease_id, verdicts, dead_cap=self._options.dead_cap)
        yield _Settling(items, calls, ended)

    def _snooze(
        self, partition: int, lease_id: bytes, items: Sequence[tuple[Delivery, Snoozed]]
    ) -> Iterator[_Settling]:
        wishes = [self._verdicts.of_snooze(d, outcome) for d, outcome in items]

        def ended(replies: Sequence[Any]) -> None:
            stale, dead, dropped = snoozes(replies)
            if stale:
                metrics.stale_ack(len(stale))
            if dead:
                metrics.dead_lettered(len(dead))
            over = {*stale, *dead}
            for (d, outcome), wish in zip(items, wishes, strict=True):
                if d.task_id not in over:
                    metrics.snoozed(d.type.name)
                    self._retried(d, wish.delay_ms, outcome.reason)
                elif d.task_id in dead:
                    self._recorder.ended((d,), TaskState.FAILED, wish.reason)
            self._report_dropped(dropped)

        calls = snooze_calls(self._store, partition, lease_id, wishes, dead_cap=self._options.dead_cap)
        yield _Settling(items, calls, ended)

    def _retried(self, d: Delivery, delay_ms: int, reason: str, *, failed: int = 0) -> None:
        events = self._store.events
        if events.wanted:
            events.deliveries(EventKind.RETRIED, (d,), reason=reason, failed=failed, delay_ms=delay_ms)

    def _note_results(self, items: Sequence[tuple[Delivery, Done]], stale: Sequence[bytes]) -> None:
        refused = set(stale)
        for d, outcome in items:
            result = outcome.result
            if d.task_id in refused:
                continue
            if result is None or result.ok:
                self._recorder.ended((d,), TaskState.SUCCEEDED)
            else:
                state = TaskState.CANCELLED if result.cancelled else TaskState.FAILED
                self._recorder.ended((d,), state, result.reason)

    async def _note_lost(self) -> None:
        """Some of these became dead letters: the script's reply states only how many."""
        deliveries, self._dead_by_loss = self._dead_by_loss, []
        try:
            found = await states(self._store, [d.task_id for d in deliveries], leased=False)
        except Exception as error:  # an end that is not written down must not end the settler
            if not isinstance(error, DelayBoxError):
                log.exception("it is not written down how %d tasks were lost", len(deliveries))
            return
        for d, standing in zip(deliveries, found, strict=True):
            if standing is not None and standing.state is TaskState.FAILED:
                self._recorder.ended((d,), TaskState.FAILED, standing.reason)

    def _report_dropped(self, dropped: int) -> None:
        if dropped:
            log.warning("%d of the oldest dead letters were dropped: the cap is %d", dropped, self._options.dead_cap)


def as_needed(calls: Sequence[ScriptCall], deliveries: Sequence[Delivery]) -> Sequence[ScriptCall]:
    """What ends these, each with as much of its script as they need."""
    extended = [d for d in deliveries if d.extended]
    if not extended:
        return calls
    whole = not all(d.lent for d in extended)
    return [c._replace(whole=whole or c.whole, lent=True) for c in calls]


def _without(group: list[Delivery], stale: Sequence[bytes]) -> Sequence[Delivery]:
    if not stale:
        return group
    refused = set(stale)
    return [d for d in group if d.task_id not in refused]
