"""A fleet under a virtual clock: who keeps time for what, how many members there are, what limits let through, and
whose turn it is are the product's own decisions; everything else is a model, and fate comes from a seed."""

from __future__ import annotations

import itertools
import random
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush

from delaybox.core.lane import split
from delaybox.core.ownership import Candidate, assigned
from delaybox.core.queue_limits import GRANT_MS, Grant, Needs, Share, deal, rate_of
from delaybox.core.scaling import CoolDown, Goal, Load, needed
from delaybox.core.shares import Shares
from tests.faults.simulated.partition import Partition, Task

PARTITIONS = 8
BEAT_MS, GONE_MS = 500, 2_500
"""Members beat so often, and are taken off the list when they have been silent for so long."""
TURN_MS = 40
STAND_IN_MS = 150
LEASE_MS = 3_000
STARTS_MS = 2_000
PLACES = 10
LEAST, MOST = 2, 8
RATE, PACED, NARROW, MOST_AT_ONCE = 20, "paced", "narrow", 5
WEIGHTS = {"one": 1.0, "three": 3.0, PACED: 1.0, NARROW: 1.0}
COOL_DOWN_S = 20.0
POOLS: dict[str, float] = {PACED: 1_000.0, NARROW: float("inf")}
UNKEPT_MS = GONE_MS + 2 * BEAT_MS + 2 * TURN_MS
"""No partition may be left alone for longer after the last harm, though its owner and its stand-in died together."""


class Broken(AssertionError):
    """A promise does not hold in this world."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a control takes out. ``deal``: how permits are dealt; ``stand_in``: whether anybody steps in; ``counted``:
    whether a taker counts what it took; ``backlog``: whether it counts for how many are needed."""

    deal: Callable[..., tuple[dict[int, Share], list[Grant]]] = deal
    stand_in: bool = True
    counted: bool = True
    backlog: bool = True


WHOLE = Rules()


@dataclass
class Member:
    """One process. ``has``: the tasks in its hands, and under which delivery."""

    name: str
    shares: Shares
    frozen_until: int = 0
    dead: bool = False
    leaving: bool = False
    owned: set[int] = field(default_factory=set)
    stands_in: set[int] = field(default_factory=set)
    has: dict[int, int] = field(default_factory=dict)


class Fleet:
    """A world with a store of some partitions and members that come and go. All times are ms."""

    def __init__(self, seed: int, rules: Rules = WHOLE, *, calm: bool = False) -> None:
        self.now = 1_000_000
        self.draw = random.Random(seed)
        self.rules, self.calm = rules, calm
        self.partitions = [Partition(n, POOLS) for n in range(PARTITIONS)]
        self.members: dict[str, Member] = {}
        self.did: Counter[str] = Counter()
        self.taken: Counter[str] = Counter()
        self.done: Counter[int] = Counter()
        self.runs = self.changes = 0
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._numbers = itertools.count()
        self._names = itertools.count()
        self._beats: dict[str, int] = {}
        self._leases: dict[int, tuple[Task, int, int, int]] = {}
        self._tokens: Counter[int] = Counter()
        self._ledgers: dict[str, dict[int, Share]] = {queue: {} for queue in POOLS}
        self._paced: deque[int] = deque()
        self._narrow = 0
        self._cool_down = CoolDown(COOL_DOWN_S)
        self._coming = 0
        self._harmed_at = self.now
        self.longest_alone = 0

    # -- time -----------------------------------------------------------------------------------------------------

    def at(self, when: int, what: Callable[[], None]) -> None:
        heappush(self._events, (when, next(self._order), what))

    def run(self, for_ms: int, until: Callable[[], bool] | None = None) -> None:
        """Lets time pass; until ``until`` at most, which must come true in it."""
        end = self.now + for_ms
        while self._events and self._events[0][0] <= end:
            self.now, _, what = heappop(self._events)
            what()
            if until is not None and until():
                return
        self.now = end
        if until is not None:
            raise Broken(f"after {for_ms} ms work is left: {[p.number for p in self.partitions if not p.empty()]}")

    def _every(self, ms: int, what: Callable[[], None]) -> None:
        def again() -> None:
            what()
            self.at(self.now + ms, again)

        self.at(self.now, again)

    # -- members --------------------------------------------------------------------------------------------------

    def start(self, members: int) -> None:
        for _ in range(members):
            self.join()
        self._every(50, self._permits)
        self._every(200, self._reap)
        self._every(TURN_MS, self._kept)

    def scales(self) -> None:
        """From now on there are as many members as are needed."""
        self._every(1_000, self._scale)

    def join(self) -> None:
        member = Member(f"m{next(self._names)}", Shares(WEIGHTS.__getitem__))
        self.members[member.name] = member
        self._beat(member)
        self._turn(member)

    def _up(self, member: Member, again: Callable[[Member], None]) -> bool:
        """Whether it goes on now; one that stands still does when it is let go on."""
        if member.dead:
            return False
        if member.frozen_until > self.now:
            self.at(member.frozen_until, lambda: again(member))
            return False
        return True

    def _beat(self, member: Member) -> None:
        if not self._up(member, self._beat):
            return
        self._beats[member.name] = self.now
        view = sorted(name for name, at in self._beats.items() if self.now - at < GONE_MS)
        table = assigned([Candidate(name, name) for name in view], PARTITIONS)
        member.owned = {p for p, one in enumerate(table) if one.owner == member.name}
        member.stands_in = {p for p, one in enumerate(table) if one.stand_in == member.name}
        if member.leaving and not member.has:
            self._gone(member)
            del self._beats[member.name]
            return
        self.at(self.now + BEAT_MS + self.draw.randrange(100), lambda: self._beat(member))

    def _gone(self, member: Member) -> None:
        member.dead = True
        del self.members[member.name]

    def _turn(self, member: Member) -> None:
        """What an engine does again and again: it keeps time for its partitions, and claims for its free places."""
        if not self._up(member, self._turn):
            return
        for p in member.owned:
            self.partitions[p].look(self.now)
        for p in member.stands_in if self.rules.stand_in else ():
            if self.now - self.partitions[p].looked_at > STAND_IN_MS:
                self.partitions[p].look(self.now)
        if not member.leaving and len(member.has) < PLACES:
            self._claim(member)
        self.at(self.now + TURN_MS + self.draw.randrange(10), lambda: self._turn(member))

    def _claim(self, member: Member) -> None:
        order = self.draw.sample(range(PARTITIONS), PARTITIONS)
        waiting = {p: one for p in order if (one := self.partitions[p].waits()).critical or one.others}
        parts = member.shares.plan(PLACES - len(member.has), waiting, 250)
        lanes: Counter[bytes] = Counter()
        critical = 0
        for p, part in parts.items():
            for task in self.partitions[p].claim(part.critical, part.lanes, self.now):
                self._begin(member, p, task)
                if task.critical:
                    critical += 1
                else:
                    lanes[b"w" + task.queue.encode()] += 1
        if self.rules.counted:
            member.shares.took(critical, lanes)
        self.taken.update({split(lane).queue: count for lane, count in lanes.items()})

    def _begin(self, member: Member, p: int, task: Task) -> None:
        if self.now < task.due:
            raise Broken(f"task {task.number} is early by {task.due - self.now} ms")
        self.runs += 1
        self._tokens[task.number] += 1
        token = self._tokens[task.number]
        member.has[task.number] = token
        self._leases[task.number] = (task, p, token, self.now + LEASE_MS)
        if task.queue == NARROW and not task.critical:
            self._narrow += 1
            if self._narrow > MOST_AT_ONCE:
                raise Broken(f"{self._narrow} tasks of {NARROW} run, and {MOST_AT_ONCE} may")
        if task.queue == PACED and not task.critical:
            self._paced.append(self.now)
            while self._paced[0] <= self.now - 1_000:
                self._paced.popleft()
            if len(self._paced) > RATE:
                raise Broken(f"{len(self._paced)} tasks of {PACED} began within a second, and {RATE} may")
        self.at(self.now + task.takes_ms, lambda: self._end(member, task, token))

    def _end(self, member: Member, task: Task, token: int) -> None:
        if not self._up(member, lambda one: self._end(one, task, token)):
            return
        member.has.pop(task.number, None)
        lease = self._leases.get(task.number)
        if lease is not None and lease[2] == token:
            self.done[task.number] += 1
            self._free(task.number)

    def _free(self, number: int) -> Task:
        task, p, _, _ = self._leases.pop(number)
        self.partitions[p].ended(task)
        self._narrow -= task.queue == NARROW and not task.critical
        return task

    def _reap(self) -> None:
        """What lies in a lease that ended is ready again; healthy members keep theirs."""
        holders = {number: member for member in self.members.values() for number in member.has}
        for number, (task, p, token, until) in [*self._leases.items()]:
            member = holders.get(number)
            if member is not None and member.frozen_until <= self.now and member.has[number] == token:
                self._leases[number] = (task, p, token, self.now + LEASE_MS)
            elif until <= self.now:
                self.partitions[p].put(self._free(number))

    # -- permits --------------------------------------------------------------------------------------------------

    def _permits(self) -> None:
        """Each queue with a limit is settled, by somebody; reports and grants get lost, or come late."""
        for queue in POOLS:
            reports = [p.permits[queue].visit(None, 0, self.now) for p in self.partitions]
            reports = [one for one in reports if (one.want or one.budget) and not self._lost()]
            for _ in range(4):
                grants = self._dealt(queue, reports)
                reports = [needs for grant in grants if (needs := self._granted(queue, grant)) is not None]
                if not reports:
                    break

    def _dealt(self, queue: str, reports: list[Needs]) -> list[Grant]:
        most = rate_of(f"{RATE}/s").permits(None)[0] if queue == PACED else MOST_AT_ONCE
        self._ledgers[queue], grants = self.rules.deal(
            self._ledgers[queue], reports, most, self.now, rate=queue == PACED
        )
        return grants

    def _granted(self, queue: str, grant: Grant) -> Needs | None:
        made, permits = self.now, self.partitions[grant.partition].permits[queue]
        if self._lost():
            return None
        if not self.calm and self.draw.random() < 0.05:
            late = self.draw.choice((50, 1_900, 2_500))
            self.at(made + late, lambda: self._late(queue, grant, made))
            return None
        return permits.visit(grant, made + GRANT_MS, self.now)

    def _late(self, queue: str, grant: Grant, made: int) -> None:
        self.partitions[grant.partition].permits[queue].visit(grant, made + GRANT_MS, self.now)

    def _lost(self) -> bool:
        return not self.calm and self.draw.random() < 0.1

    # -- how many -------------------------------------------------------------------------------------------------

    def _scale(self) -> None:
        backlog: Counter[str] = Counter()
        steps: dict[str, Counter[int]] = {}
        for p in self.partitions:
            backlog.update(p.backlog())
            for task in p.pending():
                step = (task.due - self.now) // 5_000
                if step < 6 and task.queue not in POOLS:
                    steps.setdefault(task.queue, Counter())[step] += 1
        loads = [
            Load(
                name=queue,
                busiest_per_s=max(steps.get(queue, {0: 0}).values()) / 5,
                backlog=backlog[queue] if self.rules.backlog else 0,
                service_ms=250,
            )
            for queue in {*steps, *backlog}
        ]
        wanted, _ = needed(loads, Goal(places_each=PLACES, least=LEAST, most=MOST))
        wanted = self._cool_down.settled(wanted, self.now / 1_000)
        here = [one for one in self.members.values() if not one.leaving]
        for _ in range(wanted - len(here) - self._coming):
            self.changes += 1
            self._coming += 1
            self.at(self.now + STARTS_MS, self._came)
        for member in here[wanted:]:
            self.changes += 1
            member.leaving = True

    def _came(self) -> None:
        self._coming -= 1
        self.join()

    # -- harm -----------------------------------------------------------------------------------------------------

    def harm(self) -> None:
        """One thing to one member, or to two at a time."""
        what = self.draw.choice(("kill", "kill two", "freeze", "freeze"))
        self.did[what] += 1
        self._harmed_at = self.now
        for member in self.draw.sample([*self.members.values()], min(len(self.members), 2 if "two" in what else 1)):
            if what == "freeze":
                member.frozen_until = self.now + self.draw.choice((300, 1_500, 6_000))
                continue
            self.kill(member)

    def kill(self, member: Member | None = None) -> None:
        """It dies, or the first one does; another comes in its place."""
        self._gone(member or next(iter(self.members.values())))
        self.at(self.now + STARTS_MS, self.join)

    def _kept(self) -> None:
        """Whoever is well sees to it that no partition is left alone."""
        if any(m.frozen_until > self.now for m in self.members.values()):
            # It counts as long as it stands still, for it may be the owner's successor.
            self._harmed_at = self.now
        for p in self.partitions:
            self.longest_alone = max(self.longest_alone, self.now - p.looked_at)
            alone = self.now - max(p.looked_at, self._harmed_at)
            if alone > UNKEPT_MS:
                raise Broken(f"nobody has kept time for partition {p.number} for {alone} ms")

    # -- work -----------------------------------------------------------------------------------------------------

    def schedule(self, count: int, queue: str, within_ms: int, *, critical: float = 0.0) -> None:
        """So many tasks of a queue, due at random within that time."""
        for _ in range(count):
            task = Task(
                self.now + self.draw.randrange(within_ms),
                next(self._numbers),
                queue,
                self.draw.random() < critical,
                self.draw.randrange(50, 450),
            )
            self.draw.choice(self.partitions).store(task)

    def scheduled(self) -> int:
        """How many tasks there are in all."""
        return next(self._numbers)

    def over(self) -> bool:
        return not self._leases and all(p.empty() for p in self.partitions)
