"""Takes work back from leases that expired."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence

from delaybox import failpoints, metrics
from delaybox.core.errors import DelayBoxError
from delaybox.core.membership import holders, most_left
from delaybox.engine.options import EngineOptions
from delaybox.engine.ownership import Ownership
from delaybox.store import dead_groups, nodes
from delaybox.store.expiry import Ends, ends
from delaybox.store.store import Reaped, Store

log = logging.getLogger("delaybox.engine")


_AT_ONCE = 4


class Reaper:
    """One step = a look at all partitions in one round trip, then a script for each that has leases, a few together.

    Most partitions have nothing to reap most of the time: a script for each of them twice a second was more than half
    of an idle node's work. Where there are leases, the script notes each look in the partition, and by these notes
    tells an outage from a loss. Nothing about it is kept here, because the memories of several nodes would differ.
    """

    def __init__(self, store: Store, options: EngineOptions, ownership: Ownership | None = None) -> None:
        self._store = store
        self._ownership = ownership or Ownership(store.partitions)
        self._options = options
        # An outage is a gap of a third of a lease between looks.
        self._every_ms = max(1, min(options.reap_ms, options.lease_ms // 6))
        self._note_ms = max(self._every_ms, min(1_000, options.lease_ms // 9))

    async def step(self) -> float:
        """For `Loop`."""
        now, partitions = await ends(self._store, sorted(self._ownership.kept))
        due = [p for p, end in partitions.items() if self._has_work(end, now)]
        failing = any(0 <= partitions[p].lease <= now for p in due) and await self._failing(now)
        problem: BaseException | None = None
        while due:
            # A few at a time, because all others wait while the server carries out the scripts of one round trip.
            few, due = [due[at : at + _AT_ONCE] for at in range(0, len(due), _AT_ONCE)], []
            for group in few:
                more, failed = await self._reap(group, failing=failing)
                due += more
                problem = problem or failed
        if problem is not None:
            raise problem
        return self._every_ms / 1000

    def _has_work(self, end: Ends, now: int) -> bool:
        if 0 <= end.lease <= now >= end.grace:
            return True
        # Where there are leases, some node must look; it need not be this one if another has looked just now.
        return end.lease >= 0 and not 0 <= now - end.reaped < self._note_ms - self._every_ms / 2

    async def _failing(self, now: int) -> bool:
        """Whether most nodes went away within one lease. Then the tasks that they held are not to blame."""
        lease_ms = self._options.lease_ms
        lives = holders(await nodes.live(self._store))
        return most_left(lives, now, lease_ms, quiet_ms=max(1_500, min(2_500, lease_ms)))

    async def _reap(self, due: Sequence[int], *, failing: bool) -> tuple[list[int], BaseException | None]:
        """One script for each partition. Returns the partitions that have more to reap, and an error of others: what
        dead nodes held elsewhere is taken back all the same."""
        o = self._options
        calls = [
            self._store.reap_call(
                p,
                lease_ms=o.lease_ms,
                losses_cap=o.losses_cap,
                dead_cap=o.dead_cap,
                every_ms=self._note_ms,
                failing=failing,
            )
            for p in due
        ]
        failpoints.hit("before_reap")
        more: list[int] = []
        graces: list[int] = []
        problem: BaseException | None = None
        for p, reply in zip(due, await self._store.runner.run_many(calls), strict=True):
            if isinstance(reply, BaseException):
                problem = reply
                continue
            r = Reaped(*reply)
            if r.leases:
                failpoints.hit("after_reap_reply")
            _report(r, failing=failing)
            if r.dead and self._store.events.wanted:
                await self._report_dead(p, r.dead)
            over = 0 <= r.next_expiry_ms <= r.now_ms
            if r.leases and over:
                more.append(p)
            if r.grace_ms and over:
                graces.append(r.grace_ms - r.now_ms)
        if graces:
            metrics.lease_graces(len(graces))
            log.warning(
                "nobody looked after leases for a while, because the server was away, restarted or had its clock set, "
                "or because this machine has too much to do: in %d partitions none is taken back for %.1f s, so that "
                "living nodes extend theirs",
                len(graces),
                max(graces) / 1000,
            )
        return more, problem

    async def _report_dead(self, partition: int, count: int) -> None:
        with contextlib.suppress(DelayBoxError):
            for record, reason in await dead_groups.latest(self._store, partition, count):
                self._store.events.dead(record, reason)


def _report(r: Reaped, *, failing: bool) -> None:
    if r.leases:
        metrics.lease_lost(r.leases)
        log.warning("%d leases expired: %d tasks run again, %d dead-lettered", r.leases, r.back, r.dead)
        if failing:
            log.warning("most nodes went away within one lease: tasks are not dead-lettered for being lost with them")
    if r.dead:
        metrics.dead_lettered(r.dead)
