"""Drives one random sequence on a real server beside the model, and says where they differ."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

from delaybox.core import ids
from delaybox.core.task import DeliveryMode, NewTask, Priority, TaskType
from delaybox.store import keys, label_lists
from delaybox.store.resuming import resume
from delaybox.store.store import Batch, ClaimLimits, Store
from delaybox.wire import body as wire_body
from tests.lab import CLOCK_KEY
from tests.property.claiming import CHANNEL, LETTERS, LONGEST_MS
from tests.property.labelling import VALUES
from tests.property.model import LOSSES_CAP, REFUSALS, Model, Notes, State, Task
from tests.property.sharing import Sharing
from tests.property.steering import GROUPS, Steering

DRAIN: Any = {"lease_ms": LONGEST_MS, "every_ms": 10_000}
"""A gap between looks of up to three times `every_ms` is no outage."""
NAMES = {
    TaskType.PUB_SUB: [""],
    TaskType.HTTP: [""],
    TaskType.SHELL_CMD: ["", "backup"],
    TaskType.WORKER: ["f", "g"],
}


class Sequence_(Steering, Sharing):  # noqa: N801 - typing's name is taken
    """One sequence: `step` does something at random and checks it; `finish` drains and checks the rest."""

    def __init__(self, client: Any, store: Store, rng: random.Random) -> None:
        self.client, self.store, self.rng = client, store, rng
        self.model = Model()
        self.now = 1_800_000_000_000 + rng.randrange(10**9)
        self.log: list[str] = []
        self.lossy = False
        self.start_limiting()
        self.gone_leases: list[bytes] = []
        self.seen_stream = [b"-"] * store.partitions
        self.actions = [
            (24, self.schedule), (18, self.move_time), (17, self.claim), (8, self.claim_together),
            (10, self.ack), (7, self.fail),
            (4, self.snooze), (8, self.replace_),
            (4, self.release), (4, self.resume), (3, self.lose), (3, self.extend), (6, self.reap), (12, self.expand),
            (5, self.cancel), (6, self.reschedule), (3, self.replay), (2, self.discard), (2, self.scrub),
            (1, self.flush),
            (3, self.pause), (5, self.move_group), (2, self.limit), (8, self.bring_permits), (1, self.weigh),
            (3, self.relist),
        ]  # fmt: skip
        if rng.random() < 0.15:
            self.actions.append((6, self.lose_hint))
        self.weights = [w for w, _ in self.actions]
        self.locks = [f"lock-{i}" for i in range(4)]
        # Two requests for each key: the same again gets the same id, the other one a conflict.
        self.keyed = {
            f"key-{i}".encode(): [self.new_task(key=f"key-{i}"), self.new_task(key=f"key-{i}")] for i in range(10)
        }

    # -- steps --------------------------------------------------------------------------------------------------

    async def step(self) -> None:
        action = self.rng.choices([a for _, a in self.actions], self.weights)[0]
        await self.client.set(CLOCK_KEY, self.now)
        await action()

    def note(self, *what: object) -> None:
        self.log.append(f"@{self.now} " + " ".join(map(str, what)))

    def some(self, tasks: Sequence[Task], most: int = 4) -> list[Task]:
        return self.rng.sample(list(tasks), min(len(tasks), self.rng.randint(1, most)))

    def partition(self) -> int:
        return self.rng.randrange(self.store.partitions)

    def span(self) -> int:
        return self.rng.choice(
            [0, 1, self.rng.randrange(2_000), self.rng.randrange(60_000), self.rng.randrange(400_000)]
        )

    def new_task(self, key: str | None = None, **parts: Any) -> NewTask:
        rng = self.rng
        due: dict[str, Any] = {}
        match rng.randrange(5):
            case 0:
                due = {"delay_ms": self.span()}
            case 1:
                due = {"due_ms": self.now - self.span()}
            case 2:
                pass
            case _:
                due = {"due_ms": self.now + self.span()}
        size = rng.choice([0, 10, 80, 200, 200, 1_021, 1_500])
        task_type = rng.choice(list(TaskType))
        queue = rng.choice(["default", "default", "mail", "a.b-c"])
        return NewTask(
            payload=rng.randbytes(size),
            type=task_type,
            name=rng.choice(NAMES[task_type]),
            queue=queue,
            priority=rng.choice(list(Priority)),
            header={"x": b"1"} if rng.random() < 0.2 else {},
            idempotency_key=key,
            delivery=DeliveryMode.AT_MOST_ONCE if rng.random() < 0.1 else DeliveryMode.AT_LEAST_ONCE,
            group=rng.choice(GROUPS) if rng.random() < 0.2 else "",
            labels={"c": rng.choice(VALUES)} if rng.random() < 0.3 else {},
            expire_after_ms=60_000 if rng.random() < 0.15 else 0,
            fairness_key=rng.choice(["", "a", "b", "c"]) if queue == "a.b-c" else "",
            **due,
            **parts,
        )

    async def schedule(self) -> None:
        p, new = self.partition(), []
        for _ in range(self.rng.randint(1, 7)):
            mine = [k for k in self.keyed if self.store.partition_of(k) == p]
            keyed = mine and self.rng.random() < 0.3
            new.append(self.rng.choice(self.keyed[self.rng.choice(mine)]) if keyed else self.new_task())
        drafts = [self.drafted(t) for t in new]
        self.note("schedule", p, [(t.due_ms, t.delay_ms, t.idempotency_key) for t in new])
        answers = (await self.store.schedule([Batch(p, drafts)]))[0]
        if isinstance(answers, BaseException):
            raise answers
        for t, d, got in zip(new, drafts, answers, strict=True):
            held = self.model.keys.get(d.key) if d.key is not None else None
            if held is not None:
                gone = self.model.tasks[held[0]].state is State.CANCELLED
                want = (held[0], False, not gone and held[1] != d.fingerprint, gone)
                assert (got.task_id, got.created, got.conflict, got.cancelled) == want, f"key {d.key!r}: {got}"
                continue
            due = self.now + t.delay_ms if t.delay_ms is not None else max(t.due_ms or 0, self.now)
            assert got.created and not got.conflict and got.due_ms == due == ids.due_ms(got.task_id), (got, due)
            assert ids.partition(got.task_id) == p
            self.model.create(got.task_id, p, t, d, wire_body.encode(t), due)

    async def move_time(self) -> None:
        by = self.rng.choice([1, self.rng.randrange(50), self.rng.randrange(2_000), self.rng.randrange(60_000)])
        if self.rng.random() < 0.05:
            by = -self.rng.randrange(10_000)
        self.now += by
        self.note("time", by)

    def a_lease(self) -> tuple[bytes, int, list[Task]]:
        """(lease id, partition, tasks to name), with stale ones among them."""
        tasks = self.some(self.model.of(State.LEASED, State.LEASED, State.PENDING, State.DONE), 2)
        if self.model.leases and self.rng.random() < 0.9:
            lease_id = self.rng.choice(list(self.model.leases))
            lease = self.model.leases[lease_id]
            held = self.some([self.model.tasks[i] for i in sorted(lease.held)], 10)
            stray = [t for t in tasks if t not in held and self.rng.random() < 0.3]
            return lease_id, lease.partition, held + stray
        # A claim may have used one of these again, in its own partition.
        gone = [one for one in self.gone_leases if one not in self.model.leases]
        lease_id = self.rng.choice(gone) if gone else self.rng.randbytes(16)
        return lease_id, tasks[0].partition if tasks else 0, tasks

    async def ack(self) -> None:
        lease_id, p, tasks = self.a_lease()
        if not tasks:
            return
        self.note("ack", p, lease_id.hex(), [t.task_id.hex() for t in tasks])
        stale = await self.store.ack(p, lease_id, [t.task_id for t in tasks])
        want = [t.task_id for t in tasks if not self.model.leave(lease_id, t.task_id, State.DONE)]
        assert stale == want, f"stale acks {stale}, want {want}"

    async def fail(self) -> None:
        lease_id, p, tasks = self.a_lease()
        if not tasks:
            return
        items = [(t.task_id, None if self.rng.random() < 0.3 else self.span(), "broke\xe9") for t in tasks]
        self.note("fail", p, lease_id.hex(), [(i.hex(), d) for i, d, _ in items])
        stale, dropped = await self.store.fail(p, lease_id, items)
        want = []
        for task_id, delay, _ in items:
            if not self.model.leave(lease_id, task_id, State.DEAD if delay is None else State.PENDING):
                want.append(task_id)
                continue
            t = self.model.tasks[task_id]
            t.attempt += 1
            if delay is not None:
                t.due, t.first_due = self.now + delay, 0
        assert (stale, dropped) == (want, 0)

    async def release(self) -> None:
        lease_id, p, tasks = self.a_lease()
        if not tasks:
            return
        delay, until = self.rng.choice([(0, 0), (self.span(), 0), (0, self.now + self.span() - 1_000)])
        self.note("release", p, lease_id.hex(), delay, until, [t.task_id.hex() for t in tasks])
        stale = await self.store.release(p, lease_id, [t.task_id for t in tasks], delay_ms=delay, until_ms=until)
        want = []
        for t in tasks:
            if not self.model.leave(lease_id, t.task_id, State.PENDING):
                want.append(t.task_id)
            elif delay or until:
                t.first_due = t.first_due or (t.due if t.look else 0)
                t.due = max(until, self.now) if until else self.now + delay
        assert stale == want

    async def resume(self) -> None:
        """Some that wait, some that were moved meanwhile, some that are not there any more."""
        p = self.partition()
        tasks = [t for t in self.some(self.model.of(*State), 8) if t.partition == p]
        asked = [(t, t.due + self.rng.choice([0, 0, 0, 1])) for t in tasks]
        if not asked:
            return
        self.note("resume", p, [(t.task_id.hex(), due) for t, due in asked])
        moved = await resume(self.store, {p: [(t.task_id, due) for t, due in asked]})
        waits = [t for t, due in asked if t.state is State.PENDING and t.due == due > self.now]
        assert moved == len(waits)
        for t in waits:
            t.due = self.now

    async def lose(self) -> None:
        lease_id, p, tasks = self.a_lease()
        if not tasks:
            return
        self.note("lose", p, lease_id.hex(), [t.task_id.hex() for t in tasks])
        failing = self.rng.random() < 0.2
        stale, dead, dropped = await self.store.lose(
            p,
            lease_id,
            [t.task_id for t in tasks],
            losses_cap=LOSSES_CAP,
            lease_ms=LONGEST_MS,
            failing=failing,
        )
        before = len(self.model.of(State.DEAD))
        hold = self.model.notes.setdefault(p, Notes()).hold(failing, self.now, LONGEST_MS)
        want = [t.task_id for t in tasks if not self.model.charge_loss(lease_id, t.task_id, "worker", hold=hold)]
        assert (stale, dead, dropped) == (want, len(self.model.of(State.DEAD)) - before, 0)

    async def extend(self) -> None:
        p = self.partition()
        lease_ids = [i for i, lease in self.model.leases.items() if lease.partition == p][:3]
        lease_ids += self.gone_leases[-2:] if self.rng.random() < 0.3 else []
        lease_ids = list(dict.fromkeys(lease_ids))
        if not lease_ids:
            return
        self.note("extend", p)
        missing = await self.store.extend(p, lease_ids, 5_000)
        mine = {i for i, lease in self.model.leases.items() if lease.partition == p}
        assert missing == [i for i in lease_ids if i not in mine]
        for i in mine & set(lease_ids):
            self.model.leases[i].expiry = self.now + (self.model.leases[i].length or 5_000)

    async def reap(self) -> None:
        """One look, or several in a row as of a reaper that lives."""
        p, every_ms = self.partition(), self.rng.choice([1, 500, 10_000])
        for _ in range(self.rng.choice([1, 1, 4])):
            failing = self.rng.random() < 0.2
            self.note("reap", p, every_ms, failing)
            before = set(self.model.leases)
            reply = await self.store.reap(
                p, losses_cap=LOSSES_CAP, lease_ms=LONGEST_MS, every_ms=every_ms, failing=failing
            )
            want = self.model.reap(p, self.now, lease_ms=LONGEST_MS, every_ms=every_ms, failing=failing)
            self.gone_leases += sorted(before - set(self.model.leases))
            assert (reply.leases, reply.back, reply.dead, reply.grace_ms) == want, (reply, want)
            self.now += every_ms
            await self.client.set(CLOCK_KEY, self.now)

    async def expand(self) -> None:
        """Expands, and is killed in the middle now and then: the next one starts at cursor 0 again."""
        p = self.partition()
        lead = self.rng.choice([0, 1_000, 60_000, 120_000])
        crash_after = self.rng.choice([0, 1, 2, 5, 1_000, 1_000])
        self.note("expand", p, lead, crash_after)
        await self.expand_all(p, lead, crash_after)

    async def expand_all(self, p: int, lead: int, crash_after: int) -> None:
        done, chunks = -1, 0
        for _ in range(2_000):
            look = await self.store.expand(p, lead_ms=lead, done=done)
            if look.bucket < 0:
                return
            cursor = b"0"
            while True:
                if chunks >= crash_after:
                    return
                chunks += 1
                cursor, _, _ = await self.store.index(p, look.bucket, cursor, count=self.rng.choice([1, 3, 250]))
                if cursor == b"0":
                    break
            done = look.bucket
        raise AssertionError("expansion does not end")

    async def scrub(self) -> None:
        for p in range(self.store.partitions):
            numbers = await self.client.zrange(keys.buckets(self.store.tags[p]), 0, -1)
            for number in numbers if self.lossy else self.rng.sample(numbers, min(3, len(numbers))):
                cursor = b"0"
                while True:
                    cursor, _, _ = await self.store.index(p, int(number), cursor)
                    if cursor == b"0":
                        break
        self.note("scrub")

    async def cancel(self) -> None:
        tasks = self.some(list(self.model.tasks.values()), 5)
        for p in {t.partition for t in tasks}:
            mine = [t for t in tasks if t.partition == p]
            free = self.rng.random() < 0.3
            self.note("cancel", [t.task_id.hex() for t in mine], free)
            words = await self.store.cancel([t.task_id for t in mine], free_key=free)
            for t, word in zip(mine, words, strict=True):
                pending = t.state is State.PENDING
                named = t.key is not None and self.model.keys.get(t.key, (b"",))[0] == t.task_id
                freed = free and named and t.state is State.CANCELLED
                if free and not named and t.state is State.CANCELLED and word == "cancelled":
                    continue  # its key is the next task's by now, and the store still knew that it had one
                want = "cancelled" if pending or freed else REFUSALS.get(t.state, "unknown")
                assert word == want, f"cancel of {t}: {word}"
                t.state = State.CANCELLED if pending else t.state
                if pending:
                    self.model.unlock(t)
                if (pending or freed) and free and named and t.key is not None:
                    del self.model.keys[t.key]

    async def reschedule(self) -> None:
        rng = self.rng
        if not self.model.tasks:
            return
        pending = self.model.of(State.PENDING)
        t = rng.choice(pending if pending and rng.random() < 0.8 else list(self.model.tasks.values()))
        priority = rng.choice([None, None, *Priority])
        match rng.randrange(5):
            case 0:
                how, due = {"delay_ms": 0}, self.now
            case 1:
                delay = self.span()
                how, due = {"delay_ms": delay}, self.now + delay
            case 2:
                how, due = {}, t.due
            case _:
                at = self.now + self.span() - rng.choice([0, 0, 30_000])
                how, due = {"due_ms": at}, max(at, self.now)
        self.note("reschedule", t.task_id.hex(), how, priority)
        word, got = await self.store.reschedule(t.task_id, priority=priority, **how)
        if t.state is not State.PENDING:
            assert word == REFUSALS.get(t.state, "unknown"), f"reschedule of {t}: {word}"
            return
        assert (word, got) == ("moved", due), f"reschedule of {t}: {word} {got}, want {due}"
        t.due = due
        t.snoozed_since, t.first_due = (None, 0) if how else (t.snoozed_since, t.first_due)
        t.priority = t.priority if priority is None else priority

    async def replay(self) -> None:
        for t in self.some(self.model.of(State.DEAD, State.DONE), 3):
            self.note("replay", t.task_id.hex())
            words = await self.store.replay([t.task_id])
            assert words == ["replayed" if t.state is State.DEAD else "unknown"], (t, words)
            if t.state is State.DEAD:
                t.state, t.due, t.attempt, t.blamed, t.carried = State.PENDING, self.now, 0, 0, 0
                t.snoozed_since, t.first_due = None, 0

    async def discard(self) -> None:
        for t in self.some(self.model.of(State.DEAD, State.PENDING), 2):
            self.note("discard", t.task_id.hex())
            assert await self.store.discard(t.partition, [t.task_id]) == (t.state is State.DEAD)
            t.state = State.DISCARDED if t.state is State.DEAD else t.state

    async def flush(self) -> None:
        self.note("script flush")
        await self.client.script_flush()

    async def lose_hint(self) -> None:
        """Rule 6: any lost hint heals. What the sequence then promises, it promises after a scrub."""
        self.lossy = True
        tag = self.store.tags[self.partition()]
        match self.rng.randrange(3):
            case 0:
                key = self.rng.choice([*keys.nears(tag), keys.groups(tag)])
                await self.client.zpopmin(key, self.rng.randint(1, 3))
            case 1:
                key = f"{tag}:active:{self.rng.choice(LETTERS)}{self.rng.choice(['', ':critical'])}"
                await self.client.delete(key)
            case _:
                lanes = sorted(await self.client.keys(f"{tag}:ready:*"))  # or the seed would not repeat it
                key = self.rng.choice(lanes).decode() if lanes else ""
                # What is kept of fairness keys beside it goes with it, or stays until the lane has ready work again.
                await self.client.delete(
                    key, *(key.replace(":ready:", f":{kind}:") for kind in ("fair", "fairq", "fairidle"))
                )
        self.note("lost", key.removeprefix(tag))

    # -- the end ------------------------------------------------------------------------------------------------

    async def finish(self) -> None:
        """Drains everything: each task is completed, dead, or was cancelled, and nothing is left behind."""
        await self.client.set(CLOCK_KEY, self.now)
        if self.lossy:
            await self.scrub()
        await self.compare()
        await self.clean()
        self.model.paused.clear()
        self.limits.clear()
        await self.steer()
        for _ in range(100):
            for by in (80_000, 20_000):
                self.now += by
                await self.client.set(CLOCK_KEY, self.now)
                for p in range(self.store.partitions):
                    await self.drain_turn(p)
            if not self.model.of(State.PENDING, State.LEASED):
                break
        else:
            raise AssertionError(f"still there after 100 turns: {self.model.of(State.PENDING, State.LEASED)}")
        await self.compare()
        await self.clean()
        await self.forget_permits()
        for p in range(self.store.partitions):
            async for _ in label_lists.look_through(self.store, p, every=True):
                pass
        await self.check_labels(ended=False)
        await self.check_leftovers()
        assert Counter(t.state for t in self.model.tasks.values()).keys() <= {
            State.DONE, State.DEAD, State.CANCELLED, State.DISCARDED,
        }  # fmt: skip

    async def drain_turn(self, p: int) -> None:
        await self.store.reap(p, losses_cap=LOSSES_CAP, **DRAIN)
        self.model.reap(p, self.now, **DRAIN)
        await self.expand_all(p, 60_000, 10_000)
        limits = ClaimLimits(slots=500, types=LETTERS, channel=self.rng.choice(["", CHANNEL]), stream=1_000_000)
        for _ in range(20):
            lease_id = self.rng.randbytes(16)
            got = await self.claim_and_check(p, lease_id, limits)
            if not got:
                break
            assert await self.store.ack(p, lease_id, got) == []
            for task_id in got:
                assert self.model.leave(lease_id, task_id, State.DONE)
