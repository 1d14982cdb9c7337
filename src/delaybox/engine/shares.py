"""Decides what a taker with fewer slots than work claims where: it looks at its partitions, and divides its slots."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from delaybox.core.queue import LiveRules
from delaybox.core.shares import Part, Shares, Waiting
from delaybox.engine.clock_estimate import local_ms
from delaybox.engine.in_front import FRESH_MS, MOST_ASKED, InFront
from delaybox.store.record import critical_and_lanes
from delaybox.store.store import ClaimLimits, Store
from delaybox.store.survey import SHARED, met, packed, survey_call, waiting

_PLAIN_MS = 1_000.0
"""How long a look counts where no queue has rules and something is left of what it saw. Then what comes due meanwhile
can stand in front of that only as a task of another priority, which is asked for with plain commands instead: looks
were over a third of what a store did for workers that free few slots at a time (four nodes with 200 places each,
functions of 50 ms: 6,661 scripts for 40,000 tasks, 4,284 so)."""
_MOST_BY_LOOK = 1_000
"""Tasks of one partition that are planned by one look: it knows only how far apart the first of them are."""
_DEEPER = 4
"""More looks, at most, before a decision, at partitions in which due work lies behind what a look made ready: a queue
gets nothing of its share while its tasks lie behind a backlog of another one."""
_BY_KEYS = 60
"""So many tasks are never too few: a claim looks up 64 fairness keys at most, and some of them have nothing."""
_MOST_TIMES = 3
"""A partition that gives too little again and again is last in up to 7 plans, so it still gets one of eight."""
_LOOKS = MOST_ASKED
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
        self._in_front = InFront(store, lambda: self._waiting, guest=guest)
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
        would stay empty until the next claim. ``under_way``: whether a claim is; then no question is waited for.
        """
        if not self.chooses(due):
            return None
        due = due if len(due) <= _LOOKS else self._in_turn(due)[:_LOOKS]
        if old := self._old(due):
            await self._look_again(old, types, lanes_at)
        if len(old) < len(due):
            await self._in_front.ask(due, types, under_way=under_way)
        if found := self._in_front.take(due):
            looked = await self._look(list(found), types, lanes_at)
            self._waiting |= looked
            self._in_front.saw(found, looked)
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
        # Where a look has found nothing a claim says when to come again: else there was a look every `FRESH_MS`.
        return parts | {p: Part() for p in old if p in here and p not in parts and not _left(self._waiting[p])}

    def _old(self, due: Sequence[int]) -> Sequence[int]:
        """The partitions of which too little is known."""
        now = local_ms()
        if not any(_left(self._waiting[p]) for p in due if p in self._waiting):
            return due
        if self._rules.stored:
            return due if any(p not in self._waiting or now - self._looked[p] > FRESH_MS for p in due) else ()

        def old(p: int) -> bool:
            age = now - self._looked[p]
            if not _left(self._waiting[p]):
                return age > FRESH_MS
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
        self._in_front.looked(good)
        return {p: waiting(reply) for p, reply in good.items()}

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
                # Other takers were faster. Where queues have rules, a look counts no longer than `FRESH_MS` anyway.
                self._looked[partition] = -math.inf
            times = min(self._poor.get(partition, (0, 0))[0] + 1, _MOST_TIMES)
            self._poor[partition] = times, 2**times - 1
        elif asked:
            self._poor.pop(partition, None)

    def close(self) -> None:
        """Decides no more."""
        self._in_front.close()

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


def too_little(count: int, asked: int) -> bool:
    """Whether a claim that asked for so many tasks brought so few that what was seen hides something. Two fifths are
    enough, and so is `_BY_KEYS`."""
    return 5 * count < 2 * asked and count < _BY_KEYS


def _left(one: Waiting) -> bool:
    return one.critical > 0 or one.others > 0


def _unseen(one: Waiting) -> int:
    """Tasks that are due and not ready, so that it is not known of which queues they are."""
    return one.others - sum(one.lanes.values())
