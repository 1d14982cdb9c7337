"""How a taker that has fewer slots than work divides them. Pure.

The order of choice: critical tasks first, in whichever partition they lie; one of every twenty is not critical while
such wait; then queues by weight. What comes after that, within one queue of one partition, is up to the claim script.

Queues take turns by start-time fair queueing: each has a start, which a task of it moves on by its cost over the
queue's weight, and the lowest start is next. A queue that begins to wait starts no earlier than the virtual time, which
is the largest start that was served: so it neither waits for its absence nor overtakes because of it.

Among partitions, the one whose first task has the earliest virtual deadline is next (`core.stretches`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from heapq import heapify, heappop, heapreplace
from typing import NamedTuple

from delaybox.core.lane import cost_of, split
from delaybox.core.stretches import Stretch, in_order, shorter

FLOOR = 20
"""One of so many tasks is not critical, while such wait."""
_MOST_OWED = 20 * FLOOR
_MOST_KNOWN = 20_000
"""Queues whose start is remembered; of more only those that wait."""


@dataclass(slots=True)
class Part:
    """What to claim from one partition. ``lanes``: how many of which lane, where weights count."""

    critical: int = 0
    others: int = 0
    lanes: dict[bytes, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Tasks in all."""
        return self.critical + self.others


class Waiting(NamedTuple):
    """What waits in one partition. ``lanes``: ready tasks that are not critical, by lane; empty where weights do not
    count. ``critical_lines``, ``other_lines``, ``lane_lines``: since when these wait; where nothing is known of it,
    partitions come first in the order in which they are named."""

    critical: int
    others: int
    lanes: Mapping[bytes, int]
    critical_lines: tuple[Stretch, ...] = ()
    other_lines: tuple[Stretch, ...] = ()
    lane_lines: Mapping[bytes, Stretch] = {}

    def last(self) -> Waiting:
        """The same behind what waits in other partitions."""
        return self._replace(
            critical_lines=tuple(line.last() for line in self.critical_lines),
            other_lines=tuple(line.last() for line in self.other_lines),
            lane_lines={lane: line.last() for lane, line in self.lane_lines.items()},
        )

    def less(self, part: Part) -> Waiting:
        """What waits there when this part is taken."""
        lanes, lines = self.lanes, self.lane_lines
        if lanes:
            lanes = {lane: count - part.lanes.get(lane, 0) for lane, count in lanes.items()}
            lines = {lane: line.after(part.lanes.get(lane, 0)) for lane, line in lines.items()}
        return Waiting(
            max(self.critical - part.critical, 0),
            max(self.others - part.others, 0),
            lanes,
            shorter(self.critical_lines, part.critical),
            shorter(self.other_lines, part.others),
            lines,
        )


class Shares:
    """The turns of one taker. ``weight_of``: of a queue."""

    def __init__(self, weight_of: Callable[[str], float]) -> None:
        self._weight_of = weight_of
        self._starts: dict[str, float] = {}
        self._virtual = 0.0
        self._waited: frozenset[str] = frozenset()
        self._owed = 0
        self._both = False

    def plan(
        self, slots: int, waiting: Mapping[int, Waiting], most: int, elsewhere: Iterable[bytes] = ()
    ) -> dict[int, Part]:
        """What to claim from which partition: in all no more than ``slots``, from one no more than ``most``.

        ``elsewhere``: lanes that wait in partitions which cannot be claimed from right now; their queues keep their
        starts. Of partitions whose tasks wait since the same moment, those come first that ``waiting`` names first.
        """
        critical = sum(one.critical for one in waiting.values())
        others = sum(one.others for one in waiting.values())
        self._both = critical > 0 and others > 0
        kept = min(max((self._owed + slots) // FLOOR, 0), slots, others) if self._both else 0
        parts: dict[int, Part] = {}

        def room(p: int) -> int:
            return most - parts[p].total if p in parts else most

        def full(p: int) -> bool:
            return room(p) <= 0

        left = min(slots - kept, critical)
        taken = 0
        for p, some in in_order(_lines(waiting, critical=True), full) if left else ():
            if (count := min(some, left - taken, room(p))) > 0:
                parts.setdefault(p, Part()).critical += count
                taken += count
            if taken >= left:
                break
        left = min(slots - taken, others)
        if any(one.lanes for one in waiting.values()):
            self._by_weight(left, waiting, parts, most, {split(lane).queue for lane in elsewhere})
            return parts
        for p, some in in_order(_lines(waiting, critical=False), full) if left else ():
            if (count := min(some, left, room(p))) > 0:
                parts.setdefault(p, Part()).others += count
                left -= count
            if left <= 0:
                break
        return parts

    def took(self, critical: int, lanes: Mapping[bytes, int]) -> None:
        """Tasks came: so many critical ones, and others by lane."""
        if self._both:
            owed = self._owed + critical - (FLOOR - 1) * sum(lanes.values())
            self._owed = max(min(owed, 2 * FLOOR), -_MOST_OWED)
        moved: dict[str, float] = defaultdict(float)
        longest: dict[str, float] = defaultdict(float)
        for lane, count in lanes.items():
            queue, each = split(lane).queue, self.charge(lane)
            moved[queue] += count * each
            longest[queue] = max(longest[queue], each)
        before = self._virtual
        for queue, by in moved.items():
            start = self._start(queue, before)
            self._starts[queue] = start + by
            self._virtual = max(self._virtual, start + by - longest[queue])
        if len(self._starts) > _MOST_KNOWN:
            self._starts = {q: s for q, s in self._starts.items() if q in self._waited or s > self._virtual}
            if len(self._starts) > _MOST_KNOWN:
                # Where each has one task and no other, none comes to its second turn, and the virtual time stands.
                self._starts = {q: s for q, s in self._starts.items() if q in self._waited}

    def charge(self, lane: bytes) -> float:
        """By how much a task of this lane moves its queue's start."""
        return cost_of(lane) / self._weight_of(split(lane).queue)

    def _start(self, queue: str, virtual: float) -> float:
        """Only a queue that has waited already may start before the virtual time."""
        start = self._starts.get(queue)
        if start is None:
            return virtual
        return start if queue in self._waited else max(start, virtual)

    def _by_weight(
        self, left: int, waiting: Mapping[int, Waiting], parts: dict[int, Part], most: int, elsewhere: set[str]
    ) -> None:
        pools: dict[str, list[tuple[tuple[int, bytes], Stretch]]] = defaultdict(list)
        for p, one in waiting.items():
            for lane, count in one.lanes.items():
                if count > 0:
                    line = one.lane_lines.get(lane) or Stretch(0.0, 0.0, count)
                    pools[split(lane).queue].append(((p, lane), line))
        for queue in pools:
            self._starts[queue] = self._start(queue, self._virtual)
        self._waited = frozenset(pools) | elsewhere
        sources = {queue: _each(pool, parts, most) for queue, pool in pools.items()}
        charges = {lane: self.charge(lane) for pool in pools.values() for (_, lane), _ in pool}
        turns = [(self._starts[queue], queue) for queue in pools]
        heapify(turns)
        while left > 0 and turns:
            start, queue = turns[0]
            found = next(sources[queue], None)
            if found is None:
                heappop(turns)
                continue
            p, lane = found
            part = parts.setdefault(p, Part())
            part.others += 1
            part.lanes[lane] = part.lanes.get(lane, 0) + 1
            left -= 1
            heapreplace(turns, (start + charges[lane], queue))


def _lines(waiting: Mapping[int, Waiting], *, critical: bool) -> Iterator[tuple[int, Stretch]]:
    """Where what is critical, or what is not, waits since when."""
    for p, one in waiting.items():
        lines = one.critical_lines if critical else one.other_lines
        for line in lines or (Stretch(0.0, 0.0, one.critical if critical else one.others),):
            yield p, line


def _each(
    pool: Iterable[tuple[tuple[int, bytes], Stretch]], parts: Mapping[int, Part], most: int
) -> Iterator[tuple[int, bytes]]:
    """Where the tasks of a queue are, one after the other, in partitions that have room for one more."""

    def full(of: tuple[int, bytes]) -> bool:
        return of[0] in parts and parts[of[0]].total >= most

    for (p, lane), count in in_order(pool, full):
        for _ in range(count):
            if full((p, lane)):
                break
            yield p, lane
