"""The trackers of one taker: one for each server, so that none waits for a server that is not its own."""

from __future__ import annotations

import asyncio

from delaybox.core.queue import LiveRules
from delaybox.engine.catchup import CatchUp
from delaybox.engine.clock_estimate import Clocks
from delaybox.engine.due_tracker import Tracker
from delaybox.engine.loops import Loop
from delaybox.engine.options import EngineOptions
from delaybox.engine.spared_claims import SparedClaims
from delaybox.engine.taker import Asked, Taker
from delaybox.store.store import Store

_AWAY_S = 0.25
"""How long a tracker waits at most before it tries a server of a cluster again."""


class Trackers:
    """As `Tracker`, for partitions at any server; its loops too. ``name``: that of the loops in the log."""

    def __init__(
        self,
        name: str,
        store: Store,
        taker: Taker,
        options: EngineOptions,
        clocks: Clocks,
        rules: LiveRules | None = None,
        beside: SparedClaims | None = None,
    ) -> None:
        self._name = name
        self._store = store
        self._clocks = clocks
        self._made_of = store, taker, options
        self._rules = rules
        self._beside = beside or SparedClaims()
        self._asked = Asked()
        self._catch_up = CatchUp(options.catch_up_rate, store.partitions)
        self._kept = frozenset(range(store.partitions))
        self._withheld: frozenset[int] = frozenset()
        self._called_only: bool | None = None
        self._started = False
        self._retired = False
        self._by_shard: dict[int, tuple[Tracker, Loop]] = {}
        self._spread()
        store.shards.follow(self._spread)

    def _spread(self) -> None:
        """Gives each server's tracker its partitions."""
        groups = self._store.shards.group(range(self._store.partitions))
        for shard in groups.keys() - self._by_shard.keys():
            if self._retired:
                return
            clock = self._clocks.at(shard)
            tracker = Tracker(*self._made_of, clock, self._asked, self._catch_up, self._rules, self._beside)
            if self._called_only is not None:
                tracker.wait_to_be_called(when_ready=self._called_only)
            tracker.withhold(self._withheld)
            loop = Loop(self._name, tracker.step, away_s=_AWAY_S if self._store.servers.sharded else 1.0)
            self._by_shard[shard] = tracker, loop
            if self._started:
                loop.start()
        # Servers that have nothing of the store any more take no share of the slots. A tracker alone sees by itself
        # what its own claims leave.
        self._asked.trackers = len(groups)
        self._asked.fewer = self.slots_freed if len(self._by_shard) > 1 else None
        for shard, (tracker, _) in self._by_shard.items():
            tracker.keep(self._kept & frozenset(groups.get(shard, ())))

    def _all(self) -> list[Tracker]:
        return [tracker for tracker, _ in self._by_shard.values()]

    def _of(self, partition: int) -> Tracker:
        return self._by_shard[self._store.shards.of[partition]][0]

    def start(self) -> None:
        """Begins to claim; returns at once."""
        self._started = True
        for _, loop in self._by_shard.values():
            loop.start()

    async def stop(self, patience_s: float) -> None:
        """Claims nothing more, and gives claims under way this long to end by themselves."""
        self.retire()
        self._store.shards.unfollow(self._spread)
        await asyncio.gather(*(_stop(tracker, loop, patience_s) for tracker, loop in self._by_shard.values()))

    def retire(self) -> None:
        """See `Tracker`."""
        self._retired = True
        for tracker in self._all():
            tracker.retire()

    def keep(self, partitions: frozenset[int]) -> None:
        """See `Tracker`."""
        self._kept = partitions
        self._spread()

    def wait_to_be_called(self, *, when_ready: bool = False) -> None:
        """See `Tracker`."""
        self._called_only = when_ready
        for tracker in self._all():
            tracker.wait_to_be_called(when_ready=when_ready)

    def withhold(self, partitions: frozenset[int]) -> None:
        """See `Tracker`."""
        self._withheld = partitions
        for tracker in self._all():
            tracker.withhold(partitions)

    def claims(self, partition: int) -> bool:
        """See `Tracker`."""
        return self._of(partition).claims(partition)

    def call(self, partition: int, *, stay_ms: float = 0.0) -> None:
        """See `Tracker`."""
        self._of(partition).call(partition, stay_ms=stay_ms)

    def kick(self, partition: int | None = None, due_ms: float = 0.0) -> None:
        """See `Tracker`."""
        for tracker in self._all() if partition is None else (self._of(partition),):
            tracker.kick(partition, due_ms)

    def slots_freed(self) -> None:
        """See `Tracker`."""
        for tracker in self._all():
            tracker.slots_freed()


async def _stop(tracker: Tracker, loop: Loop, patience_s: float) -> None:
    await loop.stop(patience_s=patience_s)
    await tracker.finish(patience_s)
    tracker.close()
