"""Hands leased tasks to their targets and keeps their leases alive while they run."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from delaybox import failpoints, metrics
from delaybox.core.delivery import (
    HAND_BACK,
    AcksFirst,
    Delivery,
    Done,
    Failed,
    HandBack,
    Limited,
    Outcome,
    Pausing,
    Report,
    SideBySide,
    Target,
)
from delaybox.core.errors import DelayBoxError
from delaybox.core.events import EventKind
from delaybox.core.queue import LiveRules
from delaybox.core.task import TaskState, TaskType
from delaybox.engine.bodies import BODIES_AT_ONCE, Bodies
from delaybox.engine.clock_estimate import Clocks
from delaybox.engine.costs import CARRIED_OUT_LETTERS, Costs
from delaybox.engine.expire_after import is_expired
from delaybox.engine.held_leases import HeldLeases
from delaybox.engine.kept_permits import KeptPermits
from delaybox.engine.levels import Levels
from delaybox.engine.options import EngineOptions
from delaybox.engine.permit_dealer import PermitDealer
from delaybox.engine.settler import Freed, Settler, as_needed
from delaybox.engine.stored import StoredEverywhere, StoreProgress
from delaybox.engine.tally import Tally
from delaybox.otel import tracing
from delaybox.processes.logs import of_delivery
from delaybox.service.recorder import Recorder
from delaybox.store import settling
from delaybox.store.record import UnreadableRecord, delivery_of
from delaybox.store.store import Claimed, Store

if TYPE_CHECKING:
    from delaybox.engine.traced import HandOut, PlacedSpans

log = logging.getLogger("delaybox.engine")


EXPIRED = "expired"
"""The reason of a dead letter that was later than its task's ``expire_after``."""

_First = Callable[[list[Delivery]], Awaitable[list[Delivery]]]
"""What is done with deliveries right before they are handed out; answers those that may be."""
_LATER = HandBack(delay_ms=1_000)
"""A task that a target could not even try waits a moment; otherwise it would be claimed again at once, for ever."""


class Dispatcher:
    """Runs deliveries.

    ``freed`` is called when slots come free; ``dealer`` brings permits of queues with limits.
    """

    def __init__(
        self,
        store: Store,
        targets: Mapping[TaskType, Target],
        options: EngineOptions,
        clocks: Clocks,
        freed: Callable[[], None],
        rules: LiveRules,
        recorder: Recorder,
        dealer: PermitDealer,
    ) -> None:
        self._store = store
        self._bodies = Bodies(store)
        self._recorder = recorder
        self._targets = {t.value: target for t, target in targets.items()}
        self._pausing = {letter: target for letter, target in self._targets.items() if isinstance(target, Pausing)}
        for target in targets.values():
            if isinstance(target, AcksFirst):
                target.ack_first = self._ack_one
        self._acked_late: dict[tuple[bytes, bytes], tuple[dict[bytes, Delivery], set[bytes]]] = {}
        """By lease and task, of deliveries that their target has acked itself: what `_deliver` knows of their claim."""
        self._limited = list({id(t): t for t in self._targets.values() if isinstance(t, Limited)}.values())
        self._serves = "".join(sorted(self._targets))
        self._options = options
        self._clocks = clocks
        self._freed = freed
        self._dealer = dealer
        self._kept = KeptPermits(store, rules, dealer.ended)
        self._new_settler = partial(Settler, store, options, self._on_settled, rules, recorder)
        self._settlers: dict[int, Settler] = {}
        self._everywhere = StoredEverywhere()
        self._started = False
        self.stored: StoreProgress = self._everywhere if store.servers.sharded else self._settler_at(0).stored
        """How far the outcomes that were reported are stored."""
        self.tally = Tally()
        """What was carried out lately."""
        self.levels = Levels(rules)
        """What was taken lately, by priority."""
        self.calls: Callable[[Sequence[int]], None] = lambda _: None
        """Is called with partitions in which work may be due while there is no room."""
        self._hand_out, self._placed = _traced()
        self._running: set[asyncio.Task[None]] = set()
        self._leases = HeldLeases(store, options.lease_ms)
        self._in_flight = 0
        self._costs = Costs(options)
        self._stopping = False

    @property
    def types(self) -> str:
        """Letters of the task types served by lease, without those whose target is in trouble now."""
        if not self._pausing:
            return self._serves
        return "".join(c for c in self._serves if c not in self._pausing or not self._pausing[c].trouble)

    @property
    def serves(self) -> str:
        """Letters of the task types served by lease, in trouble or not."""
        return self._serves

    def lanes_at(self, partition: int, *, all_: bool) -> tuple[bytes, ...]:
        """The lanes of limited types, in every partition the same."""
        return self._costs.lanes

    @property
    def free(self) -> int:
        """Slots free."""
        if self._stopping:
            return 0
        own = max(0, self._options.concurrency - self._in_flight - self._costs.beyond)
        return min([own, *(target.room for target in self._limited)]) if self._limited else own

    @property
    def in_flight(self) -> int:
        """Deliveries handed out and not settled."""
        return self._in_flight

    def holds(self, partition: int) -> bool:
        """Whether tasks of this partition are under way."""
        return self._leases.any_of(partition)

    def full(self, partitions: Sequence[int]) -> None:
        """A time keeper leaves work ready for others by itself; whoever keeps no time calls them."""
        self.calls(partitions)

    def lends(self, partition: int) -> bool:
        """A time keeper keeps its partitions; others are told by heartbeats which webhooks are theirs."""
        return False

    def waits(self, partition: int, queues: Mapping[bytes, int]) -> None:
        """A claim found queues without permits."""
        self._dealer.waits(partition, queues)

    def met(self, lanes: Sequence[bytes]) -> bool:
        """A claim met lanes whose tasks take several places."""
        return self._costs.met(lanes)

    def names(self) -> str:
        """How claims are to name what they fire in place (`ClaimLimits`)."""
        if self._store.events.wanted or self._placed is not None:
            return "r"
        return "h" if self._recorder.room else ""

    def fired_in_place(self, partition: int, claimed: Claimed) -> None:
        """Counts tasks that the claim script published itself, and notes how they ended."""
        self.tally.fired(claimed.fired)
        metrics.observe_lateness(claimed.lateness_ms)
        metrics.fired("PUB_SUB", "in_place", len(claimed.lateness_ms))
        # A server of a cluster counts its own subscribers alone.
        if claimed.without_listeners and not self._store.servers.sharded:
            metrics.published_without_listeners(claimed.without_listeners)
        if claimed.trimmed:
            metrics.stream_trimmed(claimed.trimmed)
        if self._recorder.on:
            self._recorder.in_place(partition, claimed)
        if self._placed is not None:
            self._placed.add(partition, claimed)

    def start(self) -> None:
        """Begins; returns at once."""
        self._started = True
        for settler in self._settlers.values():
            settler.start()

    async def stop(self, grace_s: float) -> None:
        """Waits for what runs, then cuts it off and hands it back without charging an attempt."""
        self._stopping = True
        if self._running:
            await asyncio.wait(self._running, timeout=grace_s)
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running, timeout=5.0)
        await asyncio.gather(*(settler.stop(5.0) for settler in self._settlers.values()))
        if self._placed is not None:
            await self._placed.stop()

    def accept(
        self,
        partition: int,
        lease_id: bytes,
        leased: Sequence[bytes],
        target: Target | None = None,
        over: Callable[[], None] | None = None,
        *,
        adopted: bool = False,
    ) -> list[float]:
        """Takes what one claim leased (flat: id, record, ...) and starts delivering it; how late each is (ms).

        ``target``: the target for which it was claimed, all of one type; None: the one that serves the task's type.
        ``over``: called when every task was delivered, or will not be. ``adopted``: they run already, so how late they
        began was counted elsewhere, and they cannot be too late any more.
        """
        by: dict[int, list[Delivery]] = {}
        now = self._clocks.of(partition).now_ms()
        now_ms = int(now)
        late: list[float] = []
        levels = [0, 0, 0, 0]
        for task_id, raw in zip(leased[::2], leased[1::2], strict=True):
            try:
                d = delivery_of(task_id, raw, partition, lease_id, now_ms)
                batch = by.get(d.lane[0])
            except (UnreadableRecord, LookupError, ValueError) as error:
                # The claim script could read this header, so this is a mistake in our code. The lease will expire, and
                # this be logged again.
                log.error("task %s was leased but cannot be read: %s", task_id.hex(), error)
                continue
            if batch is None:
                batch = by[d.lane[0]] = []
            if adopted:
                d.look = False
            late.append(now - d.due_ms)
            levels[d.priority] += 1
            batch.append(d)
        late = [one if one > 0 else 0.0 for one in late]
        if not late:
            if over is not None:
                over()
            return late
        if not adopted:
            metrics.observe_lateness(late)
            self.levels.took(levels)
        # Nothing below can fail: every task that is counted here is delivered, and its lease is extended until then.
        self._leases.add(partition, lease_id, len(late))
        self._in_flight += len(late)
        for number, batch in by.items():
            letter = chr(number)
            if letter in CARRIED_OUT_LETTERS:
                self._costs.begin(batch)
            task = asyncio.create_task(self._deliver(letter, batch, target))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
            if over is not None:
                task.add_done_callback(lambda _: over())
        return late

    def _settle(self, deliveries: Sequence[Delivery], outcome: Outcome) -> None:
        """Each server has a settler of its own, so that none waits for another server."""
        if not self._store.servers.sharded:
            self._settler_at(0).report(deliveries, outcome)
            return
        by: dict[int, list[Delivery]] = {}
        for d in deliveries:
            by.setdefault(self._store.shards.of[d.partition], []).append(d)
        for shard, some in by.items():
            self._settler_at(shard).report(some, outcome)

    def _settler_at(self, shard: int) -> Settler:
        settler = self._settlers.get(shard)
        if settler is None:
            settler = self._settlers[shard] = self._new_settler()
            self._everywhere.add(settler.stored)
            if self._started:
                settler.start()
        return settler

    async def heartbeat(self, shard: int | None = None) -> float:
        """Extends every lease that still has work; returns the seconds until the next one is due. ``shard``: only those
        at the server of this number."""
        # What keeps permits from being kept, such as a partition on its way to another server, must not cost leases.
        permits = self._kept.extend(self._options.lease_ms, shard)
        for end in await asyncio.gather(permits, self._leases.extend(shard), return_exceptions=True):
            if end is not None:
                raise end
        return self._options.heartbeat_ms / 1000

    async def _deliver(self, letter: str, batch: list[Delivery], target: Target | None) -> None:
        left = {d.task_id: d for d in batch}
        acked: set[bytes] = set()
        count = len(batch)
        began = time.monotonic()

        def report(deliveries: Sequence[Delivery], outcome: Outcome) -> None:
            fresh = [d for d in deliveries if left.pop(d.task_id, None) is not None]
            if fresh:
                if acked:
                    # One claim may hold both kinds, and a target may report them together.
                    self._over([d for d in fresh if d.task_id in acked], outcome)
                    self._settle([d for d in fresh if d.task_id not in acked], outcome)
                else:
                    self._settle(fresh, outcome)
                if isinstance(outcome, Done):
                    self.tally.done(fresh, began)

        if target is None:
            target = self._targets.get(letter)
        if target is None:
            # PUB_SUB whose body lies apart is leased even where it is otherwise fired in place.
            log.error("no target serves tasks of lane %r here; %d handed back", batch[0].lane.decode(), count)
            report(batch, _LATER)
            return
        task_type = batch[0].type
        first: _First = partial(self._acked_first, left, acked)
        late = [(d.lease_id, d.task_id) for d in batch if d.once]
        if late and isinstance(target, AcksFirst):
            first = _later
            self._acked_late.update(dict.fromkeys(late, (left, acked)))
        else:
            late = []
        try:
            failpoints.hit("before_deliver")
            apart = [d for d in batch if d.stub]
            plain = self._in_time([d for d in batch if not d.stub] if apart else batch, report)
            plain = await first(plain)
            if not apart:
                if plain:
                    self._report_fired(plain)
                    await self._hand_out(target, plain, report)
            else:
                # Side by side: tasks whose body must be fetched and tasks with their body at hand must not wait for
                # each other.
                self._report_fired(plain)
                stubs = self._deliver_stubs(target, apart, report, first)
                ends = await asyncio.gather(self._hand_out(target, plain, report), stubs, return_exceptions=True)
                for end in ends:
                    if end is not None:
                        raise end
            failpoints.hit("after_deliver")
        except asyncio.CancelledError:
            report(list(left.values()), HAND_BACK)
            raise
        except DelayBoxError as error:
            log.warning("%s tasks handed back: %s", task_type.name, error)
            report(list(left.values()), _LATER)
        except Exception as error:  # an unexpected error in a target fails its tasks, and not the node
            log.exception("the target of %s tasks failed", task_type.name)
            report(list(left.values()), Failed(f"{type(error).__name__}: {error}"[:500]))
        else:
            report(list(left.values()), _LATER)
        finally:
            for key in late:
                del self._acked_late[key]

    async def _deliver_stubs(self, target: Target, stubs: list[Delivery], report: Report, first: _First) -> None:
        groups = [stubs[at : at + BODIES_AT_ONCE] for at in range(0, len(stubs), BODIES_AT_ONCE)]
        if isinstance(target, SideBySide) and target.side_by_side:
            ends = await asyncio.gather(
                *(self._deliver_group(target, group, report, first) for group in groups), return_exceptions=True
            )
            for end in ends:
                if end is not None:
                    raise end
            return
        for group in groups:
            await self._deliver_group(target, group, report, first)

    async def _deliver_group(self, target: Target, stubs: list[Delivery], report: Report, first: _First) -> None:
        ready = await first(self._in_time(await self._bodies.fetched(stubs, report), report))
        if ready:
            self._report_fired(ready)
            await self._hand_out(target, ready, report)

    def _report_fired(self, deliveries: Sequence[Delivery]) -> None:
        if self._store.events.wanted:
            self._store.events.deliveries(EventKind.FIRED, deliveries)

    def _in_time(self, batch: list[Delivery], report: Report) -> list[Delivery]:
        """The deliveries that are not later than their task allows; the others become dead letters and are not
        delivered."""
        if not batch:
            return batch
        now = self._clocks.of(batch[0].partition).now_ms()
        expired = [d for d in batch if d.look and is_expired(d, now)]
        if not expired:
            return batch
        report(expired, Failed(EXPIRED, retryable=False))
        metrics.expired(expired[0].type.name, len(expired))
        gone = {d.task_id for d in expired}
        return [d for d in batch if d.task_id not in gone]

    async def _acked_first(
        self, left: dict[bytes, Delivery], acked: set[bytes], batch: list[Delivery]
    ) -> list[Delivery]:
        """Acks those that may be handed out once at most, adds them to ``acked``, and leaves out those that were not.

        Where the answer is lost nobody knows whether they were acked, so they are not handed out: if they were not,
        their lease expires, and they are claimed again.
        """
        once = [d for d in batch if d.once]
        if not once:
            return batch
        try:
            ids = [d.task_id for d in once]
            (call,) = as_needed((self._store.ack_call(once[0].partition, once[0].lease_id, ids),), once)
            refused = set(settling.acked(await self._store.runner.run(call))[0])
        except DelayBoxError as error:
            log.warning("%d tasks are not handed out: it is unknown whether they were acked: %s", len(once), error)
            refused = {d.task_id for d in once}
        self._leases.drop(once)
        gone = [d for d in once if d.task_id in refused]
        for d in gone:
            left.pop(d.task_id, None)
        self._free(gone)
        acked |= {d.task_id for d in once} - refused
        self._kept.add(d for d in once if d.task_id not in refused)
        return [d for d in batch if d.task_id not in refused]

    async def _ack_one(self, d: Delivery) -> bool:
        """`AcksFirst.ack_first`."""
        left, acked = self._acked_late[d.lease_id, d.task_id]
        return bool(await self._acked_first(left, acked, [d]))

    def _over(self, deliveries: Sequence[Delivery], outcome: Outcome) -> None:
        """What was acked before it was handed out has ended, so nothing is stored of its end."""
        for d in deliveries if not isinstance(outcome, Done) else ():
            why = outcome.reason if isinstance(outcome, Failed) else "it was not carried out to its end"
            words = "task %s is not tried again, because its delivery is at_most_once: %s"
            log.warning(words, d.id, why, extra=of_delivery(d))
            self._recorder.ended((d,), TaskState.FAILED, why)
            if isinstance(outcome, Failed):
                self._recorder.failed(d, outcome)
        if isinstance(outcome, Done):
            self._recorder.ended(deliveries, TaskState.SUCCEEDED)
        self._kept.over(deliveries)
        self._free(deliveries)

    def _on_settled(self, deliveries: Sequence[Delivery], freed: Freed) -> None:
        self._leases.drop(deliveries)
        if deliveries and freed is None:
            self._dealer.ended(deliveries[0].partition, deliveries)
        elif freed:
            self._dealer.came_back(deliveries[0].partition, freed)
        elif deliveries:
            self._dealer.came_back_of(deliveries[0].partition, deliveries)
        self._free(deliveries)

    def _free(self, deliveries: Sequence[Delivery]) -> None:
        was_full = self._in_flight + self._costs.beyond >= self._options.concurrency
        self._in_flight -= len(deliveries)
        if self._costs.beyond:
            self._costs.end(deliveries)
        if was_full and deliveries:
            self._freed()


def _traced() -> tuple[HandOut, PlacedSpans | None]:
    """How deliveries go to their targets: within spans where this process traces. And what makes spans of tasks that
    claims publish themselves."""
    if tracing.spans is None:
        return _to_target, None
    from delaybox.engine import traced

    return traced.traced(tracing.spans), traced.PlacedSpans(tracing.spans)


async def _later(batch: list[Delivery]) -> list[Delivery]:
    """Their target has them acked itself."""
    return batch


def _to_target(target: Target, batch: Sequence[Delivery], report: Report) -> Awaitable[None]:
    return target.deliver(batch, report)
