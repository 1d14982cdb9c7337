"""How many members a store needs: one figure with its terms, for `--processes auto`, REST, gRPC, gauges and KEDA. Pure.

    places  = sum over loads of (arrivals a second + backlog / clear) * service time / target use,
              each no more than its queue's limits let run, and no less than its running tasks occupy
    members = places / places of a member, rounded up, between the least and the most

Arrivals are what the forecast shows for the busiest step of the time ahead (*lead*), plus what it cannot show, because
it is stored with less notice than the lead (*unforeseen*, as measured). *Service time* is how long one task occupies a
place: a worker's place while the function runs (of a task that costs several places the time of all of them), a
process's core while it handles the task.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from delaybox.core.queue import QueueRules

TARGET_USE = 0.7
"""The share of all places that is meant to be in use. At 1.0 every chance peak would have to wait."""
LEAD_MS = 30_000
"""How far ahead arrivals are looked for, unless asked otherwise or a member takes longer to start."""
CLEAR_MS = 30_000
"""The time in which a backlog should be gone, unless asked otherwise."""
STEPS = 6
"""The lead is counted in this many steps, so that a peak at its end counts as the peak that it will be."""
MAX_LEAD_MS = 3_600_000
LEAST_SPAN_MS = 1_000
"""The shortest lead, and the shortest time in which a backlog can be asked to be gone."""
MAX_PLACES = 1_000_000
KINDS = ("clock", "grpc", "rest", "webhook")
"""The kinds of processes for which a need is known."""
WORKER = "worker"
MAX_MEMBERS = 1_000_000
"""A figure above this is shown as this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Work of one sort. ``due``: stored tasks that become due within the lead. ``busiest_per_s``: their rate in the
    busiest step of it. ``unforeseen_per_s``: measured rate of tasks stored with less notice than the lead; one that had
    a part of the lead as notice counts in part. ``backlog``: due, and not taken yet. ``service_ms``: how long one
    occupies a place, for each place that it costs. ``measured``: whether that was measured, or is assumed while too
    little was seen. ``occupied``: places of those that run now. ``most``: places that can be used at once, because its
    queue has limits (0: it is paused); None: any number.
    """

    name: str
    due: int = 0
    busiest_per_s: float = 0.0
    unforeseen_per_s: float = 0.0
    backlog: int = 0
    service_ms: float = 0.0
    measured: bool = True
    occupied: float = 0.0
    most: float | None = None

    def per_s(self, clear_ms: int) -> float:
        """Tasks a second that are to begin, where the backlog is to be gone after ``clear_ms``."""
        return self.busiest_per_s + self.unforeseen_per_s + self.backlog * 1_000 / clear_ms

    def places(self, goal: Goal) -> float:
        """Places that it needs."""
        wanted = self.per_s(goal.clear_ms) * self.service_ms / 1_000 / goal.target_use
        return max(wanted if self.most is None else min(wanted, self.most), self.occupied)


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What is wanted. ``places_each``: places of one member. ``least`` and ``most``: members."""

    clear_ms: int = CLEAR_MS
    target_use: float = TARGET_USE
    places_each: float = 1.0
    least: int = 1
    most: int = MAX_MEMBERS


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberNeed:
    """The answer. ``kind``: clock, grpc, rest or webhook; worker: the workers of ``queue`` and ``function`` ("": any).

    ``members``: how many are needed; ``running``: how many there are, ``nodes``: on how many nodes. ``places``: places
    needed, at the target use.
    """

    kind: str
    queue: str = ""
    function: str = ""
    members: int
    running: int
    nodes: int = 1
    places: float
    places_each: float
    loads: tuple[Load, ...]


def needed(loads: Sequence[Load], goal: Goal) -> tuple[int, float]:
    """(members, places) that such loads need."""
    places = sum(load.places(goal) for load in loads)
    # The rounding of sums must not cost a whole member.
    wanted = math.ceil(round(places / goal.places_each, 6))
    return max(goal.least, min(wanted, goal.most)), round(places, 3)


def within_limits(loads: Sequence[Load], costs: Sequence[int], rules: QueueRules, goal: Goal) -> list[Load]:
    """The loads of one queue with what its rules let run at once, divided as they need it. ``costs``: places of a task
    of each. Limits by key bound the backlog alone (`store.lanes.DueByLane`): nobody knows how many keys there will be.
    """
    if rules.paused:
        return [replace(load, most=0.0) for load in loads]
    pace, most = rules.pace, [math.inf] * len(loads)
    begin = [load.per_s(goal.clear_ms) for load in loads]
    run = [per_s * load.service_ms / 1_000 / cost for per_s, load, cost in zip(begin, loads, costs, strict=True)]
    for at, load in enumerate(loads):
        if rules.concurrency is not None:
            most[at] = rules.concurrency * _part(run, at) * costs[at]
        if pace is not None:
            may_begin = pace.count * 1_000 / pace.interval_ms * _part(begin, at)
            most[at] = min(most[at], may_begin * load.service_ms / 1_000 / goal.target_use)
    return [replace(load, most=None if m == math.inf else round(m, 3)) for load, m in zip(loads, most, strict=True)]


def _part(of: Sequence[float], at: int) -> float:
    whole = sum(of)
    return of[at] / whole if whole else 1.0 / len(of)


def notice_left_out(notice_ms: int) -> float:
    """The share of the lead in which the forecast did not show a task with so much notice: 1 for one that is due at
    once, 0 for one that was stored before the lead began."""
    return min(1.0, max(0.0, 1.0 - notice_ms / LEAD_MS))


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingQuery:
    """What is asked for. ``queue``, ``function``: the workers that serve them; both "": the processes of nodes.

    ``kind``: one kind only; "": all. ``places``: tasks that one worker runs at once; 0: as connected ones do. A lead
    that is shorter than the start of a process took is lengthened to that.
    """

    queue: str = ""
    function: str = ""
    kind: str = ""
    places: int = 0
    lead_ms: int = LEAD_MS
    clear_ms: int = CLEAR_MS

    @property
    def of_workers(self) -> bool:
        """Whether it asks for workers."""
        return bool(self.queue or self.function) or self.kind == WORKER


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingAnswer:
    """The answer: each need with its terms, and what it was computed with."""

    lead_ms: int
    clear_ms: int
    target_use: float
    needs: tuple[MemberNeed, ...]


def share(need: MemberNeed, *, least: int, most: int) -> int:
    """How many of the members needed one node should have: as many as any other, between its own bounds."""
    return max(least, min(math.ceil(need.members / max(1, need.nodes)), most))


class CoolDown:
    """Follows a figure up at once, and down when it has been lower for ``cool_down_s``."""

    def __init__(self, cool_down_s: float) -> None:
        self._cool_down_s = cool_down_s
        self._highest: deque[tuple[float, int]] = deque()
        """(when, figure), falling: of each figure only what no later one reaches."""

    def settled(self, wanted: int, now_s: float) -> int:
        """The highest figure of the cool-down that ends now. ``now_s``: of any clock that only goes forward."""
        while self._highest and self._highest[-1][1] <= wanted:
            self._highest.pop()
        self._highest.append((now_s, wanted))
        while self._highest[0][0] < now_s - self._cool_down_s:
            self._highest.popleft()
        return self._highest[0][1]
