"""Deals permits of queues with limits (`core.queue_limits`) to the partitions in which their work waits."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from delaybox.core.delivery import Delivery
from delaybox.core.errors import PartAway
from delaybox.core.lane import ANY_QUEUE, queue_of_lane, split
from delaybox.core.limit_keys import read_name
from delaybox.core.membership import Member
from delaybox.core.needs import MARK
from delaybox.core.queue import LiveRules, QueueRules
from delaybox.core.queue_limits import Grant, Ledger, Needs, Pool, deal
from delaybox.core.task import DEFAULT_QUEUE
from delaybox.engine.clock_estimate import Clocks, local_ms
from delaybox.engine.ownership import Ownership
from delaybox.processes.waking import rest_s
from delaybox.service.served import Served
from delaybox.store import permits
from delaybox.store.apart import Apart
from delaybox.store.loader import ScriptCall
from delaybox.store.permits import PoolReport
from delaybox.store.replies import NONE
from delaybox.store.store import Store

log = logging.getLogger("delaybox.engine")

_ROUNDS = 6
"""Round trips to partitions for one step: grants, then those who must give back, then grants of that."""
_TRIES = 8
"""Looks at a record that others change all the time."""
_SPACE_MS = 3.0
"""Two exchanges for one partition are this far apart, so that what happens together is settled together."""
_HUNGRY_MS = 50.0
"""One that has permits and could use more asks no sooner than this."""
_AGAIN_MS = 250.0
"""Who waits for permits asks again after this time, because a message can be lost."""
_MORE_AGAIN_MS = 1_000.0
"""The same of one that has permits and could use more. That stands on record, so whoever gives some back deals them to
it; to ask for them with each claim cost more than all that was claimed."""
_KEYS_AGAIN_MS = 2_000.0
"""The same of limit keys, of which there may be very many."""
_SWEEP_S = 1.0
_MARK = MARK.encode()
_UNABLE_MS = 600_000.0
"""How long it counts that nobody can run the tasks of a lane: mostly they are gone by then. What waits longer is found
again."""
_MOST_ABLE = 1_000
"""Lanes that are remembered as judged."""
_MOST_UNSERVED = 1_000
"""Pools that are noted because tasks wait for them that nobody serves; of more the sweep sees to what comes back."""
_AT_ONCE, _TRIPS = 4, 16
"""Partitions in one round trip: their scripts run one behind the other, and a claim waits for all of them; and how many
trips there are at most."""
_PAGES = 4
"""Parts of a partition that one sweep looks at; the next one goes on behind them."""


class PermitDealer:
    """One step = wait until something is to be settled, then settle it: all partitions of it in one round trip each.

    Every engine does that for what it claims and ends itself; time keepers also sweep their partitions. All of it is
    safe from everybody at any time.
    """

    def __init__(self, store: Store, rules: LiveRules, ownership: Ownership, clocks: Clocks, *, keeps: bool) -> None:
        self._store = store
        self._rules = rules
        self._ownership = ownership
        self._clocks = clocks
        self._keeps = keeps
        self._served: Sequence[bytes] = ()
        """The lanes that living members serve, as `permits.visit_calls` takes them."""
        self._served_now: tuple[int, Sequence[bytes]] | None = None
        """Of these what `_served_here` found by so many changes of rules."""
        self._by_members: Served | None = None
        self._unable: dict[bytes, float] = {}
        """Lanes with needs in which tasks of queues with limits wait that no living member can run, and until when that
        counts."""
        self._able: set[bytes] = set()
        """Some that count, because a living member can run them: to judge one anew may take a look at each worker."""
        self._unserved: dict[bytes, set[int]] = {}
        """Pools for which tasks wait that nobody serves, and in which of the partitions that were visited."""
        self._apart = Apart(clocks.shards)
        self._due: dict[int, dict[bytes, float]] = {}
        self._on_record: dict[int, set[bytes]] = {}
        """Pools of `_due` of which it is on record that the partition has permits and could use more."""
        self._last: dict[int, float] = {}
        self._sweep_at = 0.0
        self._places: dict[int, bytes] = {}
        self._version = -1
        self._wake = asyncio.Event()

    # -- what others report ---------------------------------------------------------------------------------------

    def waits(self, partition: int, queues: Mapping[bytes, int]) -> None:
        """A claim found no permits for what is ready of these queues and limit keys (`Claimed.waits`)."""
        on_record = self._on_record.get(partition, set()) & self._due.get(partition, {}).keys()
        for queue, why in queues.items():
            for pool in self._pools(queue):
                # Of a critical task it stands not on record that it waits: others give up permits for it.
                if why or pool not in on_record:
                    self._at(partition, pool, 0.0 if why == NONE else local_ms() + _HUNGRY_MS)

    def ended(self, partition: int, deliveries: Sequence[Delivery]) -> None:
        """These left their lease, so permits of their queues and limit keys came back."""
        for lane in {d.lane for d in deliveries}:
            if self._rules.of(split(lane).queue).concurrency is not None:
                self._at(partition, b"c" + queue_of_lane(lane), 0.0)
        for d in deliveries:
            self.came_back(partition, d.limit_keys)

    def listed(self, members: Sequence[Member]) -> None:
        """These live. Tasks that none of them serves get no permits, which they would keep from all others; what waits
        in lanes that are new among those they serve is looked for at once."""
        self._by_members = served = Served.by(members) if members else None
        lanes = served.lanes() if served is not None else []
        now = local_ms()
        self._able.clear()
        able = [lane for lane, until in self._unable.items() if until <= now or served is None or served.has(lane)]
        if lanes != self._served or able:
            self._served, self._served_now = lanes, None
            for lane in able:
                del self._unable[lane]
            if self._rules.stored:
                self._sweep_at = 0.0
                self._wake.set()

    def came_back_of(self, partition: int, deliveries: Sequence[Delivery]) -> None:
        """As `ended`, where the store says that work waits there for what came back: that may be served by nobody."""
        if self._unserved:
            self.ended(partition, [d for d in deliveries if self._others_wait(d)])

    def came_back(self, partition: int, names: Iterable[bytes]) -> None:
        """Permits of these queues and limit keys came back that others may use."""
        for name in names:
            self._at(partition, b"c" + name, 0.0)

    def _pools(self, name: bytes) -> list[bytes]:
        return [pool.name for pool in self._rules_of(name).pools_of(name)]

    def _rules_of(self, name: bytes) -> QueueRules:
        return self._rules.of(split(b"w" + _queue_of(name)).queue)

    def _at(self, partition: int, pool: bytes, at: float) -> None:
        due = self._due.setdefault(partition, {})
        before = due.get(pool)
        if before is None or at < before:
            due[pool] = at
            self._wake.set()

    # -- settling -------------------------------------------------------------------------------------------------

    async def step(self) -> float:
        """For `Loop`."""
        now = local_ms()
        nearest = min((self._when(p) for p in self._due), default=math.inf)
        if self._keeps:
            nearest = min(nearest, self._sweep_at)
        if nearest > now:
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if nearest == math.inf else (nearest - now) / 1000):
                    await self._wake.wait()
            now = local_ms()
        if self._version != self._rules.version:
            # Limits may have changed: what is too much is taken back at once.
            self._version, self._sweep_at = self._rules.version, 0.0
        asked: dict[int, dict[bytes, Grant | None]] = {}
        for p in [p for p in self._due if self._when(p) <= now]:
            due = self._due[p]
            ready = [pool for pool, at in due.items() if at <= now]
            for pool in ready:
                del due[pool]
            self._on_record.get(p, set()).difference_update(ready)
            if not due:
                del self._due[p]
                self._on_record.pop(p, None)
            if ready:
                self._last[p] = now
                asked[p] = dict.fromkeys(ready)
        sweeps: list[int] = []
        try:
            if self._keeps and self._sweep_at <= now:
                self._sweep_at = now + 1000 * rest_s(_SWEEP_S)
                sweeps = await self._to_sweep()
            if asked or sweeps:
                await self._settle(asked, sweeps)
        except BaseException:
            for p, pools in asked.items():
                for pool in pools:
                    self._at(p, pool, now + _AGAIN_MS)
            raise
        return 0.0

    def _when(self, partition: int) -> float:
        return max(min(self._due[partition].values()), self._last.get(partition, 0.0) + _SPACE_MS)

    async def _to_sweep(self) -> list[int]:
        """Those of our partitions that have anything to do with limits."""
        kept = sorted(self._ownership.kept)
        found = await permits.in_use(self._store, kept, self._apart)
        return [p for p, any_ in zip(kept, found, strict=True) if any_]

    async def _settle(self, asked: dict[int, dict[bytes, Grant | None]], sweeps: Collection[int]) -> None:
        places = {p: self._places.pop(p, b"0:0") for p in sweeps}
        rounds = pages = 0
        problem: BaseException | None = None
        while asked or places:
            pages += bool(places)
            if pages > _PAGES:
                self._places |= places
                places.clear()
                if not asked:
                    break
            rounds += not places
            if rounds > _ROUNDS:
                break
            swept, brought = set(places), {(p, pool) for p, some in asked.items() for pool, one in some.items() if one}
            found, failed = await self._visit(asked, places)
            problem = problem or failed
            # One that reports that it has just what it needs, as it had before, is no news.
            asked = await self._deal(
                [
                    one
                    for one in found
                    if one.gave_back
                    or one.report.want != one.report.budget
                    or one.report.partition in swept
                    or (one.report.partition, one.pool) in brought
                ]
            )
        # What is left over is asked for again, so that others have a turn.
        for p, pools in asked.items():
            for pool in pools:
                self._at(p, pool, local_ms() + _SPACE_MS)
        if problem is not None:
            raise problem

    async def _visit(
        self, asked: Mapping[int, permits.Ask], places: dict[int, bytes]
    ) -> tuple[list[PoolReport], BaseException | None]:
        """What partitions report; and an error of others, which are asked again. One on its way to another server is no
        error, nor one whose server hangs: permits for the others do not wait for that."""
        calls: list[tuple[int, ScriptCall]] = []
        served = self._served_here()
        for p in {*asked, *places}:
            now = self._clocks.now_ms(p)
            sweep = places.get(p, b"")
            some = permits.visit_calls(
                self._store, p, asked.get(p, {}), now, sweep=sweep, served=served, unable=list(self._unable)
            )
            calls += [(p, call) for call in some]
        places.clear()
        found: list[PoolReport] = []
        problem: BaseException | None = None

        async def timed(some: Sequence[ScriptCall]) -> list[Any]:
            # Of very many only so many round trips: all of them must come within `Apart`'s patience.
            size = max(_AT_ONCE, -(-len(some) // _TRIPS))
            answers: list[Any] = []
            for first in range(0, len(some), size):
                sent = local_ms()
                replies = await self._store.runner.run_many(some[first : first + size])
                received = local_ms()
                answers += [one if isinstance(one, BaseException) else (sent, received, one) for one in replies]
            return answers

        for (p, _), reply in zip(calls, await self._apart.send(timed, calls), strict=True):
            if isinstance(reply, BaseException):
                # An error has the loop wait, and with it all that need permits.
                problem = problem if isinstance(reply, PartAway) else reply
                for pool in asked.get(p, ()):
                    self._at(p, pool, local_ms() + _AGAIN_MS)
                continue
            sent, received, answer = reply
            seen = permits.visited(p, answer)
            self._clocks.of(p).observe(sent, received, seen.now_ms)
            if seen.place:
                places[p] = seen.place
            unable = self._note_unable(seen.with_needs)
            for one in seen.pools:
                self._note_unserved(p, one)
                if unable and _queue_of(one.pool[1:]) in unable:
                    self._at(p, one.pool, 0.0)  # it counted what nobody can run
                else:
                    found.append(one)
        return found, problem

    def _note_unable(self, lanes: Sequence[bytes]) -> set[bytes]:
        """Tasks wait in these lanes with needs, and counted. Those of lanes that nobody can run count no more;
        returns their queues."""
        room = permits.MOST_UNABLE - len(self._unable)
        unknown = [lane for lane in lanes if lane not in self._able and lane not in self._unable]
        served = self._by_members
        fresh = [lane for lane in unknown if served is not None and not served.has(lane)][:room]
        able = [lane for lane in unknown if lane not in fresh]
        self._able.update(able[: _MOST_ABLE - len(self._able)])
        if fresh:
            self._unable |= dict.fromkeys(fresh, local_ms() + _UNABLE_MS)
            # Other partitions have counted them as well.
            self._sweep_at = 0.0
        return {queue_of_lane(lane) for lane in fresh}

    def _others_wait(self, d: Delivery) -> bool:
        """Whether tasks that nobody serves wait for a permit that it used."""
        return any(b"c" + name in self._unserved for name in (queue_of_lane(d.lane), *d.limit_keys))

    def _note_unserved(self, p: int, one: PoolReport) -> None:
        if one.unserved and (one.pool in self._unserved or len(self._unserved) < _MOST_UNSERVED):
            self._unserved.setdefault(one.pool, set()).add(p)
        elif not one.unserved and (partitions := self._unserved.get(one.pool)):
            partitions.discard(p)
            if not partitions:
                del self._unserved[one.pool]

    def _served_here(self) -> Sequence[bytes]:
        """The lanes that are served of queues with limits; (): too many, so all count."""
        if self._served_now is None or self._served_now[0] != self._rules.version:
            lanes = [lane for lane in self._served if lane[1:] == _MARK or self._has_limits(lane)]
            self._served_now = self._rules.version, lanes if len(lanes) <= permits.MOST_SERVED else ()
        return self._served_now[1]

    def _has_limits(self, lane: bytes) -> bool:
        queue = queue_of_lane(lane).decode() or DEFAULT_QUEUE
        return queue == ANY_QUEUE or self._rules.of(queue).limited

    async def _deal(self, found: Sequence[PoolReport]) -> dict[int, dict[bytes, Grant | None]]:
        """Deals by what partitions report. Returns what is to be sent to which."""
        reports: dict[bytes, list[Needs]] = {}
        for one in found:
            reports.setdefault(one.pool, []).append(self._by_home(one))
        pools = {pool: self._pool(pool) for pool in reports}
        asked: dict[int, dict[bytes, Grant | None]] = {}
        left, lost = list(reports), set[bytes]()
        for _ in range(_TRIES):
            if not left:
                break
            raws = await permits.records(self._store, left, self._apart)
            changes: list[tuple[bytes, bytes, bytes]] = []
            grants: dict[bytes, list[Grant]] = {}
            for pool, raw in zip(left, raws, strict=True):
                if isinstance(raw, PartAway):
                    lost.add(pool)  # its reports come again
                    continue
                before: Ledger = permits.decode(raw)
                now = self._clocks.now_ms(permits.home(self._store, pool))
                most, hold_ms = pools[pool].permits, pools[pool].hold_ms
                after, grants[pool] = deal(before, reports[pool], most, now, rate=pool[:1] == b"r", hold_ms=hold_ms)
                new = permits.encode(after)
                if new != raw:
                    changes.append((pool, raw, new))
            late = set(await permits.swap(self._store, changes, self._apart)) if changes else set()
            for pool, some in grants.items():
                for grant in some if pool not in late else ():
                    asked.setdefault(grant.partition, {})[pool] = grant
            left = [pool for pool in left if pool in late]
        lost.update(left)
        for one in found:
            p, pool = one.report.partition, one.pool
            if one.free_ms >= 0:
                self._at(p, pool, self._clocks.of(p).local_at(one.free_ms))
            if one.report.want > one.report.budget:
                again = _MORE_AGAIN_MS if one.report.budget else _AGAIN_MS
                self._at(p, pool, local_ms() + (again if read_name(pool) is None else _KEYS_AGAIN_MS))
                if one.report.budget and pool not in lost:
                    self._on_record.setdefault(p, set()).add(pool)
        return asked

    def _by_home(self, one: PoolReport) -> Needs:
        """The report, with its moment by the clock of the server that has the pool's record: the clocks of two servers
        may differ by anything, and the record knows one of them."""
        there = self._clocks.of(one.report.partition)
        home = self._clocks.of(permits.home(self._store, one.pool))
        if there is home:
            return one.report
        return replace(one.report, at=int(one.report.at + home.now_ms() - there.now_ms()))

    def _pool(self, pool: bytes) -> Pool:
        """With no permits where there is no such limit any more."""
        name = pool[1:]
        return next((one for one in self._rules_of(name).pools_of(name) if one.name == pool), Pool(pool, 0))


def _queue_of(name: bytes) -> bytes:
    """The queue of a name that pools have, of a queue or a limit key; as lanes spell it."""
    key = read_name(name)
    return name if key is None else key.queue
