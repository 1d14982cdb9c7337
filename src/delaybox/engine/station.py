"""What an engine does for the partitions of one server, apart from those of others: a server that is away holds up
nothing elsewhere."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from delaybox.engine.clock_estimate import RedisClock
from delaybox.engine.expander import Expander
from delaybox.engine.labeller import Labeller
from delaybox.engine.leftovers import Leftovers
from delaybox.engine.loops import Loop
from delaybox.engine.lost_owners import StandIn
from delaybox.engine.options import EngineOptions
from delaybox.engine.ownership import Ownership
from delaybox.engine.reaper import Reaper
from delaybox.engine.relister import Relister
from delaybox.engine.retention import Retention
from delaybox.engine.scrubber import Scrubber
from delaybox.store.store import Store


class Station:
    """The loops of one server: the heartbeat of leases, and those of a time keeper (``options.clock``).

    ``ownership``: of the partitions that lie there. ``heartbeat``: extends the leases that lie there.
    """

    def __init__(
        self,
        store: Store,
        options: EngineOptions,
        clock: RedisClock,
        ownership: Ownership,
        heartbeat: Callable[[], Awaitable[float]],
    ) -> None:
        self.ownership = ownership
        self._expander = Expander(store, options, clock)
        self._stand_in = StandIn(store, ownership, options.node_id, clock)
        self._leftovers = Leftovers(store, ownership, clock)
        self._loops = [
            # After an outage a lease is not reaped for its own length, so the first heartbeat must come well within
            # that time.
            Loop("lease heartbeat", heartbeat, away_s=min(1.0, options.lease_ms / 6000)),
        ]
        self._expanding = Loop("expander", self._expander.step)
        if options.clock:
            self._loops += [
                self._expanding,
                Loop("retention", Retention(store, options, ownership).step),
                Loop("reaper", Reaper(store, options, ownership).step),
                Loop("stand-in", self._stand_in.step),
                Loop("leftovers", self._leftovers.step),
                Loop("labels", Labeller(store, ownership).step),
                Loop("lists of labels", Relister(store, ownership).step),
            ]
            if options.scrub:
                self._loops.append(Loop("scrubber", Scrubber(store, ownership).step))
            self._expander.keep(ownership.kept)
            ownership.follow(self._keep)

    def _keep(self, partitions: frozenset[int]) -> None:
        self._expander.keep(partitions)
        self._expanding.wake()

    def start(self) -> None:
        """Begins; returns at once."""
        for loop in self._loops:
            loop.start()

    async def stop(self) -> None:
        """Ends all. Twice is harmless."""
        for loop in self._loops:
            await loop.stop()

    def close(self) -> None:
        """The engine claims nothing more, so nobody needs to stand in."""
        self._stand_in.close()

    def due(self, partition: int | None, due_ms: float, *, for_workers: bool) -> None:
        """Something is due before the next look (`listener.WakeupReceiver`)."""
        if partition is None:
            self._expander.kick()
            self._expanding.wake()
        if for_workers:
            self._leftovers.kick(partition, due_ms)
        elif partition is not None:
            self._stand_in.kick(partition, due_ms)
