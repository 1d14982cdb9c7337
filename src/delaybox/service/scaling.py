"""How many processes, or workers, are needed now and in the coming seconds: reads what `core.scaling` decides by."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from delaybox.core.lane import split
from delaybox.core.membership import Member
from delaybox.core.needs import NO_NEEDS
from delaybox.core.queue import LiveRules
from delaybox.core.scaling import (
    KINDS,
    MAX_LEAD_MS,
    STEPS,
    TARGET_USE,
    WORKER,
    Goal,
    Load,
    MemberNeed,
    ScalingAnswer,
    ScalingQuery,
    needed,
    within_limits,
)
from delaybox.core.task import TaskType
from delaybox.service.rules import Rules
from delaybox.service.served import living
from delaybox.store.lanes import DueByLane, all_waiting
from delaybox.store.store import Store
from delaybox.store.upcoming import Upcoming, lanes_due, upcoming

WINDOWS_MS = {"10s": 10_000, "1m": 60_000, "10m": 600_000}
"""The times ahead of the gauges, by their label."""
_WINDOW_STEP_MS = 10_000

ASSUMED_MS = {"clock": 0.1, "grpc": 0.2, "webhook": 0.2, WORKER: 100.0}
"""How long a task occupies a place, while too little was seen to measure it."""
_IDLE_CORES = 0.04
"""What a process uses that does nothing."""
_LEAST_CORES = 0.05
_LEAST_PER_S = 50.0
"""Below these the cost of a task cannot be told from that of being there."""
_FRESH_S = 1.0
_WORKER_LETTER, _HOOK_LETTER = TaskType.WORKER.value, TaskType.HTTP.value


@dataclass(frozen=True, slots=True)
class _Now:
    """What was read of the store at one moment. ``waiting``: due tasks that nobody has taken; ``due``: how many in all.
    ``unforeseen``, ``running``: by lane, as members report them."""

    members: tuple[Member, ...]
    waiting: DueByLane
    due: int
    unforeseen: Mapping[bytes, float]
    running: Mapping[bytes, int]
    rules: LiveRules
    at: float

    def free(self, letter: str) -> int:
        """How many due tasks of a type nothing holds up."""
        return sum(count for lane, count in self.waiting.free.items() if chr(lane[0]) == letter)

    def per_s(self, letter: str) -> float:
        """The rate of unforeseen tasks of a type."""
        return sum(rate for lane, rate in self.unforeseen.items() if chr(lane[0]) == letter)


class Scaler:
    """Answers what is needed, by reading alone. What members report is read again after a second."""

    def __init__(self, store: Store, rules: Rules) -> None:
        self._store = store
        self._rules = rules
        self._known: _Now | None = None
        self._turn = 0
        self._reading = asyncio.Lock()

    async def ask(self, asked: ScalingQuery) -> ScalingAnswer:
        """The need for such members. StoreUnavailable."""
        now = await self._now()
        lead_ms = min(max(asked.lead_ms, *(m.start_ms for m in now.members), STEPS), MAX_LEAD_MS)
        step_ms = -(-lead_ms // STEPS)
        coming = await upcoming(self._store, step_ms, STEPS)
        if asked.of_workers:
            sample = await lanes_due(self._store, coming.now_ms, coming.now_ms + STEPS * step_ms)
            needs = [self._workers(asked, now, coming, step_ms, sample)]
        else:
            # Without such a process webhooks are switched off, and none is needed.
            off = {"webhook"} - {member.kind for member in now.members}
            kinds = [kind for kind in KINDS if kind == asked.kind or (not asked.kind and kind not in off)]
            needs = [self._processes(kind, asked, now, coming, step_ms) for kind in kinds]
        return ScalingAnswer(lead_ms=lead_ms, clear_ms=asked.clear_ms, target_use=TARGET_USE, needs=tuple(needs))

    async def due(self) -> dict[str, int]:
        """How many stored tasks become due within each of WINDOWS_MS. StoreUnavailable."""
        steps = max(WINDOWS_MS.values()) // _WINDOW_STEP_MS
        coming = await upcoming(self._store, _WINDOW_STEP_MS, steps)
        return {label: sum(coming.steps[: ms // _WINDOW_STEP_MS]) for label, ms in WINDOWS_MS.items()}

    async def _now(self) -> _Now:
        async with self._reading:
            known = self._known
            if known is None or time.monotonic() - known.at >= _FRESH_S:
                known = self._known = await self._read()
            return known

    async def _read(self) -> _Now:
        members = await living(self._store)
        counts = await self._store.counts()
        self._turn += 1
        found = await all_waiting(self._store, counts[0].now_ms, self._turn)
        unforeseen: dict[bytes, float] = {}
        running: Counter[bytes] = Counter()
        for member in members:
            for lane, rate in member.activity.unforeseen_per_s.items():
                unforeseen[lane.encode()] = unforeseen.get(lane.encode(), 0.0) + rate
            running.update({lane.encode(): count for lane, count in member.activity.running.items()})
        return _Now(
            members=tuple(members),
            waiting=found,
            due=sum(c.due for c in counts),
            unforeseen=unforeseen,
            running=running,
            rules=await self._rules.in_effect(),
            at=time.monotonic(),
        )

    def _processes(self, kind: str, asked: ScalingQuery, now: _Now, coming: Upcoming, step_ms: int) -> MemberNeed:
        mine = [member for member in now.members if member.kind == kind]
        cores = sum(member.cores for member in mine)
        service_ms = 0.0 if kind == "rest" else _cost_ms(mine, cores)
        loads: list[Load] = []
        if kind != "rest":
            name, steps, unforeseen, backlog = _work_of(kind, mine, now, coming)
            loads.append(
                Load(
                    name=name,
                    due=sum(steps),
                    busiest_per_s=_busiest(steps, step_ms),
                    unforeseen_per_s=round(unforeseen, 3),
                    backlog=backlog,
                    service_ms=service_ms or ASSUMED_MS[kind],
                    measured=bool(service_ms),
                )
            )
        if kind != "clock" and not service_ms:
            # Of calls no forecast knows: as many CPU seconds a second as now.
            loads.append(Load(name="calls", unforeseen_per_s=round(cores, 3), service_ms=1_000.0))
        found = _need(kind, asked, loads, running=len(mine), places_each=1.0)
        return replace(found, nodes=len({member.parent for member in mine}))

    def _workers(
        self, asked: ScalingQuery, now: _Now, coming: Upcoming, step_ms: int, sample: Counter[bytes]
    ) -> MemberNeed:
        serving = [member for member in now.members if any(_meant(asked, lane) for lane in member.activity.lanes)]
        looked_at = sample.total()
        took = {lane.encode(): ms for member in serving for lane, ms in sorted(member.activity.service_ms.items())}
        here = {lane for counter in now.waiting for lane in counter}
        lanes = {lane for lane in (*sample, *now.unforeseen, *now.running, *here) if _meant(asked, lane)}
        known = [ms for lane, ms in took.items() if _meant(asked, lane)]
        # A lane of which nothing was measured yet costs what its like cost.
        like = sum(known) / len(known) if known else 0.0
        by_queue: dict[str, list[tuple[Load, int]]] = {}
        for lane in sorted(lanes):
            share = sample[lane] / looked_at if looked_at else 0.0
            parts = split(lane)
            # A task that costs several places has each of them for as long as it runs.
            took_ms = took.get(lane) or like or ASSUMED_MS[WORKER]
            load = Load(
                name=f"{parts.queue}:{parts.name}"
                + (f" (needs {parts.needs.describe()})" if parts.needs != NO_NEEDS else ""),
                due=sample[lane],
                busiest_per_s=round(_busiest(coming.workers, step_ms) * share, 3),
                unforeseen_per_s=round(now.unforeseen.get(lane, 0.0), 3),
                backlog=now.waiting.backlog(lane),
                service_ms=round(took_ms * parts.needs.cost, 3),
                measured=lane in took,
                occupied=float(now.running.get(lane, 0) * parts.needs.cost),
            )
            by_queue.setdefault(parts.queue, []).append((load, parts.needs.cost))
        loads: list[Load] = []
        for queue, found in by_queue.items():
            ours, costs = zip(*found, strict=True)
            loads += within_limits(ours, costs, now.rules.of(queue), Goal(clear_ms=asked.clear_ms))
        running, places = _pool(serving)
        each = float(asked.places or (places / running if running else 1))
        return _need(WORKER, asked, loads, running=running, places_each=each)


def _work_of(kind: str, mine: Sequence[Member], now: _Now, coming: Upcoming) -> tuple[str, Sequence[int], float, int]:
    """What such processes have to do: its name, the tasks of the coming steps, the unforeseen ones a second, and the
    backlog."""
    if kind == "grpc":
        # Those that wait already wait for workers, whom another process would not help.
        return "worker tasks", coming.workers, now.per_s(_WORKER_LETTER), 0
    if kind == "webhook":
        return "webhooks", coming.hooks, now.per_s(_HOOK_LETTER), now.free(_HOOK_LETTER)
    steps = [all_ - w - h for all_, w, h in zip(coming.steps, coming.workers, coming.hooks, strict=True)]
    unforeseen = sum(now.unforeseen.values()) - now.per_s(_WORKER_LETTER) - now.per_s(_HOOK_LETTER)
    # What others carry out, or its queue holds up, is no work for those who keep time.
    own = set("".join(member.activity.types for member in mine)) | {TaskType.PUB_SUB.value}
    others = sum(now.free(task_type.value) for task_type in TaskType if task_type.value not in own)
    standing = sum(found.total() for found in (now.waiting.held, now.waiting.parked, now.waiting.apart))
    return "tasks", steps, unforeseen, max(0, now.due - others - standing)


def _need(kind: str, asked: ScalingQuery, loads: Sequence[Load], *, running: int, places_each: float) -> MemberNeed:
    # Of workers none may be needed, and an orchestrator can start the first one again.
    goal = Goal(clear_ms=asked.clear_ms, places_each=places_each, least=0 if kind == WORKER else 1)
    members, places = needed(loads, goal)
    return MemberNeed(
        kind=kind,
        queue=asked.queue,
        function=asked.function,
        members=members,
        running=running,
        places=places,
        places_each=round(places_each, 3),
        loads=tuple(loads),
    )


def _busiest(steps: Sequence[int], step_ms: int) -> float:
    return round(max(steps) * 1_000 / step_ms, 3)


def _cost_ms(members: Sequence[Member], cores: float) -> float:
    """CPU ms a task in such processes; 0 while too little was seen."""
    per_s = sum(rate for member in members for rate in member.activity.fired_per_s.values())
    used = cores - _IDLE_CORES * len(members)
    return round(used * 1_000 / per_s, 4) if per_s >= _LEAST_PER_S and used >= _LEAST_CORES else 0.0


def _meant(asked: ScalingQuery, lane: bytes) -> bool:
    if chr(lane[0]) != _WORKER_LETTER:
        return False
    parts = split(lane)
    return asked.queue in ("", parts.queue) and asked.function in ("", parts.name)


def _pool(members: Iterable[Member]) -> tuple[int, int]:
    """How many workers are connected to such members, and their places. One worker has a session with each node, and
    one for each kind of its functions."""
    by_worker: dict[str, list[int]] = {}
    for member in members:
        here: Counter[str] = Counter()
        for worker in member.activity.workers:
            if worker.connected:
                here[worker.identity] += max(worker.concurrency, 1)
        for identity, places in here.items():
            by_worker.setdefault(identity, []).append(places)
    return len(by_worker), sum(max(places) for places in by_worker.values())
