"""Judges a run: computes invariants I1 to I9 (docs/storage.md) from the oracle's history and a final look.

Pure: no I/O, no clock. The history comes from files outside Redis; `Final` is the accused's own last statement (what
the store lists once traffic has stopped, and fsck). A violation is a sentence; no violations is a pass.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

from tests.faults.harness.oracle import FAIL, OK, SENT, STALE, UNKNOWN, Ack, Call, Fault, History, Start

_SHOWN = 3
Starved = Callable[[int, int], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Final:
    """The store after the run. ``live`` and ``dead`` map a task id to the key in its payload ("" if not known)."""

    live: Mapping[str, str] = field(default_factory=dict)
    dead: Mapping[str, str] = field(default_factory=dict)
    fsck: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Harm:
    """Harm to a part of the store from when until when (µs). ``spares``: whether the task of this id lies elsewhere."""

    from_us: int
    to_us: int
    spares: Callable[[str], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What this row allows. ``None`` is not judged, only reported."""

    drained: bool = True
    lost: int = 0
    dead: int | None = 0
    recovery_ms: float | None = None
    """Beyond the p99 lateness of tasks that no fault touched, and without the time that processes got no processor: on
    a busy machine everything waits."""
    lateness_p99_ms: float | None = None
    harms: Sequence[Harm] = ()
    """What lies elsewhere may be (p99) ``isolation`` times as late as what no fault touched, and ``spared_ms`` more: of
    few tasks p99 is the latest one. Time without a processor is left out."""
    isolation: float = 1.5
    spared_ms: float = 50.0
    lease_ms: float = 0.0
    """Of the store: a task whose holders die again and again waits in between, by the length of its lease."""

    def waits_ms(self, losses: int) -> float:
        """How long at most a task waits by rule that has lost so many holders: from the third on one to two leases,
        each time twice as long, at most 20 minutes (docs/operations.md, "Limits")."""
        return 2 * min(self.lease_ms * 2 ** (losses - 3), 600_000.0) if losses >= 3 else 0.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """``figures`` for the report line, ``violations`` as (invariant, sentence)."""

    figures: dict[str, float]
    violations: list[tuple[str, str]]

    def broken(self) -> set[str]:
        """The invariants that do not hold."""
        return {name for name, _ in self.violations}


class _Judge:
    def __init__(self, history: History, final: Final, limits: Limits, starved: Starved) -> None:
        self.h, self.final, self.limits, self.starved = history, final, limits, starved
        self.figures: dict[str, float] = {}
        self.violations: list[tuple[str, str]] = []
        self.reruns: list[tuple[Fault, int, int, float]] = []
        """What broke a run, when the task ran again, how many holders in a row were lost until then, and for how long
        (ms) it waited by rule."""
        self.rollbacks = [f for f in history.faults if f.kind == "rollback"]
        self.starts: dict[str, list[Start]] = defaultdict(list)
        for start in sorted(history.starts, key=lambda s: s.at_us):
            self.starts[start.task_id].append(start)
        self.acks: dict[tuple[str, int], list[Ack]] = defaultdict(list)
        self.done: dict[str, list[Ack]] = defaultdict(list)
        for ack in history.acks:
            self.acks[ack.task_id, ack.token].append(ack)
            if ack.op == "ack" and ack.outcome == OK:
                self.done[ack.task_id].append(ack)
        self.calls: dict[str, list[Call]] = defaultdict(list)
        self.unnamed: dict[str, list[Call]] = defaultdict(list)
        for call in history.calls:
            if call.task_id:
                self.calls[call.task_id].append(call)
            else:
                self.unnamed[call.key].append(call)

    def violate(self, invariant: str, what: str, cases: Sequence[object]) -> None:
        if cases:
            shown = ", ".join(map(str, cases[:_SHOWN])) + (" …" if len(cases) > _SHOWN else "")
            self.violations.append((invariant, f"{len(cases)} {what}: {shown}"))

    def rolled_back(self, at_us: int) -> bool:
        """Whether the server has forgotten what it answered at that moment."""
        return any(f.from_us <= at_us <= f.to_us for f in self.rollbacks)

    # I1 ------------------------------------------------------------------------------------------------------------
    def accounted(self, task_id: str) -> bool:
        """Live, or in a terminal state that somebody outside the store saw."""
        if task_id in self.final.live or task_id in self.final.dead or task_id in self.done:
            return True
        if any(c.op in ("cancel", "discard") and c.outcome != FAIL for c in self.calls.get(task_id, ())):
            return True
        # Token 0: fired in place, there is nothing to acknowledge. Else an ack whose answer got lost may have counted.
        return any(
            s.token == 0 or self.in_doubt([a for a in self.acks.get((task_id, s.token), ()) if a.op == "ack"])
            for s in self.starts.get(task_id, ())
        )

    @staticmethod
    def in_doubt(acks: Sequence[Ack]) -> bool:
        """Sent, and nobody knows what became of it: the answer got lost, or the sender died."""
        outcomes = {a.outcome for a in acks}
        return UNKNOWN in outcomes or outcomes == {SENT}

    def nothing_lost(self) -> None:
        scheduled: dict[str, list[Call]] = defaultdict(list)
        for call in self.h.calls:
            if call.op == "schedule" and call.outcome == OK:
                scheduled[call.key].append(call)
        outcomes = Counter(c.outcome for c in self.h.calls if c.op == "schedule")
        lost = [k for k, calls in scheduled.items() if not any(self.accounted(c.task_id) for c in calls)]
        # What the last answer said outside a forgotten window is never within any budget.
        unforgivable = [k for k in lost if not self.rolled_back(scheduled[k][-1].answered_us)]
        self.figures |= {
            "acked": len(scheduled),
            "unknown": outcomes[UNKNOWN],
            "refused": outcomes[FAIL],
            "lost": len(lost),
            "torn": self.h.torn,
        }
        self.violate("I1", "acknowledged tasks are nowhere", unforgivable)
        if len(lost) > self.limits.lost:
            self.violate("I1", f"tasks lost, more than the budget of {self.limits.lost}", lost)
        if self.limits.drained:
            self.violate("I1", "tasks never reached a handler", sorted(self.final.live))
        self.figures["dead"] = len(self.final.dead)
        if self.limits.dead is not None and len(self.final.dead) > self.limits.dead:
            self.violate("I1", "tasks in the dead letters that nothing should have killed", sorted(self.final.dead))

    # I2 ------------------------------------------------------------------------------------------------------------
    def scheduled_once(self) -> None:
        ids: dict[str, set[str]] = defaultdict(set)
        for call in self.h.calls:
            if call.op == "schedule" and call.task_id and not self.rolled_back(call.answered_us):
                ids[call.key].add(call.task_id)
        for start in self.h.starts:
            if not self.rolled_back(start.at_us):
                ids[start.key].add(start.task_id)
        for place in (self.final.live, self.final.dead):
            for task_id, key in place.items():
                ids[key].add(task_id)
        ids.pop("", None)
        # A forgotten window can hide the schedule of an id that was run outside it: that one is the window's, not ours.
        forgotten = {c.task_id for c in self.h.calls if c.op == "schedule" and self.rolled_back(c.answered_us)}
        twice = [k for k, found in ids.items() if len(found) > 1 and len(found - forgotten) > 1]
        self.figures["dup_sched"] = len(twice)
        self.violate("I2", "keys have more than one task", twice)

    # I3 ------------------------------------------------------------------------------------------------------------
    def never_early(self) -> None:
        early: list[str] = []
        least = None
        for task_id, starts in self.starts.items():
            for start in starts:
                due = self.due_in_effect(task_id, start.at_us)
                if due is None:
                    continue
                lateness = start.at_us - due * 1000
                least = lateness if least is None else min(least, lateness)
                if lateness < 0:
                    early.append(f"{task_id} by {-lateness} µs")
        self.figures["early"] = len(early)
        self.figures["least_late_ms"] = round((least or 0) / 1000, 3)
        self.violate("I3", "executions were early", early)

    def known_by(self, task_id: str) -> list[Call]:
        """The calls about a task; by its key where no answer ever named the id."""
        return self.calls.get(task_id) or self.unnamed.get(self.starts[task_id][0].key, [])

    def due_in_effect(self, task_id: str, at_us: int) -> int | None:
        """The earliest due time that may have counted at ``at_us``; None when no producer knows."""
        moves = [
            c
            for c in self.known_by(task_id)
            if c.op in ("schedule", "reschedule", "run_now", "replay") and c.outcome != FAIL and c.sent_us <= at_us
        ]
        superseded = max((c.sent_us for c in moves if c.outcome == OK and c.answered_us <= at_us), default=0)
        candidates = [c.due_ms for c in moves if c.answered_us >= superseded]
        return min(candidates) if candidates else None

    # I4 ------------------------------------------------------------------------------------------------------------
    def extras_explained(self) -> None:
        unexplained: list[str] = []
        extras = 0
        reasons: Counter[str] = Counter()
        ended_badly = {(e.task_id, e.token) for e in self.h.ends if not e.ok}
        deaths: dict[int, list[Fault]] = defaultdict(list)
        windows = [f for f in self.h.faults if not f.pid]
        for fault in self.h.faults:
            if fault.pid:
                deaths[fault.pid].append(fault)
        for task_id, starts in self.starts.items():
            for before, again in pairwise(starts):
                extras += 1
                reason = self.why(before, again, ended_badly, deaths, windows)
                reasons[reason] += 1
                if not reason:
                    unexplained.append(f"{task_id} at {before.at_us} and {again.at_us}")
        self.figures |= {"execs": len(self.h.starts), "dups": extras, "explained": extras - len(unexplained)}
        self.figures |= {f"dups_{reason}": n for reason, n in sorted(reasons.items()) if reason}
        self.violate("I4", "extra executions that nothing explains", unexplained)

    def why(
        self,
        before: Start,
        again: Start,
        ended_badly: set[tuple[str, int]],
        struck_by: Mapping[int, list[Fault]],
        windows: list[Fault],
    ) -> str:
        """What made ``again`` necessary, or "" if nothing did. ``struck_by``: the faults of each process."""
        own = struck_by.get(before.pid, [])
        acks = self.acks.get((before.task_id, before.token), [])
        accepted = [a for a in acks if a.outcome == OK and a.answered_us <= again.at_us]
        for ack in accepted:
            if ack.op in ("fail", "release"):
                return "retry" if ack.op == "fail" else "handed_back"
            if self.rolled_back(ack.answered_us):
                return "rollback"
        if self.rolled_back(before.at_us):
            return "rollback"
        if any(
            c.op in ("replay", "schedule") and before.at_us < c.sent_us < again.at_us
            for c in self.calls.get(before.task_id, ())
        ):
            return "replay"
        if 0 < again.token < before.token and any(
            f.kind in ("freeze", "stop") and f.from_us <= again.at_us for f in struck_by.get(again.pid, ())
        ):
            # It was frozen between its claim and the handler, longer than its lease. Its answer must be refused (I5).
            return "thawed"
        if accepted or before.token == 0:
            return ""
        if (before.task_id, before.token) in ended_badly:
            return "retry"
        struck = next((f for f in own if before.at_us <= f.to_us and f.from_us <= again.at_us), None)
        if struck is not None:
            # A holder that was killed before it began left a gap in the tokens, and its own death.
            more = sum(1 for f in self.h.faults if f.pid and f is not struck and struck.to_us <= f.to_us <= again.at_us)
            lost = 1 + min(max(0, again.token - before.token - 1), more)
            earlier = before.token - 1 - self.reported(before)
            waits = sum(self.limits.waits_ms(earlier + n) for n in range(1, lost + 1))
            self.reruns.append((struck, again.at_us, lost, waits))
            return struck.kind
        if self.in_doubt(acks):
            return "ack_unknown"
        # A lease may run out while the server or the link is away; then somebody else's turn is right.
        if any(f.from_us <= again.at_us and f.to_us >= before.at_us for f in windows):
            return "lease_expired"
        return ""

    def reported(self, before: Start) -> int:
        """How many holders before this one said that they failed or gave the task back: these were not lost."""
        earlier = (self.acks.get((before.task_id, token), []) for token in range(1, before.token))
        return sum(any(a.op in ("fail", "release") and a.outcome == OK for a in acks) for acks in earlier)

    # I5 ------------------------------------------------------------------------------------------------------------
    def completed_once(self) -> None:
        double: list[str] = []
        outdated: list[str] = []
        for task_id, acks in self.done.items():
            if sum(not self.rolled_back(a.answered_us) for a in acks) > 1:
                double.append(task_id)
        for ack in self.h.acks:
            if ack.outcome != OK:
                continue
            newer = any(s.token > ack.token and s.at_us < ack.sent_us for s in self.starts.get(ack.task_id, ()))
            if newer and not self.rollbacks:
                outdated.append(f"{ack.op} of {ack.task_id} with token {ack.token}")
        self.figures |= {
            "double_completed": len(double),
            "stale_acks": sum(a.outcome == STALE for a in self.h.acks),
        }
        self.violate("I5", "tasks were completed more than once", double)
        self.violate("I5", "answers accepted with an outdated token", outdated)
        cancelled = [
            t
            for t, calls in self.calls.items()
            if self.starts.get(t) and any(c.op == "cancel" and c.outcome == OK for c in calls)
        ]
        self.figures["cancelled_but_ran"] = len(cancelled)
        self.violate("I5", "cancelled tasks ran", cancelled)

    # I6 ------------------------------------------------------------------------------------------------------------
    def structure(self) -> None:
        self.figures["orphans"] = len(self.final.fsck)
        self.violate("I6", "things fsck found wrong", list(self.final.fsck))
        self.violate("I6", "tasks both live and dead", sorted(self.final.live.keys() & self.final.dead.keys()))

    def first_runs(self) -> Iterator[tuple[int, int, str]]:
        """Due µs, first start µs and id of every task that ran."""
        for task_id, starts in self.starts.items():
            due = self.due_in_effect(task_id, starts[0].at_us)
            if due is not None:
                # Past dues count from the moment of scheduling: nobody can be punctual for what was not yet known.
                known = min(
                    (c.answered_us for c in self.known_by(task_id) if c.op == "schedule"), default=starts[0].at_us
                )
                yield max(due * 1000, min(known, starts[0].at_us)), starts[0].at_us, task_id

    # I7, I8 --------------------------------------------------------------------------------------------------------
    def recovery_and_lateness(self) -> None:
        first = sorted((due, at) for due, at, _ in self.first_runs())
        faults = [f for f in self.h.faults if f.kind != "rollback"]
        fires, drains, net = [0.0], [0.0], [0.0]
        # Only those can span a moment that were due within the longest lateness before it: there may be many faults.
        dues = [due for due, _ in first]
        longest = max((at - due for due, at in first), default=0)
        for fault in faults:
            near = first[bisect_left(dues, fault.to_us - longest) : bisect_right(dues, fault.to_us)]
            behind = [at for due, at in near if due <= fault.to_us < at]
            drains += [(at - fault.to_us) / 1000 for at in behind]
            net += [(at - fault.to_us) / 1000 - self.starved(fault.to_us, at) for at in behind]
            # Who had it next may have been killed before it began: as long again for each that was lost.
            for cause, at, times, waits in self.reruns:
                if cause is fault and at > fault.to_us:
                    took = (at - fault.to_us) / 1000
                    drains.append(took / times)
                    net.append((took - waits - self.starved(fault.to_us, at)) / times)
                    behind.append(at)
            fires += [(min(behind) - fault.to_us) / 1000] if behind else []
        recover = max(fires)
        drain = max(net)
        self.figures |= {"recover_ms": round(recover, 1), "drain_ms": round(max(drains), 1)}
        self.figures["drain_awake_ms"] = round(drain, 1)
        begun = sorted(f.from_us for f in faults)
        until = list(accumulate((f.to_us for f in sorted(faults, key=lambda f: f.from_us)), max))
        struck: list[int] = []
        calm: list[int] = []
        for due, at in first:
            before = bisect_right(begun, at)
            (struck if before and until[before - 1] >= due else calm).append(at - due)
        for name, values in (("", calm), ("_fault", struck)):
            values.sort()
            for label, share in (("p50", 0.5), ("p99", 0.99), ("p999", 0.999), ("max", 1.0)):
                value = values[min(len(values) - 1, int(len(values) * share))] / 1000 if values else 0.0
                self.figures[f"late{name}_{label}_ms"] = round(value, 2)
        limit = self.limits.recovery_ms
        # What no fault touched was late by this much on this machine at this time; a backlog cannot be taken sooner.
        usual = self.figures["late_p99_ms"]
        if limit is not None and drain > limit + usual:
            late = (
                f"backlog drained later than {limit} + {usual:.0f} ms (what calm tasks are late) after the fault, "
                "without the time that processes got no processor, and what lost tasks wait by rule"
            )
            self.violate("I7", late, [f"{drain:.0f} ms"])
        limit = self.limits.lateness_p99_ms
        if limit is not None and self.figures["late_p99_ms"] > limit:
            self.violate("I8", f"p99 lateness outside faults above {limit} ms", [self.figures["late_p99_ms"]])

    # I9 ------------------------------------------------------------------------------------------------------------
    def isolation(self) -> None:
        if not self.limits.harms:
            return
        spared = sorted(
            (at - due) / 1000 - self.starved(due, at)
            for due, at, task_id in self.first_runs()
            if any(harm.from_us <= due <= harm.to_us and harm.spares(task_id) for harm in self.limits.harms)
        )
        late = spared[min(len(spared) - 1, int(len(spared) * 0.99))] if spared else 0.0
        self.figures |= {"spared": len(spared), "late_spared_p99_ms": round(late, 2)}
        usual = self.figures["late_p99_ms"]
        limit = self.limits.isolation * usual + self.limits.spared_ms
        what = f"p99 lateness of what the harm spared above {limit:.0f} ms (calm tasks: {usual:.0f} ms)"
        self.violate("I9", what, [f"{late:.0f} ms"] if late > limit else [])


def check(
    history: History, final: Final, limits: Limits | None = None, *, starved: Starved = lambda _, __: 0.0
) -> Verdict:
    """The whole judgement of one run. ``starved``: how long (ms) the process that waited longest for a processor did so
    between two moments (µs)."""
    judge = _Judge(history, final, limits or Limits(), starved)
    judge.nothing_lost()
    judge.scheduled_once()
    judge.never_early()
    judge.extras_explained()
    judge.completed_once()
    judge.structure()
    judge.recovery_and_lateness()
    judge.isolation()
    # SIGKILL ends a write half-way now and then. What was to be written had not been begun, or not been answered.
    if history.torn > sum(1 for fault in history.faults if fault.kind == "kill"):
        judge.violate("oracle", "lines of the oracle are torn, so this run proves nothing", [history.torn])
    return Verdict(judge.figures, judge.violations)
