"""The protocol of one partition as a table of steps, small enough to be explored to its end.

What a script does is one step, for a script runs undisturbed; what takes several scripts (to expand, to schedule and be
confirmed) is several. Everything that can go wrong between two scripts is a step too: a process dies or falls silent, a
reply is lost, a hint is lost or wrong, a replica that lacks the newest writes takes over, the server's clock goes back.

The words are those of docs/storage.md. Time is counted in whole steps of the clock.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

NONE, HOME, LEASED, DONE, DEAD = "none", "home", "leased", "done", "dead"


class Task(NamedTuple):
    """``hint``: its score in ``near``, or None. ``lease``: of which worker; ``until``: its expiry. ``copies``: records
    of one idempotency key."""

    place: str = NONE
    due: int = 0
    hint: int | None = None
    deliveries: int = 0
    lease: int | None = None
    until: int = 0
    copies: int = 0


class Disk(NamedTuple):
    """What a server has: it goes to replicas as a whole, later. ``horizon``: up to where ``near`` is complete once the
    scan that ``scans`` owes is done."""

    tasks: tuple[Task, ...]
    horizon: int = 0
    scans: bool = False


class State(NamedTuple):
    """``runs``: what each worker believes to have, as (task, token). ``confirmed``: what callers were told is safe.
    ``left``: how many faults of each kind may still come, in the order of `Rules.faults`."""

    disk: Disk
    replica: Disk
    now: int
    keeper: bool
    runs: tuple[frozenset[tuple[int, int]], ...]
    asked: frozenset[int]
    confirmed: frozenset[int]
    left: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Rules:
    """How large, which faults, and what is broken on purpose.

    ``deliveries``: after so many that were lost a task is a dead letter. ``faults``: how often each may happen: the
    keeper dies, a worker dies, a reply is lost, a hint is lost, a hint is wrong, the replica takes over, the clock goes
    back. ``broken``: a rule that is left out.
    """

    tasks: int = 2
    workers: int = 2
    ticks: int = 3
    lease: int = 1
    deliveries: int = 2
    faults: tuple[int, ...] = (1, 1, 1, 1, 1, 0, 0)
    broken: str = ""


KEEPER, WORKER, REPLY, HINT, WRONG, FAILOVER, CLOCK = range(7)
FENCE = "an ack needs the token of the lease"
RECORD = "a hint is never believed over a record"
BEFORE = "the horizon moves before the scan"
STAND_IN = "a stand-in acts for an owner that is gone"
CONFIRM = "a caller is told only what the replica has"
KEY = "a key names one task"
SCRUB = "the scrubber asserts lost hints"
REAP = "expired leases are taken back"
MUTATIONS = (FENCE, RECORD, BEFORE, STAND_IN, CONFIRM, KEY, SCRUB, REAP)
"""Each is a rule; to leave it out must show."""


class Broken(AssertionError):
    """An invariant does not hold. The message names it, and the steps that led there are added by the explorer."""


class Step(NamedTuple):
    """``fault``: it need not happen, so nothing may depend on it."""

    name: str
    state: State
    fault: bool = False


def first(rules: Rules) -> State:
    """Nothing is scheduled. Task n is due at n + 1."""
    disk = Disk(tuple(Task(due=n + 1) for n in range(rules.tasks)))
    runs = tuple(frozenset[tuple[int, int]]() for _ in range(rules.workers))
    return State(disk, disk, 0, True, runs, frozenset(), frozenset(), rules.faults)


def settled(s: State) -> bool:
    """Whatever was scheduled has ended, and callers know of all."""
    return all(task.place in (NONE, DONE, DEAD) for task in s.disk.tasks) and s.asked <= s.confirmed


def steps(s: State, rules: Rules) -> Iterator[Step]:
    """Everything that can happen next. Broken: an invariant does not hold in it."""
    _complete(s, rules)
    for step in _steps(s, rules):
        # Where no replica takes over, how far one is behind makes no difference.
        yield step if rules.faults[FAILOVER] else step._replace(state=step.state._replace(replica=step.state.disk))


def _complete(s: State, rules: Rules) -> None:
    """The index is complete up to the horizon, but for hints that a fault took: what it lacks would wait for the
    scrubber, which may be an hour."""
    if s.left[HINT] == rules.faults[HINT] and not s.disk.scans:
        for n, task in enumerate(s.disk.tasks):
            if task.place == HOME and task.hint is None and task.due < s.disk.horizon:
                raise Broken(f"I8: the index lacks task {n}, due at {task.due} before the horizon {s.disk.horizon}")


def _steps(s: State, rules: Rules) -> Iterator[Step]:
    yield from _callers(s, rules)
    yield from _keeper(s, rules)
    yield from _workers(s, rules)
    yield from _faults(s, rules)
    if s.now < rules.ticks:
        yield Step("tick", s._replace(now=s.now + 1))
    if s.replica != s.disk:
        yield Step("replicate", s._replace(replica=s.disk))


def _with(s: State, n: int, **changes: object) -> State:
    task = s.disk.tasks[n]._replace(**changes)  # type: ignore[arg-type]
    return s._replace(disk=s.disk._replace(tasks=(*s.disk.tasks[:n], task, *s.disk.tasks[n + 1 :])))


def _callers(s: State, rules: Rules) -> Iterator[Step]:
    for n, task in enumerate(s.disk.tasks):
        if n in s.confirmed:
            continue
        if task.place == NONE:
            # What is due before the horizon gets its hint at once, the rest when its bucket is expanded.
            stored = _with(s, n, place=HOME, hint=task.due if task.due < s.disk.horizon else None, copies=1)
        else:
            # Sent again with the same key, since no answer came.
            stored = _with(s, n, copies=2) if rules.broken == KEY and task.place == HOME else s
        if any(found.copies > 1 for found in stored.disk.tasks):
            raise Broken(f"I2: two records of the key of task {n}")
        stored = stored._replace(asked=s.asked | {n})
        if stored != s:
            yield Step(f"schedule {n}", stored)
        if n in s.asked and task.place != NONE and (s.replica.tasks[n].place != NONE or rules.broken == CONFIRM):
            yield Step(f"confirm {n}", s._replace(confirmed=s.confirmed | {n}))


def _keeper(s: State, rules: Rules) -> Iterator[Step]:
    if not s.keeper:
        if rules.broken != STAND_IN:
            yield Step("the stand-in acts", s._replace(keeper=True))
        return
    yield from _expand(s, rules)
    for n, task in enumerate(s.disk.tasks):
        hinted = task.place == HOME and task.hint is not None
        if hinted and task.hint <= s.now:  # type: ignore[operator]
            yield from _claim(s, rules, n)
        if task.place == LEASED and rules.broken != REAP and (task.until <= s.now or s.now == rules.ticks):
            dead = task.deliveries == rules.deliveries
            back = {"place": DEAD, "lease": None} if dead else {"place": HOME, "lease": None, "hint": task.due}
            yield Step(f"reap {n}", _with(s, n, **back))
        lost = task.place == HOME and task.hint is None and task.due < s.disk.horizon and not s.disk.scans
        if lost and rules.broken != SCRUB:
            yield Step(f"scrub {n}", _with(s, n, hint=task.due))


def _expand(s: State, rules: Rules) -> Iterator[Step]:
    """Two scripts; whoever keeps time next goes on with the second."""
    end = rules.ticks + 1
    moves, scan = s.disk._replace(horizon=end, scans=True), s.disk
    if rules.broken == BEFORE:
        if s.disk.horizon < end and not s.disk.scans:
            yield Step("scan", s._replace(disk=_scanned(scan, end)._replace(scans=True)))
        elif s.disk.scans:
            yield Step("move the horizon", s._replace(disk=s.disk._replace(horizon=end, scans=False)))
        return
    if s.disk.horizon < end:
        yield Step("move the horizon", s._replace(disk=moves))
    elif s.disk.scans:
        yield Step("scan", s._replace(disk=_scanned(scan, end)._replace(scans=False)))


def _scanned(disk: Disk, end: int) -> Disk:
    def hinted(task: Task) -> Task:
        return task._replace(hint=task.due) if task.place == HOME and task.due < end else task

    return disk._replace(tasks=tuple(map(hinted, disk.tasks)))


def _claim(s: State, rules: Rules, n: int) -> Iterator[Step]:
    task = s.disk.tasks[n]
    if task.due > s.now and rules.broken != RECORD:
        yield Step(f"mend the hint of {n}", _with(s, n, hint=task.due))
        return
    if task.due > s.now:
        raise Broken(f"I3: task {n} is due at {task.due} and was handed out at {s.now}")
    for worker in range(rules.workers):
        token = task.deliveries + 1
        leased = _with(s, n, place=LEASED, hint=None, deliveries=token, lease=worker, until=s.now + rules.lease)
        yield Step(f"claim {n} for worker {worker}", _runs(leased, worker, s.runs[worker] | {(n, token)}))
        if s.left[REPLY]:
            yield Step(f"claim {n} for worker {worker}, whose reply is lost", _used(leased, REPLY), fault=True)


def _workers(s: State, rules: Rules) -> Iterator[Step]:
    for worker, running in enumerate(s.runs):
        for n, token in running:
            task = s.disk.tasks[n]
            current = task.place == LEASED and task.deliveries == token and task.lease == worker
            over = _runs(s, worker, running - {(n, token)})
            if current:
                yield Step(f"ack {n} by worker {worker}", _with(over, n, place=DONE, lease=None))
                if task.until < s.now + rules.lease:
                    yield Step(f"extend {n} by worker {worker}", _with(s, n, until=s.now + rules.lease))
            elif rules.broken == FENCE and task.place in (HOME, LEASED):
                raise Broken(f"I5: the ack of worker {worker} for task {n} with token {token} was accepted")
            else:
                yield Step(f"stale ack {n} by worker {worker}", over)


def _faults(s: State, rules: Rules) -> Iterator[Step]:
    if s.left[KEEPER] and s.keeper:
        yield Step("the owner dies", _used(s, KEEPER)._replace(keeper=False), fault=True)
    for worker, running in enumerate(s.runs):
        if s.left[WORKER] and running:
            yield Step(f"worker {worker} dies", _runs(_used(s, WORKER), worker, frozenset()), fault=True)
    for n, task in enumerate(s.disk.tasks):
        if s.left[HINT] and task.hint is not None:
            yield Step(f"the hint of {n} is lost", _with(_used(s, HINT), n, hint=None), fault=True)
        if s.left[WRONG] and task.hint is not None and task.hint > 0:
            yield Step(f"the hint of {n} is wrong", _with(_used(s, WRONG), n, hint=0), fault=True)
    if s.left[FAILOVER] and s.replica != s.disk:
        taken = _used(s, FAILOVER)._replace(disk=s.replica)
        for n in s.confirmed:
            if taken.disk.tasks[n].place == NONE:
                raise Broken(f"I1: task {n} was confirmed, and is gone")
        yield Step("a replica takes over that lacks the last writes", taken, fault=True)
    if s.left[CLOCK] and s.now:
        yield Step("the clock goes back", _used(s, CLOCK)._replace(now=s.now - 1), fault=True)


def _runs(s: State, worker: int, running: frozenset[tuple[int, int]]) -> State:
    return s._replace(runs=(*s.runs[:worker], running, *s.runs[worker + 1 :]))


def _used(s: State, fault: int) -> State:
    return s._replace(left=(*s.left[:fault], s.left[fault] - 1, *s.left[fault + 1 :]))
