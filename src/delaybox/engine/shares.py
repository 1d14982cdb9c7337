"""Decides what a taker with fewer slots than work claims where: it looks at its partitions, and divides its slots."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from delaybox.core.errors import DelayBoxError, PartAway
from delaybox.core.queue import LiveRules
from delaybox.core.shares import Part, Shares, Waiting
from delaybox.core.stretches import APART_MS
from delaybox.core.task import Priority, TaskType
from delaybox.core.waits import slack_ms
from delaybox.engine.clock_estimate import local_ms
from delaybox.store import keys
from delaybox.store.looks import first, reachable, score
from delaybox.store.record import critical_and_lanes
from delaybox.store.servers import Command
from delaybox.store.store import ClaimLimits, Store
from delaybox.store.survey import SHARED, met, packed, survey_call, waiting

_FRESH_MS = 15.0
"""How long a look at the partitions counts, less what was claimed since."""
_PLAIN_MS = 1_000.0
"""How long it counts where no queue has rules and something is left of what it saw. Then what comes due meanwhile can
stand in front of that only as a task of another priority, which is asked for with plain commands instead: looks were
over a third of what a store did for workers that free few slots at a time (four nodes with 200 places each, functions
of 50 ms: 6,661 scripts for 40,000 tasks, 4,284 so)."""
_MOST_BY_LOOK = 1_000
"""Tasks of one partition that are planned by one look: it knows only how far apart the first of them are."""
_CRITICAL_MS = 5.0
"""How long it counts for critical tasks. Whether one has come due since is asked with plain commands, 16 partitions in
less time than a look takes at one: by looks alone half of the critical tasks waited 15 ms to be found."""
_UNDER_WAY_MS = 40.0
"""How long both count while a claim is under way: the answer would wait for that, up to 17 ms where claims bring a
thousand tasks together, and the server would have nothing to do when it comes."""
_DEEPER = 4
"""More looks, at most, before a decision, at partitions in which due work lies behind what a look made ready: a queue
gets nothing of its share while its tasks lie behind a backlog of another one."""
_BY_KEYS = 60
"""So many tasks are never too few: a claim looks up 64 fairness keys at most, and some of them have nothing."""
_MOST_TIMES = 3
"""A partition that gives too little again and again is last in up to 7 plans, so it still gets one of eight."""
_LOOKS = 64
"""Partitions that one look covers; where more have work left, the next look covers others."""


class Chooser:
    """The decisions of one taker. ``rules``: of queues.

    A partition is *pressed* while more waits there than the taker had slots for. Only then does it look and decide:
    where everything that is due can be taken, there is nothing to choose.
    """

    def __init__(self, store: Store, rules: LiveRules, *, guest: bool) -> None:
        self._store = store
        self._rules = rules
        self._guest = guest
        self._version = -1
        self._weighted = False
        self._shares = Shares(lambda queue: rules.of(queue).weight or 1.0)
        self._pressed: set[int] = set()
        self._waiting: dict[int, Waiting] = {}
        self._whole: set[int] = set()
        self._looked: dict[int, float] = {}
        self._planned: Counter[int] = Counter()
        self._asked_earlier = self._asked_critical = 0.0
        self._none_near = False
        """Whether nothing stood in any near index that was asked for last, as where all that waits is ready."""
        self._named: dict[tuple[object, ...], dict[int, list[str]]] = {}
        """The keys that `_any` asks for, by question and partition: to name 80 of them anew took most of its time."""
        self._not_ours: dict[int, list[_Head]] = {}
        self._ready_not_ours: dict[int, int] = {}
        self._asked: dict[int, int] = {}
        self._poor: dict[int, tuple[int, int]] = {}
        self.met: list[bytes] = []
        """Lanes with needs that the last look met: no claim meets them where what is claimed is chosen by looks."""
        self._turn = 0

    @property
    def weighted(self) -> bool:
        """Whether a queue has a weight."""
        if self._version != self._rules.version:
            self._version = self._rules.version
            self._weighted = any(rules.weight is not None for rules in self._rules.stored.values())
        return self._weighted

    @property
    def default(self) -> bytes:
        """The plan of a claim that nothing was decided for."""
        return SHARED if self.weighted else b""

    def press(self, partitions: Iterable[int]) -> None:
        """There may be work in these that there were no slots for."""
        self._pressed.update(partitions)

    def presses(self, partition: int) -> bool:
        """Whether there may be work in it that there were no slots for."""
        return partition in self._pressed

    def filled(self, partition: int) -> None:
        """A claim from there took all that it asked for, so more may wait.

        Not where it asked for all that a look saw and slots were left: a limited queue with one free permit would be
        looked at again after each of its tasks, in all partitions that are due.
        """
        if partition in self._whole:
            self.relieve(partition)
        else:
            self.press([partition])

    def relieve(self, partition: int) -> None:
        """All that was due there was taken."""
        self._pressed.discard(partition)
        self._waiting.pop(partition, None)

    def chooses(self, due: Sequence[int]) -> bool:
        """Whether `parts` may have something to choose among these partitions, as it seldom has."""
        self._whole.difference_update(due)
        return not self._pressed.isdisjoint(due)

    async def parts(
        self,
        due: Sequence[int],
        room: Callable[[], int],
        most: int,
        types: str,
        lanes_at: Callable[[int], tuple[bytes, ...]],
        *,
        under_way: bool = False,
    ) -> dict[int, Part] | None:
        """What to claim from which of the partitions; None: nothing is to be chosen. StoreUnavailable.

        ``room``: how many slots are free; it is asked when the look is over, because slots that came free meanwhile
        would stay empty until the next claim. ``under_way``: whether a claim is.
        """
        if not self.chooses(due):
            return None
        due = due if len(due) <= _LOOKS else self._in_turn(due)[:_LOOKS]
        if old := self._old(due):
            await self._look_again(old, types, lanes_at)
        if len(old) == len(due):
            self._asked_earlier = self._asked_critical = local_ms()
        elif local_ms() - self._asked_earlier > (_UNDER_WAY_MS if under_way else _FRESH_MS):
            await self._find_earlier(due, range(4), types, lanes_at)
            self._asked_earlier = self._asked_critical = local_ms()
        elif local_ms() - self._asked_critical > (_UNDER_WAY_MS if under_way else _CRITICAL_MS):
            await self._find_earlier(due, range(1), types, lanes_at)
            self._asked_critical = local_ms()
        here = {p: self._waiting[p] for p in self._in_turn(due) if p in self._waiting}
        elsewhere = {lane for p, one in self._waiting.items() if p not in here for lane in one.lanes}
        slots = room()
        parts = self._shares.plan(slots, self._without_poor(here), most, elsewhere)
        if not parts:
            # It lies where a look does not see it, so a claim finds it.
            self._pressed.difference_update(due)
            return None
        spare = sum(part.total for part in parts.values()) < slots
        for p, part in parts.items():
            self._waiting[p] = after = self._waiting[p].less(part)
            self._planned[p] += part.total
            if spare and not after.critical and not after.others:
                self._whole.add(p)
        # Where a look has found nothing a claim says when to come again: else there was a look every `_FRESH_MS`.
        return parts | {p: Part() for p in old if p in here and p not in parts and not _left(self._waiting[p])}

    def _old(self, due: Sequence[int]) -> Sequence[int]:
        """The partitions of which too little is known."""
        now = local_ms()
        if not any(_left(self._waiting[p]) for p in due if p in self._waiting):
            return due
        if self._rules.stored:
            return due if any(p not in self._waiting or now - self._looked[p] > _FRESH_MS for p in due) else ()

        def old(p: int) -> bool:
            age = now - self._looked[p]
            if not _left(self._waiting[p]):
                return age > _FRESH_MS
            return age > _PLAIN_MS or self._planned[p] >= _MOST_BY_LOOK

        return [p for p in due if p not in self._waiting or old(p)]

    async def _look_again(
        self, partitions: Sequence[int], types: str, lanes_at: Callable[[int], tuple[bytes, ...]]
    ) -> None:
        """A look at partitions, and deeper where queues have weights."""
        self.met = []
        found = await self._look(partitions, types, lanes_at)
        for _ in range(_DEEPER if self.weighted else 0):
            deepest = max(found, key=lambda p: _unseen(found[p]), default=-1)
            if deepest < 0 or _unseen(found[deepest]) <= 0 or any(one.critical for one in found.values()):
                break
            before = found[deepest]
            found |= await self._look([deepest], types, lanes_at)
            if _unseen(found[deepest]) >= _unseen(before):
                break
        # What waits where claims are under way was seen before, and waits still.
        self._waiting = {p: one for p, one in self._waiting.items() if p in self._pressed} | found

    async def _look(
        self, partitions: Sequence[int], types: str, lanes_at: Callable[[int], tuple[bytes, ...]]
    ) -> dict[int, Waiting]:
        calls = [
            survey_call(self._store, p, types=types, lanes=lanes_at(p), guest=self._guest, weighted=self.weighted)
            for p in partitions
        ]
        replies = dict(zip(partitions, await self._store.runner.run_many(calls), strict=True))
        good = {p: reply for p, reply in replies.items() if not isinstance(reply, BaseException)}
        self.met += [lane for reply in good.values() for lane in met(reply)]
        now = local_ms()
        for p in good:
            self._looked[p], self._planned[p] = now, 0
            self._ready_not_ours.pop(p, None)
        return {p: waiting(reply) for p, reply in good.items()}

    async def _find_earlier(
        self, due: Sequence[int], priorities: range, types: str, lanes_at: Callable[[int], tuple[bytes, ...]]
    ) -> None:
        """Looks again at partitions where a task of these priorities is due now and stands in front of what was seen:
        a critical one where none was seen, another one whose virtual deadline is earlier."""
        letters = _near_letters(types, guest=self._guest)
        indexes = [(priority, letter) for priority in priorities for letter in letters]
        seen = {p: self._waiting[p] for p in due if p in self._waiting}
        asked = [p for p, one in seen.items() if len(priorities) > 1 or not one.critical]
        if (len(priorities) == 1 or self._none_near) and not await self._any(asked, indexes, types):
            return

        def heads_of(tag: str) -> list[Command]:
            # Claims, this taker's own as well, make ready what is due and not planned: it is in near no more.
            ready = [("ZCARD", keys.active(tag, letter, critical=True)) for letter in types]
            return [*(first(keys.near(tag, *index)) for index in indexes), *ready]

        try:
            now, replies = await reachable(self._store, asked, heads_of)
        except DelayBoxError:
            # The next look says what is wrong.
            return
        self._none_near = not any(any(heads) for heads in replies if not isinstance(heads, PartAway))
        found: dict[int, list[_Head]] = {}
        ready: dict[int, int] = {}
        for p, heads in zip(asked, replies, strict=True):
            if isinstance(heads, PartAway):
                continue
            for (priority, _), head in zip(indexes, heads[: len(indexes)], strict=True):
                one = _Head(priority, score(head), head[0][0] if head else b"")
                # A task that others serve may stand in front for long.
                if 0 <= one.due_ms <= now and one.before(seen[p]) and one not in self._not_ours.get(p, ()):
                    found.setdefault(p, []).append(one)
            ready[p] = sum(heads[len(indexes) :])
            if ready[p] and not seen[p].critical and ready[p] != self._ready_not_ours.get(p):
                found.setdefault(p, [])
        if found:
            looked = await self._look(list(found), types, lanes_at)
            self._waiting |= looked
            for p, one_seen in looked.items():
                kept = self._not_ours.get(p, [])[-len(indexes) :]
                self._not_ours[p] = kept + [one for one in found[p] if one.before(one_seen)]
                if ready[p] and not one_seen.critical:
                    self._ready_not_ours[p] = ready[p]

    async def _any(self, partitions: Sequence[int], indexes: Sequence[tuple[int, str]], types: str) -> bool:
        """Whether any of these near indexes, or of the sets of critical ready work, holds something: mostly none does,
        and one command for all of them says so. On a cluster it is not asked, because they lie in many slots."""
        if self._store.servers.sharded or not partitions:
            return bool(partitions)
        known = self._named.setdefault((*indexes, types), {})
        for p in partitions:
            if p not in known:
                tag = self._store.tags[p]
                known[p] = [keys.near(tag, *index) for index in indexes]
                known[p] += [keys.active(tag, letter, critical=True) for letter in types]
        named = [name for p in partitions for name in known[p]]
        try:
            return bool(await self._store.servers.ask("EXISTS", *named))
        except DelayBoxError:
            return True

    def planned(
        self,
        due: Sequence[int],
        limits: ClaimLimits,
        parts: Mapping[int, Part],
        lanes_at: Callable[[int], tuple[bytes, ...]],
    ) -> Iterator[tuple[int, ClaimLimits]]:
        """What each claim may take: its part; without one nothing, for it is only a look."""
        for p in due:
            part = parts.get(p, Part())
            plan = packed(part, self._shares.charge) if p in parts else b""
            self._asked[p] = part.total
            items = max(limits.items, part.total)
            yield p, replace(limits, lanes=lanes_at(p), slots=part.total, items=items, plan=plan)

    def gave(self, partition: int, count: int) -> None:
        """A claim from there brought so many tasks.

        Where that is `too_little` of what a look saw, older tasks that cannot be taken, such as those of a limited
        queue, may hide what can: until they are made ready the partition is last in some of the next plans, or places
        would stay free while work waits elsewhere.
        """
        asked = self._asked.pop(partition, 0)
        if too_little(count, asked):
            if not self._rules.stored:
                # Other takers were faster. Where queues have rules, a look counts no longer than `_FRESH_MS` anyway.
                self._looked[partition] = -math.inf
            times = min(self._poor.get(partition, (0, 0))[0] + 1, _MOST_TIMES)
            self._poor[partition] = times, 2**times - 1
        elif asked:
            self._poor.pop(partition, None)

    def took(self, leased: Sequence[bytes]) -> None:
        """Tasks came (flat: id, record, ...)."""
        if not self._pressed and not self.weighted:
            return
        self._shares.took(*critical_and_lanes(leased))

    def _without_poor(self, waiting: dict[int, Waiting]) -> dict[int, Waiting]:
        """What waits, with those partitions last that gave too little lately."""
        for p, (times, plans) in self._poor.items():
            if plans and p in waiting:
                self._poor[p] = times, plans - 1
                waiting[p] = waiting[p].last()
        return waiting

    def _in_turn(self, due: Sequence[int]) -> list[int]:
        self._turn += 1
        first = self._turn % len(due)
        return [*due[first:], *due[:first]]


class _Head(NamedTuple):
    """The first task of a near index."""

    priority: int
    due_ms: int
    member: bytes

    def before(self, seen: Waiting) -> bool:
        """Whether it stands in front of what was seen in its partition."""
        if not self.priority:
            return not seen.critical
        at = self.due_ms + slack_ms(None, Priority(self.priority))
        return at + APART_MS < min((line.at for line in seen.other_lines if line.tasks), default=math.inf)


def too_little(count: int, asked: int) -> bool:
    """Whether a claim that asked for so many tasks brought so few that what was seen hides something. Two fifths are
    enough, and so is `_BY_KEYS`."""
    return 5 * count < 2 * asked and count < _BY_KEYS


def _left(one: Waiting) -> bool:
    return one.critical > 0 or one.others > 0


def _unseen(one: Waiting) -> int:
    """Tasks that are due and not ready, so that it is not known of which queues they are."""
    return one.others - sum(one.lanes.values())


def _near_letters(types: str, *, guest: bool) -> list[str]:
    """The near indexes that claims of these types take from (`whose.near` in lib/served.lua)."""
    worker, http = TaskType.WORKER.value, TaskType.HTTP.value
    if guest and types in (worker, http):
        return [types]
    return ["", *([worker] if worker in types else []), *([http] if not guest and http in types else [])]
