"""Claims for targets that come and go, such as connected workers: each guest takes what it serves and has room for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from delaybox.core.delivery import Delivery, Report, Target
from delaybox.core.lane import ANY_QUEUE, without_needs
from delaybox.core.queue import LiveRules
from delaybox.engine import stays
from delaybox.engine.calls import WorkerCalls
from delaybox.engine.clock_estimate import Clocks
from delaybox.engine.dispatcher import Dispatcher
from delaybox.engine.options import EngineOptions
from delaybox.engine.placement import Placement
from delaybox.engine.spared_claims import SparedClaims
from delaybox.engine.trackers import Trackers
from delaybox.store.store import Claimed, Store

_CLAIM_PATIENCE_S = 2.0


class Guest:
    """A taker with a tracker of its own. Made by `Engine.admit`.

    ``room``: how many more tasks ``target`` can take; tasks on their way to it are not subtracted yet. ``calls``: to
    other members; ``full`` gets the partitions in which work may be due while there is no room. ``met``: see
    `engine.taker.Taker`. ``called_only``: its lanes are those of tasks that prefer other workers, so it claims only
    where somebody called. ``beside``: the claims of all guests.
    """

    def __init__(
        self,
        store: Store,
        dispatcher: Dispatcher,
        options: EngineOptions,
        clocks: Clocks,
        *,
        lanes: Sequence[bytes],
        target: Target,
        room: Callable[[], int],
        placement: Placement,
        calls: WorkerCalls,
        full: Callable[[Sequence[int]], None] | None = None,
        rules: LiveRules,
        beside: SparedClaims,
        met: Callable[[Sequence[bytes]], bool] = lambda _: False,
        called_only: bool = False,
    ) -> None:
        self._store = store
        self.met = met
        self._called_only = called_only
        self._placement = placement
        self._calls = calls
        self._full = full
        self.types = "".join(sorted({chr(lane[0]) for lane in lanes}))
        self.lanes = tuple(lanes)
        self._dispatcher = dispatcher
        self._target = target
        self._room = room
        self._on_their_way = 0
        self._new_lanes = False
        self._stopping = False
        guests = replace(options, clock=False, channel="", catch_up_rate=0)
        self.tracker = Trackers(f"tracker of {target!r}", store, self, guests, clocks, rules, beside)
        self.partitions = frozenset(range(store.partitions))
        """Those that this member claims from for the target without being called."""

    @property
    def free(self) -> int:
        """Room for new tasks, after those that are on their way."""
        return 0 if self._stopping else max(0, self._room() - self._on_their_way)

    @property
    def in_flight(self) -> int:
        """Tasks in flight in this process for all guests. If there are none, waiting for slots cannot help."""
        return self._dispatcher.in_flight

    def runs(self, lane: bytes) -> bool:
        """Whether the target serves tasks of this lane, or may: what a task needs of a worker is not looked at."""
        plain = without_needs(lane)
        of_any_queue = plain[:1] + ANY_QUEUE.encode() + plain[plain.find(b":") :]
        return not {lane, plain, of_any_queue}.isdisjoint(self.lanes)

    def lanes_at(self, partition: int, *, all_: bool) -> tuple[bytes, ...]:
        """Those that this member claims in a partition, or all that the target serves."""
        return self.lanes if all_ or self._called_only else self._placement.among(partition, self.lanes)

    @property
    def coming(self) -> int:
        """Tasks that were claimed and are on their way to the target."""
        return self._on_their_way

    def call(self, partition: int) -> bool:
        """Others have no room for what waits there, and maybe not for what comes next, either. Whether this one has."""
        self.tracker.call(partition, stay_ms=0.0 if self._called_only else stays.STAY_MS)
        return self.free > 0

    def own_call(self, partition: int) -> bool:
        """This member has called others there: a guest that claims only where somebody called claims as well. As
        `call`."""
        return self._called_only and self.call(partition)

    def serve(self, lanes: Sequence[bytes]) -> None:
        """Other lanes than before; `place` comes after it."""
        self.lanes = tuple(lanes)
        self._new_lanes = True

    def full(self, partitions: Sequence[int]) -> None:
        """Others are asked to take what this target has no room for."""
        self._calls.ask(partitions)
        if self._full is not None:
            self._full(partitions)

    def lends(self, partition: int) -> bool:
        """Others are called to a partition, because this target gets too much."""
        if not self._calls.lend(partition, self.lanes):
            return False
        if self._full is not None:
            # Others may have no room, either, for a task that takes several places.
            self._full([partition])
        return True

    def waits(self, partition: int, queues: Mapping[bytes, int]) -> None:
        """A claim found queues without permits."""
        self._dispatcher.waits(partition, queues)

    def names(self) -> str:
        """Its claims fire nothing in place."""
        return ""

    def fired_in_place(self, partition: int, claimed: Claimed) -> None:
        """Does not happen: see `names`."""

    def place(self) -> None:
        """The placement has changed, or is known now."""
        if self._placement.known:
            self.tracker.wait_to_be_called()
        every = range(0 if self._called_only else self._store.partitions)
        self.partitions = frozenset(p for p in every if self._placement.among(p, self.lanes))
        self.tracker.keep(self.partitions)
        if self._new_lanes:
            self._new_lanes = False
            self.tracker.kick()

    def accept(self, partition: int, lease_id: bytes, leased: Sequence[bytes]) -> list[float]:
        """Starts delivering what was claimed."""
        if partition not in self.partitions and not self._called_only:
            self._calls.stays(partition)
        claim = _Claim(self, self._target, len(leased) // 2)
        try:
            return self._dispatcher.accept(partition, lease_id, leased, claim, claim.over)
        except BaseException:
            claim.over()
            raise

    def expect(self, change: int) -> None:
        """Changes the number of tasks that are on their way to the target."""
        self._on_their_way += change

    def start(self) -> None:
        """Begins to claim; returns at once."""
        self.tracker.start()

    def more_room(self) -> None:
        """The target can take more than before, so partitions in which work was left are looked at now."""
        self.tracker.slots_freed()

    async def stop(self) -> None:
        """Claims nothing more; tasks of a claim under way are still delivered. Twice is harmless."""
        self._stopping = True
        await self.tracker.stop(_CLAIM_PATIENCE_S)


class _Claim:
    """The tasks of one claim on their way to the target. Some never arrive, such as tasks that expired."""

    def __init__(self, guest: Guest, target: Target, count: int) -> None:
        self._guest = guest
        self._target = target
        self._left = count
        guest.expect(count)

    async def deliver(self, batch: Sequence[Delivery], report: Report) -> None:
        self._arrived(len(batch))
        await self._target.deliver(batch, report)

    def over(self) -> None:
        self._arrived(self._left)

    def _arrived(self, count: int) -> None:
        self._left -= count
        self._guest.expect(-count)
