"""How much of a rate is used while work waits, in virtual time: engines bring permits to partitions and these claim,
with the delays of a busy machine. What scripts do to permits stands here in Python; the rest is the product's own."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from delaybox.core.partition import of_key
from delaybox.core.queue import LiveRules, QueueRules
from delaybox.core.queue_limits import rate_of
from delaybox.engine import clock_estimate, permit_dealer
from delaybox.engine.clock_estimate import Clocks
from delaybox.engine.ownership import Ownership
from delaybox.engine.permit_dealer import PermitDealer
from delaybox.processes import waking
from delaybox.store.loader import ScriptCall
from tests.virtual_time import VirtualLoop

START_S = 10_000.0
POOL = b"rpaced"
CAP_MS = 1_000
WARM = 3


@dataclass
class Place:
    """A partition, as claim.lua and permits.lua do it. ``waiting``: deadlines of tasks; ``used``: until when each
    permit in use is used."""

    waiting: deque[int] = field(default_factory=deque)
    budget: int = 0
    seq: int = 0
    cap: int = 0
    upto: int = 0
    used: list[int] = field(default_factory=list)
    woken: asyncio.Event = field(default_factory=asyncio.Event)

    def usable(self, now: int) -> int:
        self.used = sorted(until for until in self.used if until >= now)
        return min(self.budget, self.cap) if now < self.upto else self.budget

    def room_at(self, now: int) -> int:
        """When there is room; -1: not by time alone."""
        most = self.usable(now)
        if most > len(self.used):
            return now
        return self.used[len(self.used) - most] + 1 if most else -1

    def visit(self, grant: Sequence[int], now: int, most: int) -> list[Any]:
        seq, budget, good, cap = grant
        if seq > self.seq and now <= good:
            self.budget, self.seq, self.upto = budget, seq, 0
        if cap >= 0:
            self.cap, self.upto = cap, now + CAP_MS
        self.usable(now)
        used, had = len(self.used), self.budget
        want = min(used + len(self.waiting), most)
        if now < self.upto:
            self.budget = min(self.budget, max(self.cap, used))
        if cap == -2:
            self.budget = min(self.budget, max(want, used))
        free = self.used[0] + 1 if self.used and now < self.upto and self.budget > self.cap else -1
        if self.room_at(now) == now:
            self.woken.set()
        return [POOL, self.budget, self.seq, want, self.waiting[0] if self.waiting else 0, self.budget < had, free, 0]


class World:
    """Partitions at servers, as far as a `PermitDealer` knows them. Each way to them and back takes up to ``slow_ms``.

    ``behind_ms``: by how much the clock of the second server is behind that of the first, which has the pool's record;
    every other partition lies there. 0: there is one server.
    """

    def __init__(self, partitions: int, rate: str, tasks: int, seed: int, slow_ms: int, *, behind_ms: int = 0) -> None:
        self.random = random.Random(seed)
        self.slow_ms = slow_ms
        self.behind_ms = behind_ms
        home = of_key(POOL, partitions)
        self.shards = [int(bool(behind_ms) and p % 2 != home % 2) for p in range(partitions)]
        self.visits = 0
        """How often a partition was asked."""
        self.together = 0
        """Most partitions in one round trip."""
        self.rules = LiveRules()
        limits = QueueRules(rate=rate_of(rate))
        self.rules.take(1, {"paced": limits})
        (self.pool,) = limits.pools("paced")
        self.places = [Place() for _ in range(partitions)]
        for n in range(tasks):
            self.random.choice(self.places).waiting.append(n)
        self.record = b""
        self.claims: list[int] = []
        self.left = tasks
        # As `Store` has them.
        self.partitions = partitions
        self.tags = [str(p) for p in range(partitions)]
        self.runner = self.servers = self

    def now(self, shard: int = 0) -> int:
        return int(asyncio.get_running_loop().time() * 1000) - self.behind_ms * shard

    async def pause(self) -> None:
        await asyncio.sleep(self.random.uniform(1, self.slow_ms) / 1000)

    async def run_many(self, calls: Sequence[ScriptCall]) -> list[Any]:
        await self.pause()
        self.together = max(self.together, len(calls))
        replies: list[Any] = []
        for call in calls:
            args, place = call.args, self.places[int(call.tag)]
            if call.script == "ledger":
                done = args[1] == self.record
                self.record = args[2] if done else self.record
                replies.append([int(done)])
            else:
                # A sweep also reports what nobody asked for.
                asked = args[3:7] if len(args) > 2 else (0, 0, 0, -2 if args[0] else -1)
                self.visits += 1
                now = self.now(self.shards[int(call.tag)])
                replies.append([now, b"", [], place.visit(asked, now, self.pool.permits)])
        await self.pause()
        return replies

    async def replies(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        await self.pause()
        await self.pause()
        known = {"HGET": self.record, "TIME": (b"0", b"0")}
        return [known.get(command[0], 1) for command in commands]

    async def keep_time(self, p: int, mine: PermitDealer) -> None:
        """What a tracker does for one partition."""
        place, shard = self.places[p], self.shards[p]
        while True:
            now = self.now(shard)
            at = place.room_at(now)
            if at > now or at < 0:
                place.woken.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(place.woken.wait(), 1.0 if at < 0 else (at - now) / 1000)
            await self.pause()
            now = self.now(shard)
            count = min(max(place.usable(now) - len(place.used), 0), len(place.waiting))
            for _ in range(count):
                place.waiting.popleft()
                place.used.append(now + self.pool.hold_ms)
            self.claims += [self.now()] * count
            self.left -= count
            if place.waiting:
                mine.waits(p, {b"paced": place.budget == 0})
            else:
                place.woken.clear()
                await place.woken.wait()


async def used(world: World, engines: int, part: float) -> float:
    """The share of the rate that was used until this part of the tasks was claimed."""
    loops: list[asyncio.Task[None]] = []

    async def steps(one: PermitDealer) -> None:
        while True:
            await one.step()

    for engine in range(engines):
        ownership = Ownership(world.partitions)
        ownership.assign(frozenset(range(engine, world.partitions, engines)), frozenset())
        clocks = Clocks(lambda: world.shards)
        for shard in {*world.shards}:
            clocks.at(shard).observe(world.now(), world.now(), world.now(shard))
        one = PermitDealer(world, world.rules, ownership, clocks, keeps=True)  # type: ignore[arg-type]
        loops.append(asyncio.ensure_future(steps(one)))
        loops += [asyncio.ensure_future(world.keep_time(p, one)) for p in ownership.kept]
    total = world.left
    while world.left > total * (1 - part):
        await asyncio.sleep(0.1)
        for task in loops:
            if task.done():
                task.result()
    for task in loops:
        task.cancel()
    await asyncio.gather(*loops, return_exceptions=True)
    most, interval, claims = world.pool.permits, world.pool.hold_ms, world.claims
    assert all(b - a >= interval for a, b in zip(claims, claims[most:], strict=False))
    # A permit is used again after an interval and what is lost. The first partition gets all permits, and it takes some
    # intervals until each has its part.
    gaps = [b - a for a, b in zip(claims, claims[most:], strict=False)][WARM * most :]
    return interval * len(gaps) / sum(gaps)


def run(monkeypatch: pytest.MonkeyPatch, world: World, engines: int, part: float) -> float:
    loop = VirtualLoop(START_S)
    # The moments at which sweeps come differ by process, and what is used by half a hundredth with them.
    monkeypatch.setattr(waking, "_PHASE_S", 0.0)
    for module in (permit_dealer, clock_estimate):
        monkeypatch.setattr(module, "local_ms", lambda: loop.time() * 1000)
    try:
        return loop.run_until_complete(used(world, engines, part))
    finally:
        loop.close()


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("rate", "tasks", "least"), [("50/s", 800, 0.98), ("5/s", 120, 0.95)])
def test_a_rate_is_used_while_work_waits(
    monkeypatch: pytest.MonkeyPatch, rate: str, tasks: int, least: float, seed: int
) -> None:
    assert run(monkeypatch, World(16, rate, tasks, seed, slow_ms=15), 3, 0.9) >= least


@pytest.mark.parametrize("behind_ms", [300, 11_000, -11_000])
def test_clocks_of_servers_may_differ(monkeypatch: pytest.MonkeyPatch, behind_ms: int) -> None:
    """Reports are compared by one clock. By two, partitions of a server that is behind were asked without end whether
    they still need what they have (300 ms), or their wishes were too old to count (11 s)."""
    alike, world = (World(4, "20/s", 400, 1, slow_ms=15, behind_ms=ms) for ms in (0, behind_ms))
    before = [len(place.waiting) for place in world.places]
    for one in (alike, world):
        run(monkeypatch, one, 2, 0.3)
    begun = [count - len(place.waiting) for count, place in zip(before, world.places, strict=True)]
    assert min(begun) > 10, f"each partition has its part: {begun}"
    assert world.visits < 1.3 * alike.visits


def test_who_could_use_more_is_not_asked_with_each_claim(monkeypatch: pytest.MonkeyPatch) -> None:
    """It stands on record. With each claim the server had more work by permits than by what was claimed, and that of 16
    partitions came in one piece: tasks of other queues waited for it."""
    world = World(16, "100/s", 3_000, 1, slow_ms=2)
    assert run(monkeypatch, world, 1, 0.6) >= 0.98
    assert world.visits < 0.8 * len(world.claims) and world.together <= 4
