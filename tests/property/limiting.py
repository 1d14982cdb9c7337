"""Steps of a sequence with rules of queues: pauses, and limits of queues and of keys within them."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any

from delaybox.core.lane import split
from delaybox.core.limit_keys import KeyLimit, name_of, value_of
from delaybox.core.queue import LiveRules, QueueRules
from delaybox.core.queue_limits import Pool, rate_of
from delaybox.engine.clock_estimate import Clocks
from delaybox.engine.ownership import Ownership
from delaybox.engine.permit_dealer import PermitDealer
from delaybox.store import rules
from tests.lab import CLOCK_KEY
from tests.property.checks import Checks
from tests.property.model import State, Task

QUEUES = ["default", "mail", "a.b-c"]
BY = ["label:c", "group", "fairness_key"]


class Limiting(Checks):
    """Part of `driver.Sequence_`, whose helpers it uses."""

    rng: random.Random
    now: int

    def start_limiting(self) -> None:
        self.rules_version = 0
        self.limits: dict[str, QueueRules] = {}
        self.live, self.clocks = LiveRules(), Clocks(lambda: (0,) * self.store.partitions)
        self.dealer = PermitDealer(self.store, self.live, Ownership(self.store.partitions), self.clocks, keeps=True)
        self.began: dict[bytes, list[int]] = defaultdict(list)
        """When tasks began, by pool of a rate."""

    def note(self, *what: object) -> None:
        raise NotImplementedError

    async def pause(self) -> None:
        """Pauses or resumes a queue, or all that have no rule; several at once now and then."""
        for _ in range(self.rng.choice([1, 1, 3])):
            self.model.paused[self.rng.choice([*QUEUES, "*"])] = self.rng.choice([True, False, None])
        self.note("pause", self.model.paused)
        await self.steer()

    async def limit(self) -> None:
        """Sets other limits of a queue, or none."""
        rng = self.rng

        def some() -> dict[str, Any]:
            return rng.choice(
                [
                    {"concurrency": rng.choice([1, 2, 5])},
                    {"rate": rate_of(rng.choice(["1/s", "3/s", "5/10s"]))},
                    {"rate": rate_of("4/s"), "burst": 2, "concurrency": 3},
                ]
            )

        queue = rng.choice(QUEUES)
        by = rng.sample(BY, rng.choice([0, 0, 1, 2]))
        keys = tuple(KeyLimit(by=one, **some()) for one in by)
        weight = self.limits.get(queue, QueueRules()).weight
        self.limits[queue] = QueueRules(**(some() if rng.random() < 0.4 else {}), keys=keys or None, weight=weight)
        self.note("limit", queue, self.limits[queue])
        # What began under another rate counts by that one.
        self.began.clear()
        await self.steer()

    async def steer(self) -> None:
        self.rules_version += 1
        stored = {
            queue: QueueRules(paused=self.model.paused.get(queue)).over(self.limits.get(queue, QueueRules()))
            for queue in {*self.model.paused, *self.limits}
        }
        self.live.take(self.rules_version, stored)
        await rules.copy(self.store, range(self.store.partitions), self.rules_version, rules.codes(stored))

    async def bring_permits(self) -> None:
        """As engines do for what waits, now and then with the sweep of a time keeper."""
        sweeps = self.rng.sample(range(self.store.partitions), self.rng.choice([0, 0, 1, self.store.partitions]))
        asked: dict[int, dict[bytes, Any]] = {
            p: dict.fromkeys(pools) for p, pools in self.dealer._due.items() if self.rng.random() < 0.8
        }
        self.note("permits", sorted(asked), sweeps)
        for p in asked:
            del self.dealer._due[p]
        await self.dealer._settle(asked, sweeps)

    def wants(self, p: int, waits: Mapping[bytes, int]) -> None:
        """A claim answered what has no permits."""
        self.dealer.waits(p, waits)

    def pools_of(self, t: Task) -> list[Pool]:
        """What a task needs to begin now."""
        queue = split(t.lane).queue
        limits = self.limits.get(queue)
        if limits is None:
            return []
        found = limits.pools(queue)
        for limit in limits.keys or ():
            value = value_of(limit.by, labels=t.labels, fairness_key=t.fairness_key, group=t.group)
            if value is not None:
                found += limit.pools(name_of(b"" if queue == "default" else queue.encode(), limit.by, value))
        return found

    def limited(self, t: Task) -> bool:
        return bool(self.pools_of(t))

    def check_limits(self, task_ids: Collection[bytes], *, leased: bool) -> None:
        """No more run than each concurrency says, and no more began in any interval than each rate says."""
        for task_id in task_ids:
            t = self.model.tasks[task_id]
            pools = self.pools_of(t)
            t.permits = frozenset(pool.name for pool in pools if not pool.hold_ms)
            for pool in pools:
                if pool.hold_ms:
                    self.began[pool.name].append(self.now)
        running = [t for t in self.model.of(State.LEASED) if t.permits]
        for task_id in task_ids:
            for pool in self.pools_of(self.model.tasks[task_id]):
                if not pool.hold_ms:
                    count = sum(pool.name in t.permits for t in running)
                    assert not leased or count <= pool.permits, f"{count} run of {pool}"
                    continue
                times = self.began[pool.name]
                for first in times:
                    count = sum(first <= at < first + pool.hold_ms for at in times)
                    assert count <= pool.permits, f"{count} of {pool} began within {pool.hold_ms} ms: {times}"

    async def forget_permits(self) -> None:
        """When all has ended nothing is left of limits, once time keepers have looked."""
        for _ in range(3):
            self.now += 20_000
            await self.client.set(CLOCK_KEY, self.now)
            await self.dealer._settle({}, range(self.store.partitions))
