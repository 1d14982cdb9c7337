"""Sleeps until something is due, then claims it: all partitions that are due in one round trip.

While there is more work than one round trip should bring, rounds are smaller and two of them overlap, so that the
server carries out one while this process hands over what the other brought. What comes due elsewhere while a claim is
under way does not wait for its answer, either.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial

from delaybox import failpoints
from delaybox.core.errors import DelayBoxError, PartAway
from delaybox.core.queue import LiveRules
from delaybox.core.shares import Part
from delaybox.engine.asks import (
    FAR_MS,
    ITEMS,
    ROUND,
    UNTIL_CALLED,
    Ask,
    Limits,
    asks_of,
    calls_of,
    due_and_next,
    promised,
    ramped,
    without_messages,
)
from delaybox.engine.catchup import CatchUp
from delaybox.engine.clock_estimate import RedisClock, local_ms
from delaybox.engine.held_leases import lost_meanwhile
from delaybox.engine.kernel_timer import Timer
from delaybox.engine.options import EngineOptions
from delaybox.engine.rounds import InTurn, Rounds
from delaybox.engine.shares import Chooser
from delaybox.engine.spared_claims import Clear, SparedClaims
from delaybox.engine.stays import Stays
from delaybox.engine.taker import Asked, Taker
from delaybox.store.leases import new_lease
from delaybox.store.loader import ScriptCall
from delaybox.store.store import Claimed, Store, read_claim

_AHEAD_MS = 0.02
"""The tracker wakes this much late, because waking early costs a round trip that finds nothing."""
_NO_PROGRESS_MS = 20.0
_SATURATED_MS = 5.0
_MOVING_MS = 50.0
"""When a partition is looked at again that moves to another server."""
_FEW_SLOTS = 64
_FEW_SLOTS_PAUSE_MS = 2.0
"""With hardly a slot free, a claim waits this long for more slots; otherwise each claim would take one task."""


class Tracker:
    """One step = wait until a partition is due, claim from every due one, hand over what came.

    ``look``: when to look next at each partition, by Redis's clock: at its next due time, earlier after a message on
    the wake channel, and at the latest one poll after the last look. ``asked``, ``catch_up``: shared with other
    trackers of the same taker; ``beside``: with those of other guests.
    """

    def __init__(
        self,
        store: Store,
        taker: Taker,
        options: EngineOptions,
        clock: RedisClock,
        asked: Asked | None = None,
        catch_up: CatchUp | None = None,
        rules: LiveRules | None = None,
        beside: SparedClaims | None = None,
    ) -> None:
        self._store = store
        self._taker = taker
        self._options = options
        self._clock = clock
        self._mine = frozenset(range(store.partitions))
        self._look = [0.0] * store.partitions
        self._beside = beside or SparedClaims()
        self._beside.join(self)
        self._learned = [0] * store.partitions  # when it was learned last what is due there, by `beside`
        self._hungry: set[int] = set()
        self._withheld: frozenset[int] = frozenset()
        self._called: set[int] = set()
        self._stays = Stays()
        self._called_only = self._when_ready = self._retired = False
        self._unanswered: dict[tuple[int, int], bytes] = {}
        self._catch_up = catch_up or CatchUp(options.catch_up_rate, store.partitions)
        self._deep, self._under_way = set[int](), set[int]()
        self._asked = asked or Asked()
        self._rounds = Rounds(self._asked, self._rouse)
        self._waits = False  # for the answer of a claim, beside which another may begin
        self._timer, self._asleep_until, self._had_slots = Timer(), 0.0, 0.0
        self._in_turn = InTurn(self._asked, self._under_way)
        self._limits = Limits(options, taker)
        self._chooser = Chooser(store, LiveRules() if rules is None else rules, guest=not options.clock)

    def keep(self, partitions: frozenset[int]) -> None:
        """Claims from these partitions only, from now on; those that are new among them are looked at at once."""
        for p in self._mine - partitions:
            self._look[p] = math.inf
            self._hungry.discard(p)
            self._called.discard(p)
        fresh = partitions - self._mine
        self._mine = partitions
        for p in fresh:
            self._look[p], self._learned[p] = 0.0, self._beside.number()
            self._catch_up.suspect(p)
        if fresh:
            self._timer.wake()

    def withhold(self, partitions: frozenset[int]) -> None:
        """Leases no PUB_SUB tasks in these partitions, and in all others again (`handover`)."""
        freed, self._withheld = (self._withheld - partitions) & self._mine, partitions
        for p in freed:
            self.kick(p)

    def claims(self, partition: int) -> bool:
        """Whether a claim from there is under way."""
        return partition in self._under_way

    def wait_to_be_called(self, *, when_ready: bool = False) -> None:
        """From now on no partition is looked at only because time has passed: messages name those with work.

        ``when_ready``: not for what is due later, either: time keepers make that ready, and call.
        """
        self._called_only, self._when_ready = True, when_ready

    def call(self, partition: int, *, stay_ms: float = 0.0) -> None:
        """Ready work waits there, whoever claims there as a rule. It is claimed as soon as there is room, and for
        ``stay_ms`` also what others do not claim of what is known to come due there, again and again while there is
        such work."""
        if self._taker.free - (self._asked.count if self._asked.fewer else 0) <= 0:
            self._hungry.add(partition)
            return
        self._stays.begin(partition, self._clock.now_ms(), stay_ms)
        self._called.add(partition)
        self._look[partition], self._learned[partition] = 0.0, self._beside.number()
        self._rouse()

    def kick(self, partition: int | None = None, due_ms: float = 0.0) -> None:
        """Something in ``partition`` (None: in any) is due at ``due_ms`` or may be due now (0)."""
        learned = self._beside.number()
        mine = partition in self._mine
        if partition is not None and (not mine or self._stays.lends):
            now = self._clock.now_ms()
            if not mine and self._stays.on(partition, now):
                self._called.add(partition)
            due_ms = self._stays.heard(partition, now, due_ms, mine=mine)
        for p in self._mine if partition is None else {partition} & self._mine or {partition} & self._called:
            self._learned[p] = learned
            self._look[p] = min(self._look[p], due_ms)
        if partition is None:
            # None means that the server was away.
            self._catch_up.suspect()
        if self._waits or due_ms < self._asleep_until:
            self._rouse()

    def slots_freed(self) -> None:
        """The dispatcher has room again, so partitions in which work was left are looked at now."""
        # Whatever made this taker hungry there: it takes all that it serves.
        self._called |= self._hungry
        for p in self._hungry:
            self._look_at(p, 0.0)
        if self._hungry:
            self._hungry.clear()
            self._timer.wake()

    def retire(self) -> None:
        """Claims nothing more; tasks of a claim under way are still handed over."""
        self._retired = True
        self._timer.wake()

    async def finish(self, patience_s: float) -> None:
        """See `Rounds`."""
        await self._rounds.finish(patience_s)

    async def step(self) -> float:
        """Waits and claims once; for `Loop`."""
        now = self._clock.now_ms()
        on = self._closed()
        idle = (at for p, at in enumerate(self._look) if p not in on) if on else self._look
        # None is looked at later than this, unless the clock was set back.
        most = math.inf if self._called_only else 2.0 * max(self._options.poll_ms, _MOVING_MS)
        nearest = min(now + most, min(idle, default=math.inf))
        if nearest > now:
            self._asleep_until = nearest
            # While all partitions are under way, the end of a round wakes this loop.
            known = nearest < UNTIL_CALLED
            local = self._clock.local_at(nearest) if known else local_ms() + self._options.poll_ms
            await self._timer.wait(local + _AHEAD_MS + self._beside.behind_ms(self._taker))
            self._asleep_until = 0.0
            now = self._clock.now_ms()
        if self._retired:
            return 0.0
        self._rounds.check()
        on = self._closed()
        far = now + most
        due = [p for p, at in enumerate(self._look) if (at <= now or far < at < math.inf) and p not in on]
        deep = not self._deep.isdisjoint(due)
        slots = self._asked.room(self._taker.free)
        if self._rounds:
            due = due if deep else self._lone()
            if self._rounds.enough or not due or slots <= 0:
                # The end of a round wakes this loop.
                await self._timer.wait(local_ms() + self._options.poll_ms)
                return 0.0
        if slots:
            self._had_slots = now
        elif self._taker.types:
            self._lacks_room(due, now)
            if now - self._had_slots < _SATURATED_MS:
                # Slots come free in a moment; a claim without slots would only move tasks to the ready sets.
                await self._timer.wait(local_ms() + _SATURATED_MS)
                return 0.0
            if not self._options.channel:
                for p in due:
                    self._look[p] = now + self._options.poll_ms
                return 0.0
        if due:
            parts, all_ = await self._parts(due, slots), len(due)
            if parts is None:
                due = self._in_turn.of(due, slots, deep)
            elif self._options.clock:
                # Whoever keeps time also looks where it wants nothing, as it has promised.
                due = list(dict.fromkeys([*parts, *self._in_turn.of(due, len(due) * ITEMS, deep)]))
            else:
                due = list(parts)
            if deep and not self._catch_up.limited:
                self._rounds.begin(partial(self._claim, due, slots, parts))
                # This round must first mark the partitions that it claims from, before the next one begins.
                await asyncio.sleep(0)
            else:
                if parts is None and len(due) == all_:
                    self._waits = True
                    # Called when the claim has been sent.
                    asyncio.get_running_loop().call_soon(self._claim_beside)
                try:
                    await self._claim(due, slots, parts)
                finally:
                    self._waits = False
        return 0.0

    def _lacks_room(self, due: Sequence[int], now: float) -> None:
        """Others are called to what there are no slots for. One partition is lent to them, so that less comes."""
        self._hungry.update(due)
        self._chooser.press(due)
        lent = self._stays.to_lend(self._mine.intersection(due), now)
        if lent is not None and self._taker.lends(lent):
            self._stays.lend(lent, now)
            due = [p for p in due if p != lent]
        self._taker.full(due)

    def _claim_beside(self) -> None:
        """Claims what has come due in other partitions since the claim was sent for which `step` waits."""
        if not self._waits or self._rounds or self._retired:
            return
        some, nearest = due_and_next(self._look, self._clock.now_ms())
        if some and self._lone():
            self._rounds.begin(self._claim_lone)
        elif nearest < UNTIL_CALLED:
            until = self._clock.local_at(nearest) + _AHEAD_MS + self._beside.behind_ms(self._taker)
            self._timer.call(until, self._claim_beside)

    async def _claim_lone(self) -> None:
        slots, due = self._asked.room(self._taker.free), self._lone()
        await self._claim(self._in_turn.of(due, slots, not self._deep.isdisjoint(due)), slots)

    def _lone(self) -> list[int]:
        """Partitions that are due and from which may be claimed beside a claim under way, with nothing to choose."""
        if self._catch_up.limited or (self._taker.types and self._asked.room(self._taker.free) < _FEW_SLOTS):
            return []
        now, off = self._clock.now_ms(), self._closed()
        return [p for p, at in enumerate(self._look) if at <= now and p not in off and not self._chooser.presses(p)]

    def _rouse(self) -> None:
        """Something may be due now."""
        if self._waits:
            self._claim_beside()
        else:
            self._timer.wake()

    def _closed(self) -> Collection[int]:
        """Partitions with a claim under way, its own or one that may spare it its own. The end of either wakes it."""
        off = self._beside.held_off(self._taker, self._learned)
        return self._under_way.union(off.difference(self._called, self._deep)) if off else self._under_way

    def spared(self, partition: int, claim: int, clear: Clear | None) -> None:
        """Another guest's claim from there has ended (`spared_claims.GuestTracker`)."""
        at, now = self._look[partition], self._clock.now_ms()
        if at == math.inf or (self._unanswered and any(p == partition for p, _ in self._unanswered)):
            # Its own claim is under way, or others look there; or it must ask again what a claim of its own has leased.
            clear = None
        if clear is not None and claim > self._learned[partition] and partition not in self._called:
            # What it knew was due by then is taken, or due later. What is due since the favourite claims in a moment.
            at = promised(*clear, self._poll_ms, when_ready=self._when_ready)
            at = self._stays.heard(partition, clear.now_ms, at, mine=True)
            self._look[partition] = at = max(at, now + self._beside.behind_ms(self._taker))
            self._learned[partition] = claim
            self._hungry.discard(partition)
        if self._waits or at < max(self._asleep_until, now):
            self._rouse()

    @property
    def _poll_ms(self) -> int:
        """Within which time a claim promises the next one."""
        return FAR_MS if self._called_only else self._options.poll_ms

    def _lanes_at(self, p: int) -> tuple[bytes, ...]:
        return self._taker.lanes_at(p, all_=p in self._called)

    async def _parts(self, due: Sequence[int], slots: int) -> dict[int, Part] | None:
        """What to claim where, if there are fewer slots than work."""
        if not slots or self._catch_up.limited or not self._chooser.chooses(due):
            return None

        with self._asked.holding(slots):
            parts = await self._chooser.parts(
                due, lambda: min(self._asked.room_beside(self._taker.free, slots), ROUND), ITEMS,
                self._taker.types, self._lanes_at, under_way=bool(self._rounds),
            )  # fmt: skip
        if self._chooser.met:
            lanes, self._chooser.met = self._chooser.met, []
            self._taker.met(lanes)
        return parts

    async def _claim(self, due: Sequence[int], slots: int, parts: Mapping[int, Part] | None = None) -> None:
        # Another member may have got a partition since it was found due: what was claimed there now would overtake what
        # that member sends.
        due = [p for p in due if self._claims_from(p)]
        if not due:
            return
        # Nothing is decided for a backlog that is taken at a rate, so no claim waits for a decision.
        plan = b"" if self._catch_up.limited else self._chooser.default
        limits = self._limits.of(len(due), slots, self._poll_ms, plan)
        if parts is not None:
            asks = [Ask(p, own) for p, own in self._chooser.planned(due, limits, parts, self._lanes_at)]
        else:
            due = due[: slots or None]
            limited = self._catch_up.limited
            asks = ramped(self._catch_up, due, limits) if limited else asks_of(due, limits, self._lanes_at)
        if not self._withheld.isdisjoint(due):
            asks = [without_messages(ask) if ask.partition in self._withheld else ask for ask in asks]
        # A claim whose reply never came is sent again with the same lease id, and gets the same content.
        again = [self._unanswered.pop((a.partition, a.limits.fresh_ms), b"") for a in asks]
        fresh = [new_lease(a.limits.lease_ms, of_worker=self._options.runs_tasks) for a in asks]
        leases = [old or new for old, new in zip(again, fresh, strict=True)]
        calls = calls_of(self._store, asks, leases, self._deep)
        asked = sum(min(a.limits.slots, a.limits.items) for a in asks)
        self._asked.count += asked
        self._under_way.update(due)
        for p in due:
            # From here on only a new wake-up may set an earlier look than the one that the claim will return.
            self._look[p] = math.inf
        failpoints.hit("before_claim")
        sent = local_ms()
        # Where much waits it certainly leaves something to others.
        claim, clear = self._beside.begin([p for p in due if p not in self._deep]), dict[int, Clear]()
        try:
            await self._send(asks, leases, calls, sent, frozenset(again), clear)
        finally:
            self._asked.answered(asked)
            self._under_way.difference_update(due)
            for p in due:
                if self._look[p] == math.inf:
                    # An error came before this partition's claim was handled, and nothing else would look there again.
                    self._look_at(p, self._clock.now_ms() + self._options.poll_ms)
            self._beside.end(self, due, claim, clear)

    async def _send(
        self,
        asks: Sequence[Ask],
        leases: Sequence[bytes],
        calls: Sequence[ScriptCall],
        sent: float,
        again: frozenset[bytes],
        clear: dict[int, Clear],
    ) -> None:
        """Claims, and hands over what came. ``again``: leases of claims that were sent before, nobody knows when.
        ``clear`` gets the partitions in which nothing is due any more."""
        try:
            replies = await self._store.runner.run_many(calls)
        except BaseException:
            # Their outcome is not known: the same leases are claimed again.
            self._unanswered |= {
                (ask.partition, ask.limits.fresh_ms): lease for ask, lease in zip(asks, leases, strict=True)
            }
            raise
        received = local_ms()
        failpoints.hit("after_claim_reply")
        problem: BaseException | None = None
        some = len(asks) > 1 and not all(isinstance(reply, PartAway) for reply in replies)
        for ask, lease_id, reply in zip(asks, leases, replies, strict=True):
            if some and isinstance(reply, PartAway):
                # A slot on its way to another server; the other partitions go on.
                self._look_at(ask.partition, self._clock.now_ms() + _MOVING_MS)
                continue
            if isinstance(reply, BaseException):
                self._unanswered[ask.partition, ask.limits.fresh_ms] = lease_id
                self._look_at(ask.partition, 0.0)
                self._catch_up.suspect(ask.partition)
                problem = reply
                continue
            try:
                claimed = read_claim(reply)
                self._clock.observe(sent, received, claimed.now_ms)
                # Heartbeats are half a lease apart at most, so with less left the next one could come too late.
                old = lease_id in again or local_ms() - sent >= ask.limits.lease_ms / 2
                if claimed.leased and old and await self._has_lost(ask, lease_id):
                    claimed = replace(claimed, leased=[])
                self._take(ask, lease_id, claimed)
                if claimed.clear:
                    clear[ask.partition] = Clear(claimed.now_ms, claimed.next_due_ms)
            except Exception as error:  # noqa: BLE001 - raised below, when the other partitions have theirs
                # Sent again it would fail again: the tasks that it leased come back when the lease ends.
                self._look_at(ask.partition, self._clock.now_ms() + self._options.poll_ms)
                problem = error
        if problem is not None:
            raise problem

    async def _has_lost(self, ask: Ask, lease_id: bytes) -> bool:
        """Whether a claim whose reply came that late has lost its lease."""
        try:
            return await lost_meanwhile(self._store, ask.partition, lease_id, ask.limits.lease_ms)
        except DelayBoxError:
            # Sent again it brings the same tasks.
            self._unanswered[ask.partition, ask.limits.fresh_ms] = lease_id
            raise

    def _take(self, ask: Ask, lease_id: bytes, c: Claimed) -> None:
        p, limits = ask.partition, ask.limits
        late: list[float] = []
        if c.leased:
            late = self._taker.accept(p, lease_id, c.leased)
            self._chooser.took(c.leased)
            self._beside.favourite = self._taker
        self._chooser.gave(p, len(c.leased) // 2 + len(c.lateness_ms))
        if c.lateness_ms:
            self._taker.fired_in_place(p, c)
        if c.waits:
            self._taker.waits(p, c.waits)
        named = bool(c.met) and self._taker.met(c.met)
        progress = bool(c.leased or c.lateness_ms or c.dropped or c.promoted or c.quarantined)
        # What this very claim has promised counts: it may have been sent before `wait_to_be_called`.
        look = promised(c.now_ms, c.next_due_ms, limits.poll_ms, when_ready=self._when_ready)
        if c.more:
            look = 0.0
            self._deep.add(p)
        else:
            self._deep.discard(p)
        if look <= c.now_ms and not progress:
            look = c.now_ms + _NO_PROGRESS_MS
        look = 0.0 if named else look
        if c.pressed:
            self._chooser.press([p])
            look = 0.0
        elif limits.slots and len(c.leased) // 2 < limits.slots and not c.more:
            self._chooser.relieve(p)
        filled = len(c.leased) // 2 >= limits.slots < limits.items  # it would have taken more with more slots
        if filled and look <= c.now_ms and not c.pressed and self._claims_from(p):
            self._hungry.add(p)
            self._chooser.filled(p)
            if self._taker.free < _FEW_SLOTS and self._taker.in_flight:
                look = c.now_ms + _FEW_SLOTS_PAUSE_MS
        if p not in self._hungry and look > c.now_ms and self._claims_from(p):
            late_ms = max(late, default=0.0) if self._stays.lends else 0.0
            look = self._stays.look(p, c, look, mine=p in self._mine, late_ms=late_ms)
        if (
            not c.more
            and p not in self._hungry
            and self._look[p] == math.inf
            and (p in self._mine or look >= UNTIL_CALLED)
        ):
            # It has all that it was called for.
            self._called.discard(p)
        if self._catch_up.limited:
            clear = not c.more and not 0 <= c.next_due_ms <= c.now_ms
            tick = self._catch_up.brought(p, [*late, *c.lateness_ms], c.now_ms, share=ask.share, clear=clear)
            # Only fresh work is a reason to look again at once. The rest of the backlog must wait for tokens.
            look = tick if ask.share and tick < math.inf else min(look, tick)
        self._look_at(p, min(self._look[p], look))

    def _look_at(self, p: int, at: float) -> None:
        """One that another member looks after meanwhile is not looked at again."""
        self._look[p] = at if self._claims_from(p) else math.inf
        self._learned[p] = self._beside.number()

    def _claims_from(self, p: int) -> bool:
        return p in self._mine or p in self._called

    def close(self) -> None:
        """Releases what waiting needs."""
        self._beside.leave(self)
        self._chooser.close()
        self._timer.close()
