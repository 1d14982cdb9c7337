"""Puts the services of a node's engine together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from delaybox import metrics
from delaybox.core import ids
from delaybox.core.delivery import Pausing, Target
from delaybox.core.errors import DelayBoxError
from delaybox.core.membership import Activity, Member, keeps_time, places, together
from delaybox.core.placement import Server
from delaybox.core.queue import LiveRules
from delaybox.core.task import TaskType
from delaybox.engine.calls import ASK_AGAIN_MS, WorkerCalls
from delaybox.engine.clock_estimate import Clocks, local_ms
from delaybox.engine.dispatcher import Dispatcher
from delaybox.engine.due_share import DueShare
from delaybox.engine.guest import Guest
from delaybox.engine.handover import HandOver
from delaybox.engine.listener import Wakeups
from delaybox.engine.loops import Loop
from delaybox.engine.membership import Identity, Membership
from delaybox.engine.options import EngineOptions
from delaybox.engine.ownership import Ownership, PartOwnership, shared
from delaybox.engine.permit_dealer import PermitDealer
from delaybox.engine.placement import Placement
from delaybox.engine.rules import RuleReader
from delaybox.engine.spared_claims import SparedClaims
from delaybox.engine.station import Station
from delaybox.engine.stored import StoreProgress
from delaybox.engine.successors import Successors
from delaybox.engine.trackers import Trackers
from delaybox.service.recorder import Recorder
from delaybox.store.leases import Adopted, adopt, new_lease
from delaybox.store.leftovers import CARRIED_OUT, call_again
from delaybox.store.store import Store
from delaybox.store.survey import survey_call, waiting

log = logging.getLogger("delaybox.engine")

DEAF = "new tasks that are due at once can be up to a second late: no subscription to wake-ups"
"""The problem that readiness shows while wake-ups are not received; tasks are then found by polling."""
_CLAIM_PATIENCE_S, _CALLS_MOST = 2.0, 16
_PARTITIONS_SHOWN = 256
"""A heartbeat has no more, or it would be large in a store of thousands of partitions."""
_HOOKS = TaskType.HTTP.value
_SCRIPTS, _OF_LEASES = ("note", "index", "expand"), ("extend", "ack", "reap")
"""The server compiles these before tasks come due: a millisecond each, which the first tasks would be late by. Others
at their first use: its collector visits all that is compiled again and again while a claim waits (ADR 0070)."""


class Engine:
    """Fires what is due in a store until stopped. ``targets`` serve the task types that are leased.

    ``hosts``: guests may be admitted. ``facts``: what the heartbeat reports beside the engine's own; None: send no
    heartbeat for now. ``rules``: those of queues, which it keeps as they are stored. ``on_list`` gets the members that
    rank whenever the list changed.
    """

    def __init__(
        self,
        store: Store,
        targets: Mapping[TaskType, Target],
        options: EngineOptions,
        *,
        hosts: bool = False,
        facts: Callable[[], Activity | None] = Activity,
        rules: LiveRules | None = None,
        on_list: Callable[[Sequence[Member]], None] | None = None,
    ) -> None:
        self._store = store
        self._options = options
        self._facts = facts
        self._on_list = on_list
        self._guests: set[Guest] = set()
        self._beside = SparedClaims()
        self._clocks = Clocks(lambda: store.shards.of)
        self._rules = rules = LiveRules() if rules is None else rules
        self._recorder = Recorder(store, options.history, self._clocks.now_ms, options.node_id)
        self._ownership = Ownership(store.partitions)
        self._dealer = PermitDealer(store, rules, self._ownership, self._clocks, keeps=options.clock)
        self._dispatcher = Dispatcher(
            store, targets, options, self._clocks, self._slots_freed, rules, self._recorder, self._dealer
        )
        self._tracker = Trackers("tracker", store, self._dispatcher, options, self._clocks, rules)
        for target in targets.values():
            if isinstance(target, Pausing):
                target.on_change(self._tracker.kick)
        self._wakeups = Wakeups(store, self)
        self._placement = Placement(options.node_id, store.partitions)
        self._placement.follow(self._place)
        self._calls = WorkerCalls(
            store,
            self._placement,
            options.node_id,
            lambda: self._clocks.now_ms(0),
            self._claim_for_guests,
            lambda lane: max((guest.free for guest in self._guests if guest.runs(lane)), default=0),
            self._listen,
            lambda: any(guest.free > 0 for guest in self._guests),
            lambda partition: True in [guest.own_call(partition) for guest in self._guests],
        )
        self._called_others = -1e9
        self.meets: Callable[[Sequence[bytes]], None] = lambda _: None
        """Is called with lanes with needs that a claim met, here or at another member."""
        self._stations: dict[int, Station] = {}
        self._rule_reader = RuleReader(store, rules, self._ownership, keeps=options.clock)
        self._others = [Loop("rules of queues", self._rule_reader.step), Loop("permits of queues", self._dealer.step)]
        if self._recorder.on:
            self._others.append(Loop("history", self._recorder.step))
            self._recorder.wake = self._others[-1].wake
        o = options
        who = Identity(id=o.node_id, node=o.node, kind=o.kind, roles=o.roles, capacity=o.capacity)
        # Whoever waits to be called claims nothing for hours, and would be late by how far the clocks drift meanwhile.
        self._membership = Membership(store, who, self._activity, self, lambda *seen: self._clocks.of(0).observe(*seen))
        if options.clock:
            self._ownership.follow(self._tracker.keep)
            self._ownership.follow(lambda _: self._listen())
        self._hand_over: HandOver | None = None
        if options.clock and not options.channel and TaskType.PUB_SUB in targets:
            announce = self._membership.announce
            self._hand_over = hand_over = HandOver(options.node_id, self._tracker, self._dispatcher.holds, announce)
            # Before the tracker learns of it, which looks at once.
            own = self._ownership
            own.follow(lambda _: hand_over.acts(own.acting, own.ceded), first=True)
        self._successors = Successors(store, self._release)
        self._known = False  # whether a list of members was applied
        self._started = False
        self._spread()
        store.shards.follow(self._spread)
        self._claims = options.clock or bool(targets)
        # HTTP tasks have near indexes of their own, so whoever serves nothing else claims them when they are due: of
        # the partitions that are its share.
        self._claims_due = _HOOKS if self._dispatcher.serves == _HOOKS and not options.clock else ""
        mine = frozenset(range(store.partitions)) if self._claims_due else frozenset[int]()
        self._due_share = DueShare(mine, self._claim_from)
        self._others_claim = False
        if self._claims_due:
            self._dispatcher.calls = self._call_others
        # Other near indexes hold tasks of several types. A process that looked there whenever something is due would
        # mostly find tasks of others, so it waits until a time keeper has made ready what it serves.
        carries_out = bool(targets) and set(self._dispatcher.serves) <= set(CARRIED_OUT)
        self._called_only = not options.clock and carries_out and not self._claims_due
        if self._called_only:
            self._tracker.wait_to_be_called(when_ready=True)
        self._hosts = hosts
        self._listens = self._claims or hosts
        self._listen()
        self._stopped = False

    @property
    def in_flight(self) -> int:
        """Deliveries handed out and not settled."""
        return self._dispatcher.in_flight

    @property
    def stored(self) -> StoreProgress:
        """How far the outcomes that targets reported are stored."""
        return self._dispatcher.stored

    @property
    def serves(self) -> str:
        """Letters of the task types that its targets serve."""
        return self._dispatcher.serves

    async def start(self) -> None:
        """Returns when it is subscribed to wake-ups and claiming has begun."""
        if self._claims:
            claim = "claim" if self._store.servers.sharded else "claims"
            self._store.runner.source("claim")  # the first herd does not wait until its files are read
            await self._store.prepare(claim, *_SCRIPTS, *(() if self._options.channel else _OF_LEASES))
        if self._listens:
            await self._wakeups.start()
        self._dispatcher.start()
        self._started = True
        self._store.events.start(self._options.events, self._options.node_id)
        for station in self._stations.values():
            station.start()
        for loop in self._others:
            loop.start()
        await self._membership.start()
        if self._claims:
            self._tracker.start()

    async def stop(self, grace_s: float = 10.0) -> None:
        """Claims nothing more, lets running tasks finish within ``grace_s``, hands the rest back. Twice is harmless."""
        if self._stopped:
            return
        self._stopped = True
        # First of all, so that others look after its partitions before it no longer does.
        await self._membership.retire()
        await self._successors.seen()
        await self._due_share.settled()
        self._store.shards.unfollow(self._spread)
        # A claim that is cut off would leave its lease to expire, which charges a loss and takes a lease's time.
        await self._tracker.stop(_CLAIM_PATIENCE_S)
        for guest in list(self._guests):
            await self.dismiss(guest)
        await self._wakeups.stop()
        self._calls.stop()
        self._due_share.close()
        for station in self._stations.values():
            station.close()
        if self._hand_over is not None:
            self._hand_over.close()
        # Leases are kept alive while their tasks finish.
        await self._dispatcher.stop(grace_s)
        await self._recorder.close()
        await self._store.events.close()
        for loop in self._others:
            await loop.stop()
        for station in self._stations.values():
            await station.stop()
        await self._membership.stop()
        await self._successors.stop()

    def admit(
        self,
        *,
        lanes: Sequence[bytes],
        target: Target,
        room: Callable[[], int],
        full: Callable[[Sequence[int]], None] | None = None,
        called_only: bool = False,
    ) -> Guest:
        """Claims for ``target`` from now on: WORKER tasks of ``lanes``, at most ``room()`` more at any moment.

        ``full``: is called as well with partitions in which work may be due while there is no room. ``called_only``:
        see `Guest`.
        """
        guest = Guest(
            self._store,
            self._dispatcher,
            self._options,
            self._clocks,
            lanes=lanes,
            target=target,
            room=room,
            placement=self._placement,
            calls=self._calls,
            full=full,
            rules=self._rules,
            beside=self._beside,
            met=self._met,
            called_only=called_only,
        )
        self._guests.add(guest)
        self._place()
        self._membership.beat_soon()
        guest.start()
        return guest

    def serve(self, guest: Guest, lanes: Sequence[bytes]) -> None:
        """A guest serves these lanes from now on."""
        guest.serve(lanes)
        self._place()
        self._membership.beat_soon()

    async def waits(self, lanes: Sequence[bytes], partitions: Sequence[int]) -> bool:
        """Whether WORKER tasks of these lanes are due in one of these partitions. StoreUnavailable."""
        worker = TaskType.WORKER.value
        calls = [survey_call(self._store, p, types=worker, lanes=lanes, guest=True, weighted=False) for p in partitions]
        replies = await self._store.runner.run_many(calls)
        found = [waiting(reply) for reply in replies if not isinstance(reply, BaseException)]
        return any(one.critical or one.others for one in found)

    async def cede(self) -> None:
        """The guests' workers take nothing more, though they may have work for long: at once others claim what this
        member would have claimed for them."""
        self._placement.withdraw()
        await self._membership.retire()

    def _met(self, lanes: Sequence[bytes]) -> bool:
        """A claim met lanes with needs: the workers here may have what is needed, or those of other members. They are
        claimed by guests of their own."""
        self.meets(lanes)
        self._calls.announce(lanes)
        return False

    def met(self, lanes: Sequence[bytes]) -> None:
        """Another member's claim met these lanes (`listener.WakeupReceiver`)."""
        self.meets(lanes)

    async def dismiss(self, guest: Guest) -> None:
        """Stops claiming for a guest. Twice is harmless."""
        self._guests.discard(guest)
        self._listen()
        self._membership.beat_soon()
        await guest.stop()

    async def adopt(
        self, partition: int, old_lease: bytes, new_lease: bytes, task_ids: Sequence[bytes], target: Target
    ) -> Adopted:
        """Takes over tasks that a worker runs, from the lease of another node to ``new_lease``; ``target`` gets them.

        The same call again does no harm. StoreUnavailable.
        """
        held = {task_id for task_id in task_ids if ids.partition(task_id) == partition < self._store.partitions}
        lease_ms = self._options.lease_ms
        found = await adopt(self._store, partition, old_lease, new_lease, sorted(held), lease_ms=lease_ms)
        if found.leased:
            self._dispatcher.accept(partition, new_lease, found.leased, target, adopted=True)
        return found

    def new_lease(self) -> bytes:
        """An id for a lease that `adopt` can fill."""
        return new_lease(self._options.lease_ms)

    async def extend(self) -> None:
        """Extends every lease once more, before tasks are left to other nodes. StoreUnavailable."""
        await self._dispatcher.heartbeat()

    def _station_of(self, partition: int) -> Station:
        return self._stations[self._store.shards.of[partition]]

    def _spread(self) -> None:
        """Gives each server's station its partitions; a server that is new gets one."""
        groups = self._store.shards.group(range(self._store.partitions))
        for shard, partitions in groups.items():
            if shard in self._stations:
                continue
            single = not self._store.servers.sharded
            own = self._ownership if single else PartOwnership(self._ownership, frozenset(partitions))
            heartbeat = partial(self._dispatcher.heartbeat, None if single else shard)
            station = Station(self._store, self._options, self._clocks.at(shard), own, heartbeat)
            self._stations[shard] = station
            if self._started:
                station.start()
        for shard, station in self._stations.items():
            if isinstance(station.ownership, PartOwnership):
                station.ownership.move(frozenset(groups.get(shard, ())))

    def _listen(self) -> None:
        """Subscribes to the wake-ups of partitions that this process claims from, or stands in for."""
        every = range(self._store.partitions)
        o, keeps = self._ownership, self._options.clock
        for_workers = {p for guest in self._guests for p in guest.partitions} | self._calls.helping.partitions
        if TaskType.WORKER.value in self._dispatcher.serves:
            for_workers.update(every)
        looks = self._claims and not self._called_only and not self._claims_due
        self._wakeups.want(
            due=o.kept | o.stands_in if keeps else every if looks else (),
            for_workers=for_workers | o.kept if keeps else for_workers,
            hooks=o.kept if keeps and _HOOKS in self._dispatcher.serves else self._due_share.kept,
            ready=every if self._claims and not keeps else (),
            left=every if self._guests else (),
        )

    def _claim_from(self, partitions: frozenset[int]) -> None:
        self._tracker.keep(partitions)
        self._listen()

    def _place(self) -> None:
        for guest in self._guests:
            guest.place()
        self._listen()

    def asked(self, seed: int, partitions: Sequence[int]) -> None:
        """Another member has no room for WORKER tasks there (`listener.WakeupReceiver`)."""
        self._calls.asked(seed, partitions)

    def all_asked(self, waiting: Sequence[tuple[int, bytes]]) -> None:
        """Nobody who was called has taken what waits in lanes of these partitions (`listener.WakeupReceiver`)."""
        self._calls.all_asked(waiting)

    def left(self, seed: int, waiting: int, partitions: Sequence[int]) -> None:
        """WORKER tasks wait in the partition for a member with room (`listener.WakeupReceiver`)."""
        self._calls.left(seed, waiting, partitions)

    def _claim_for_guests(self, partition: int) -> bool:
        return True in [guest.call(partition) for guest in self._guests]

    def ready(self, partition: int) -> None:
        """Due work was left in the partition for members that serve it (`listener.WakeupReceiver`)."""
        if self._claims_due:
            # Also where another member claims as a rule.
            self._tracker.call(partition)
        else:
            self._tracker.kick(partition)

    def hook_due(self, partition: int, due_ms: float) -> None:
        """An HTTP task is due before the next look (`listener.WakeupReceiver`)."""
        self._tracker.kick(partition, due_ms)

    def _call_others(self, partitions: Sequence[int]) -> None:
        """There is no room here: other members that claim HTTP tasks may have some. Not more than once in a while."""
        now = local_ms()
        if self._others_claim and now - self._called_others >= ASK_AGAIN_MS:
            self._called_others = now
            self._helping = asyncio.create_task(self._call(partitions[:_CALLS_MOST]))

    async def _call(self, partitions: Sequence[int]) -> None:
        # The owner of the partition also calls, a little later.
        with contextlib.suppress(DelayBoxError):
            for p in partitions:
                await call_again(self._store, p)

    def due(self, partition: int | None, due_ms: float, *, for_workers: bool) -> None:
        """Something is due before the next look (`listener.WakeupReceiver`)."""
        for station in self._stations.values() if partition is None else (self._station_of(partition),):
            station.due(partition, due_ms, for_workers=for_workers)
        mine = TaskType.WORKER.value in self._dispatcher.serves if for_workers else self._claims
        if mine and (partition is None or not self._called_only):
            self._tracker.kick(partition, due_ms)
        if for_workers:
            for guest in self._beside.first(self._guests):
                guest.tracker.kick(partition, due_ms)

    def _slots_freed(self) -> None:
        self._tracker.slots_freed()

    def _release(self, partitions: frozenset[int]) -> None:
        """The new owners look after these."""
        if self._hand_over is not None:
            self._hand_over.leave(partitions)
        self._ownership.release(partitions)

    async def listed(
        self,
        ranking: Sequence[Member],
        returned: Sequence[Member],
        ending: Sequence[Member] = (),
        changed_ms: int = 0,
    ) -> None:
        """Takes this engine's share of what the members do (`membership.Follower`)."""
        partitions, me = self._store.partitions, self._options.node_id
        self._dealer.listed([*ranking, *returned, *ending])
        if self._on_list is not None:
            self._on_list(ranking)
        if self._options.clock:
            # If nobody ranks, those that returned a moment ago are better than nobody.
            keepers = [m for m in ranking if keeps_time(m)] or [m for m in returned if keeps_time(m)]
            shares = await shared(keepers, partitions)
            # If there is nobody at all, this member is ending or off the list: it keeps what it has.
            if shares:
                known, self._known = self._known, True
                before = self._ownership.owned if known else frozenset()
                owned = frozenset(p for p, share in enumerate(shares) if share.owner == me)
                stands_in = frozenset(p for p, share in enumerate(shares) if share.stand_in == me)
                # Nobody counts on what it kept only because it had no list yet.
                self._ownership.assign(owned, stands_in, cedes=known)
                self._successors.expect({p: shares[p].owner for p in self._ownership.ceded}, changed_ms)
                if self._hand_over is not None:
                    living, ceded = [*ranking, *returned, *ending], self._ownership.ceded
                    self._hand_over.listed(owned, living, gained=owned - before, ceded=ceded)
                    if not known:
                        self._hand_over.leave(frozenset(range(partitions)) - owned)
        if self._claims_due:
            takers = [member for member in ranking if _HOOKS in member.activity.claims_due]
            self._others_claim = len(takers) > 1
            # If there is nobody at all, this member is ending or off the list: it keeps what it has.
            if shares := await shared(takers, partitions):
                self._due_share.assign(frozenset(p for p, share in enumerate(shares) if share.owner == me))
        # One that ends goes on as before until its guests are dismissed.
        if self._hosts and not self._stopped:
            self._placement.assign(
                [
                    Server(member.id, places(member.activity), frozenset(member.activity.lanes))
                    for member in ranking
                    # Of one that does not name all of its lanes it is not known what it could be asked for.
                    if member.activity.lanes and len(member.activity.lanes) == member.activity.lane_count
                ]
            )

    def _kept(self) -> list[int]:
        left = self._hand_over.left if self._hand_over is not None else frozenset()
        return sorted(self._ownership.kept | left)

    def _activity(self) -> Activity | None:
        """What the heartbeat reports of this engine and of what stands beside it."""
        beside = self._facts()
        if beside is None:
            return None
        troubles: tuple[str, ...] = ()
        if self._listens:
            metrics.wakeups_subscribed("workers" if self._hosts else "node", self._wakeups.listening)
            if not self._wakeups.listening:
                troubles = (DEAF,)
        kept = self._kept() if self._options.clock else []
        self._dispatcher.levels.export()
        own = Activity(
            in_flight=self._dispatcher.in_flight,
            types=self._dispatcher.serves,
            limits=self._options.lanes,
            places=dict.fromkeys(self._dispatcher.serves, self._options.places) if self._options.places else {},
            fired_per_s=self._dispatcher.tally.fired_per_s(),
            service_ms=self._dispatcher.tally.service_ms(),
            partitions=tuple(kept[:_PARTITIONS_SHOWN]),
            partition_count=len(kept),
            claims_due=self._claims_due,
            rules_version=max(self._rules.version, 0),
            rules_ms=self._rule_reader.taken_ms,
        )
        return together([own, beside, Activity(troubles=troubles)])
