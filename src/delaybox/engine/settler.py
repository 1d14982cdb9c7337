"""Settles deliveries in the store: acks, failures and hand-backs that arrive together share a round trip."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

from google.protobuf.message import DecodeError
from msgspec.structs import replace

from delaybox import failpoints, metrics
from delaybox.core.delivery import Delivery, Done, Elsewhere, Failed, HandBack, Lost, Outcome, Snoozed
from delaybox.core.errors import DelayBoxError, StoreUnavailable
from delaybox.core.events import EventKind
from delaybox.core.lane import split
from delaybox.core.queue import LiveRules
from delaybox.core.retry import RetryPolicy
from delaybox.core.task import DEFAULT_SNOOZE_MS, TaskState
from delaybox.engine.loops import end
from delaybox.engine.options import EngineOptions
from delaybox.engine.stored import StoreProgress
from delaybox.service.recorder import Recorder
from delaybox.store.batches import by_bytes
from delaybox.store.loader import ScriptCall
from delaybox.store.settling import fail_calls, lose_calls, release_calls
from delaybox.store.settling import failed as failures
from delaybox.store.settling import lost as losses
from delaybox.store.snooze import Snooze, snooze_calls
from delaybox.store.snooze import snoozed as snoozes
from delaybox.store.states import states
from delaybox.store.store import MAX_ITEMS, Store, Verdict
from delaybox.wire import body as wire_body
from delaybox.wire import result as wire_result

log = logging.getLogger("delaybox.engine")

_LEAST_KEPT_MS = 60_000
_Lease = tuple[int, bytes]
_Item = tuple[Delivery, Outcome]
"""An outcome that is no plain ack."""


@dataclass(frozen=True, slots=True)
class _Settling:
    """Outcomes of one lease on their way into the store. ``ended`` gets the replies when there is one to each call."""

    items: Sequence[_Item]
    calls: list[ScriptCall]
    ended: Callable[[Sequence[Any]], Awaitable[None]]


class Settler:
    """Collects outcomes and settles them; ``settled`` is called with how many slots came free. ``recorder`` notes how
    tasks ended.

    An outcome whose settling failed because the store was away is kept and sent again: while its lease lives the task
    is not run twice.
    """

    def __init__(
        self,
        store: Store,
        options: EngineOptions,
        settled: Callable[[Sequence[Delivery]], None],
        rules: LiveRules,
        recorder: Recorder,
    ) -> None:
        self._rules = rules
        self._recorder = recorder
        self._store = store
        self._options = options
        self._settled = settled
        self._acks: list[Delivery] = []
        self._others: list[_Item] = []
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
            self._settled(deliveries)
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
            self._wake.clear()
            self.stored.begins()
            acks, self._acks = self._acks, []
            others, self._others = self._others, []
            ok = await self._settle_acks(acks) if acks else True
            for (delivery, outcome), again in await self._settle_others(others):
                ok = ok and not again
                if again:
                    self._others.append((delivery, outcome))
            self.stored.ends(all_=ok)
            pause = 0.0 if ok else min(max(pause * 2, 0.05), 1.0)
            if pause:
                await asyncio.sleep(pause)

    async def _settle_acks(self, acks: list[Delivery]) -> bool:
        by: defaultdict[_Lease, list[Delivery]] = defaultdict(list)
        for d in acks:
            by[d.partition, d.lease_id].append(d)
        groups: list[list[Delivery]] = []
        calls: list[ScriptCall] = []
        for (partition, lease_id), ds in by.items():
            for at in range(0, len(ds), MAX_ITEMS):
                group = ds[at : at + MAX_ITEMS]
                groups.append(group)
                calls.append(self._store.ack_call(partition, lease_id, [d.task_id for d in group]))
        failpoints.hit("before_ack")
        replies = await self._sent(calls)
        failpoints.hit("after_ack_reply")
        ok = True
        for group, reply in zip(groups, replies, strict=True):
            if isinstance(reply, DelayBoxError):
                ok = False
                self._acks += group
                continue
            if isinstance(reply, BaseException):
                log.error("an ack was refused by the server: %r; its tasks run again when their lease expires", reply)
            else:
                if reply:
                    metrics.stale_ack(len(reply))
                if self._recorder.on:
                    self._recorder.ended(_without(group, reply), TaskState.SUCCEEDED)
            self._settled(group)
        return ok

    async def _settle_others(self, others: list[_Item]) -> list[tuple[_Item, bool]]:
        """For each outcome: whether it must be sent again."""
        done: defaultdict[_Lease, list[tuple[Delivery, Done]]] = defaultdict(list)
        failed: defaultdict[_Lease, list[tuple[Delivery, Failed]]] = defaultdict(list)
        snoozed: defaultdict[_Lease, list[tuple[Delivery, Snoozed]]] = defaultdict(list)
        back: defaultdict[tuple[int, bytes, int], list[tuple[Delivery, HandBack]]] = defaultdict(list)
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
                back[d.partition, d.lease_id, outcome.delay_ms].append((d, outcome))
        result = await self._complete(done)
        makers: list[tuple[Callable[[], _Settling], Sequence[_Item]]] = [
            *((partial(self._fail, *lease, items), items) for lease, items in failed.items()),
            *((partial(self._snooze, *lease, items), items) for lease, items in snoozed.items()),
            *((partial(self._lose, *lease, items), items) for lease, items in lost.items()),
            *((partial(self._release, *lease, items), items) for lease, items in back.items()),
        ]
        settlings = [found for make, items in makers if (found := self._made(make, items)) is not None]
        if failed or snoozed:
            failpoints.hit("before_fail")
        if lost or back:
            failpoints.hit("before_release")
        return result + await self._settle_together(settlings)

    async def _sent(self, calls: Sequence[ScriptCall]) -> Sequence[Any]:
        """As the runner's `run_many`, which raises nothing. Should it raise all the same, the outcomes are sent again:
        if the settler ended, the heartbeat would hold every lease of this node for ever."""
        try:
            return await self._store.runner.run_many(calls)
        except Exception as error:
            log.exception("outcomes could not be sent; they are sent again")
            return [StoreUnavailable(f"outcomes could not be sent: {error}")] * len(calls)

    def _made(self, make: Callable[[], _Settling], items: Sequence[_Item]) -> _Settling | None:
        try:
            return make()
        except Exception:
            log.exception("outcomes cannot be stored; their tasks run again when their lease expires")
            self._settled([d for d, _ in items])
            return None

    async def _settle_together(self, settlings: Sequence[_Settling]) -> list[tuple[_Item, bool]]:
        """All leases in one round trip. For each outcome: whether it must be sent again.

        Those that no repeat can mend are dropped: if such an error ended the settler, the heartbeat would hold every
        lease of this node for ever.
        """
        if not settlings:
            return []
        replies = iter(await self._sent([call for s in settlings for call in s.calls]))
        result: list[tuple[_Item, bool]] = []
        for s in settlings:
            mine = list(islice(replies, len(s.calls)))
            again = any(isinstance(reply, DelayBoxError) for reply in mine)
            result += [(item, again) for item in s.items]
            if again:
                continue
            try:
                for reply in mine:
                    if isinstance(reply, BaseException):
                        raise reply
                await s.ended(mine)
            except Exception:
                log.exception("outcomes were refused by the server; their tasks run again when their lease expires")
            self._settled([d for d, _ in s.items])
        return result

    async def _complete(self, done: Mapping[_Lease, list[tuple[Delivery, Done]]]) -> list[tuple[_Item, bool]]:
        """All leases in one round trip, because each claim has a lease of its own, often with few tasks."""
        groups: list[list[tuple[Delivery, Done]]] = []
        calls: list[ScriptCall] = []
        for (partition, lease_id), items in done.items():
            try:
                stored = [((d, o), self._kept(d, o)) for d, o in items]
            except Exception:
                log.exception("results cannot be stored; their tasks run again when their lease expires")
                self._settled([d for d, _ in items])
                continue
            cancelled = {d.task_id for d, o in items if o.result is not None and o.result.cancelled}
            for group in by_bytes(stored, lambda pair: len(pair[1][2])):
                groups.append([item for item, _ in group])
                kept = [kept for _, kept in group]
                calls.append(self._store.complete_call(partition, lease_id, kept, cancelled))
        if not calls:
            return []
        failpoints.hit("before_ack")
        replies = await self._sent(calls)
        failpoints.hit("after_ack_reply")
        result: list[tuple[_Item, bool]] = []
        for done_items, reply in zip(groups, replies, strict=True):
            again = isinstance(reply, DelayBoxError)
            result += [(item, again) for item in done_items]
            if again:
                continue
            if isinstance(reply, BaseException):
                log.error("results were refused by the server: %r; tasks run again when their lease expires", reply)
            else:
                if reply:
                    metrics.stale_ack(len(reply))
                if self._recorder.on:
                    self._note_results(done_items, reply)
            self._settled([d for d, _ in done_items])
        return result

    def _release(self, partition: int, lease_id: bytes, delay_ms: int, items: Sequence[_Item]) -> _Settling:
        async def ended(replies: Sequence[Any]) -> None:
            if stale := sum(map(len, replies)):
                metrics.stale_ack(stale)

        ids = [d.task_id for d, _ in items]
        return _Settling(items, release_calls(self._store, partition, lease_id, ids, delay_ms=delay_ms), ended)

    def _lose(self, partition: int, lease_id: bytes, failing: bool, items: Sequence[_Item]) -> _Settling:
        async def ended(replies: Sequence[Any]) -> None:
            stale, dead, dropped = losses(replies)
            if stale:
                metrics.stale_ack(len(stale))
            if dead:
                metrics.dead_lettered(dead)
                await self._note_lost([d for d, _ in items])
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
        return _Settling(items, calls, ended)

    def _fail(self, partition: int, lease_id: bytes, items: Sequence[tuple[Delivery, Failed]]) -> _Settling:
        verdicts = [self._verdict(d, outcome) for d, outcome in items]

        async def ended(replies: Sequence[Any]) -> None:
            stale, dropped = failures(replies)
            if stale:
                metrics.stale_ack(len(stale))
            refused = set(stale)
            for (d, _), verdict in zip(items, verdicts, strict=True):
                if verdict.task_id in refused:
                    continue
                if verdict.delay_ms is None:
                    metrics.dead_lettered()
                    self._recorder.ended((d,), TaskState.FAILED, verdict.reason)
                else:
                    metrics.retried(d.type.name)
                    self._retried(d, verdict.delay_ms, verdict.reason, failed=1)
            self._report_dropped(dropped)

        calls = fail_calls(self._store, partition, lease_id, verdicts, dead_cap=self._options.dead_cap)
        return _Settling(items, calls, ended)

    def _snooze(self, partition: int, lease_id: bytes, items: Sequence[tuple[Delivery, Snoozed]]) -> _Settling:
        wishes = [self._wish(d, outcome) for d, outcome in items]

        async def ended(replies: Sequence[Any]) -> None:
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
        return _Settling(items, calls, ended)

    def _retried(self, d: Delivery, delay_ms: int, reason: str, *, failed: int = 0) -> None:
        events = self._store.events
        if events.wanted:
            due_ms = self._store.now_ms(d.partition) + delay_ms
            events.deliveries(EventKind.RETRIED, (d,), reason=reason, failed=failed, due_ms=due_ms)

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

    async def _note_lost(self, deliveries: Sequence[Delivery]) -> None:
        """Some of these became dead letters: the script's reply states only how many."""
        if not self._recorder.on:
            return
        with contextlib.suppress(DelayBoxError):
            found = await states(self._store, [d.task_id for d in deliveries], leased=False)
            for d, standing in zip(deliveries, found, strict=True):
                if standing is not None and standing.state is TaskState.FAILED:
                    self._recorder.ended((d,), TaskState.FAILED, standing.reason)

    def _report_dropped(self, dropped: int) -> None:
        if dropped:
            log.warning("%d of the oldest dead letters were dropped: the cap is %d", dropped, self._options.dead_cap)

    def _verdict(self, d: Delivery, outcome: Failed) -> Verdict:
        policy = self._policy(d, outcome)
        attempt = d.attempt + 1
        delay = None
        if outcome.retryable and attempt < policy.max_attempts:
            # The random draw only spreads retries, so it need not be a secure one.
            delay = policy.delay_ms(attempt, random.random()) if outcome.delay_ms is None else outcome.delay_ms
        if outcome.result is None:
            return Verdict(d.task_id, delay, outcome.reason, traceback=outcome.traceback)
        result = wire_result.encode(outcome.result)
        return Verdict(d.task_id, delay, outcome.reason, result, self._keep_ms(d, outcome), outcome.traceback)

    def _policy(self, d: Delivery, outcome: Failed | Snoozed) -> RetryPolicy:
        policy = outcome.retry or self._rules.of(split(d.lane).queue).retry or self._options.retry
        # A body that cannot be read must not keep the task from becoming a dead letter.
        with contextlib.suppress(DecodeError):
            policy = wire_body.retry_of(wire_body.decode(d.body), policy)
        return policy

    def _wish(self, d: Delivery, outcome: Snoozed) -> Snooze:
        delay = outcome.delay_ms
        if delay is None:
            delay = self._policy(d, outcome).delay_ms(d.attempt + 1, random.random())
        longest = 0
        with contextlib.suppress(DecodeError):
            longest = wire_body.decode(d.body).max_snooze_ms
        longest = longest or DEFAULT_SNOOZE_MS
        reason = (
            f"it was put off for longer than its max_snooze of {longest / 1000:g} s; the last time: {outcome.reason}"
        )
        if outcome.result is None:
            return Snooze(d.task_id, delay, longest, reason)
        result = wire_result.encode(replace(outcome.result, reason=reason))
        return Snooze(d.task_id, delay, longest, reason, result, self._keep_ms(d, outcome))

    def _kept(self, d: Delivery, outcome: Done) -> tuple[bytes, int, bytes]:
        if outcome.stored or outcome.result is None:
            return d.task_id, max(outcome.keep_ms, _LEAST_KEPT_MS), outcome.stored
        return d.task_id, self._keep_ms(d, outcome), wire_result.encode(outcome.result)

    def _keep_ms(self, d: Delivery, outcome: Done | Failed | Snoozed) -> int:
        """How long the result is kept: the task's own wish, else its target's; at least a minute, so that a caller can
        see it."""
        try:
            wished = wire_body.decode(d.body).keep_result_ms
        except DecodeError:
            wished = 0
        return max(wished or outcome.keep_ms, _LEAST_KEPT_MS)


def _without(group: list[Delivery], stale: Sequence[bytes]) -> Sequence[Delivery]:
    if not stale:
        return group
    refused = set(stale)
    return [d for d in group if d.task_id not in refused]
