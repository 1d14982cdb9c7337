"""Steps of a sequence with a taker that has fewer slots than work: queues with work get shares by their weights."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import combinations

from delaybox.core import ids
from delaybox.core.lane import split
from delaybox.core.queue import QueueRules
from delaybox.core.shares import Part, Shares
from delaybox.core.task import NewTask, Priority, TaskType
from delaybox.store.store import Batch, ClaimLimits
from delaybox.store.survey import packed, survey_call, waiting
from delaybox.wire import body as wire_body
from tests.property.claiming import Claiming
from tests.property.limiting import QUEUES
from tests.property.model import State, Task

WORKER = TaskType.WORKER.value
MOST = 250
"""Tasks of one claim; with another number than a whole claim's the order beside critical tasks is not judged."""


class Sharing(Claiming):
    """Part of `driver.Sequence_`, whose helpers it uses."""

    async def weigh(self) -> None:
        """Sets other weights, brings work, and lets a taker with few slots take some of it."""
        rng = self.rng
        for queue in QUEUES:
            weight = rng.choice([None, 0.5, 1.0, 2.0, 5.0])
            self.limits[queue] = replace(self.limits.get(queue, QueueRules()), weight=weight)
        await self.steer()
        for p in range(self.store.partitions):
            await self.bring_work(p)
        slots, rounds = rng.choice([1, 2, 3, 7]), rng.randint(1, 6)
        self.note("weigh", {queue: self.weight_of(queue) for queue in QUEUES}, slots, rounds)
        shares, came = Shares(self.weight_of), Counter[str]()
        waited = {queue for queue in QUEUES if not self.model.waits(self.one_of(queue))}
        waited = {queue for queue in waited if not self.limited(self.one_of(queue)) and not self.limits[queue].keys}
        for _ in range(rounds):
            due = Counter([split(t.lane).queue for t in await self.found() if not t.critical])
            waited = {queue for queue in waited if due[queue] >= slots}
            planned, got = await self.take(shares, slots)
            # What is planned and does not come is none of what waits: a hint of a task that is gone.
            waited = {queue for queue in waited if planned[queue] == got[queue]}
            came += got
        if not self.lossy:
            self.judge(waited, came)

    def judge(self, waited: set[str], came: Counter[str]) -> None:
        """Of two queues that had work all the time neither is ahead by more than one task of each."""
        for a, b in combinations(sorted(waited), 2):
            each = 1 / self.weight_of(a), 1 / self.weight_of(b)
            apart = abs(came[a] * each[0] - came[b] * each[1])
            assert apart <= sum(each) + 1e-9, f"{came} tasks came of queues with weights {self.limits}: {a} and {b}"

    def weight_of(self, queue: str) -> float:
        return self.limits.get(queue, QueueRules()).weight or 1.0

    def one_of(self, queue: str) -> Task:
        """A task of a queue, to ask what holds for it."""
        lane = f"{WORKER}{'' if queue == 'default' else queue}:f".encode()
        return Task(b"", 0, lane, Priority.NORMAL, 0, None, False, b"")

    async def bring_work(self, p: int) -> None:
        rng, new = self.rng, list[NewTask]()
        for queue in QUEUES:
            for _ in range(rng.choice([0, 5, 25])):
                priority = rng.choice([Priority.NORMAL, Priority.NORMAL, Priority.HIGH, Priority.CRITICAL])
                key = rng.choice(["", "a", "b"]) if queue == "a.b-c" else ""
                new.append(NewTask(type=TaskType.WORKER, name="f", queue=queue, priority=priority, fairness_key=key))
        rng.shuffle(new)
        if not new:
            return
        drafts = [self.drafted(t) for t in new]
        (answers,) = await self.store.schedule([Batch(p, drafts)])
        if isinstance(answers, BaseException):
            raise answers
        for t, d, answer in zip(new, drafts, answers, strict=True):
            assert answer.created and ids.partition(answer.task_id) == p
            self.model.create(answer.task_id, p, t, d, wire_body.encode(t), self.now)

    async def found(self) -> list[Task]:
        """Due tasks of workers that a taker can find."""
        hinted = {task_id for p in range(self.store.partitions) for task_id in await self.hinted(p)}
        tasks = [self.model.tasks[task_id] for task_id in sorted(hinted)]
        return [t for t in tasks if t.state is State.PENDING and t.due <= self.now and t.letter == WORKER]

    async def take(self, shares: Shares, slots: int) -> tuple[Counter[str], Counter[str]]:
        """One turn of a taker, as `engine.shares.Chooser` has it: what was planned, and what came, by queue."""
        every = range(self.store.partitions)
        calls = [survey_call(self.store, p, types=WORKER, lanes=(), guest=False, weighted=True) for p in every]
        replies = await self.store.runner.run_many(calls)
        seen = {p: waiting(reply) for p, reply in zip(every, replies, strict=True)}
        parts = shares.plan(slots, seen, MOST)
        assert sum(part.total for part in parts.values()) <= slots
        planned, lanes, critical = Counter[str](), Counter[bytes](), 0
        for p, part in parts.items():
            for task_id in await self.claim_part(p, part, shares):
                t = self.model.tasks[task_id]
                lanes[t.lane] += not t.critical
                critical += t.critical
            for lane, count in part.lanes.items():
                planned[split(lane).queue] += count
        shares.took(critical, {lane: count for lane, count in lanes.items() if count})
        got = Counter[str]()
        for lane, count in lanes.items():
            got[split(lane).queue] += count
        return planned, got

    async def claim_part(self, p: int, part: Part, shares: Shares) -> list[bytes]:
        limits = ClaimLimits(slots=part.total, types=WORKER, items=MOST, plan=packed(part, shares.charge))
        return await self.claim_and_check(p, self.rng.randbytes(16), limits)
