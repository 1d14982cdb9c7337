"""Steps of a sequence with what only some tasks use: they put themselves off, their keys are locks or replaced."""

from __future__ import annotations

import random
from typing import Any

from delaybox.core import ids
from delaybox.core.task import NewTask, OnConflict, UniqueWhile
from delaybox.store import groups
from delaybox.store.replies import Batch
from delaybox.store.snooze import Snooze, snooze
from delaybox.wire import body as wire_body
from tests.property.checks import Checks
from tests.property.model import State, Task

GROUPS = ["g", "g2", "order:17"]


class Steering(Checks):
    """Part of `driver.Sequence_`, whose helpers it uses."""

    rng: random.Random
    now: int
    locks: list[str]
    keyed: dict[bytes, list[NewTask]]

    def note(self, *what: object) -> None:
        raise NotImplementedError

    def span(self) -> int:
        raise NotImplementedError

    def new_task(self, key: str | None = None, **parts: Any) -> NewTask:
        raise NotImplementedError

    def a_lease(self) -> tuple[bytes, int, list[Task]]:
        raise NotImplementedError

    async def snooze(self) -> None:
        lease_id, p, tasks = self.a_lease()
        if not tasks:
            return
        longest = self.rng.choice([0, 1_000, 60_000, 10_000_000])
        items = [Snooze(t.task_id, self.span(), longest, "put off too long") for t in tasks]
        self.note("snooze", p, lease_id.hex(), longest, [(s.task_id.hex(), s.delay_ms) for s in items])
        stale, dead, dropped = await snooze(self.store, p, lease_id, items)
        want_stale, want_dead = [], []
        for t, s in zip(tasks, items, strict=True):
            since = self.now if t.snoozed_since is None else t.snoozed_since
            over = self.now + s.delay_ms > since + longest
            if not self.model.leave(lease_id, t.task_id, State.DEAD if over else State.PENDING):
                want_stale.append(t.task_id)
            elif t.superseded:
                continue
            elif over:
                want_dead.append(t.task_id)
            else:
                t.due, t.snoozed_since, t.first_due = self.now + s.delay_ms, since, 0
        assert (stale, dead, dropped) == (want_stale, want_dead, 0)

    async def replace_(self) -> None:
        """One task with a key that may be taken: a lock, or one that every request replaces."""
        rng = self.rng
        key = rng.choice([*self.locks, *(k.decode() for k in self.keyed)])
        new = self.new_task(
            key=key,
            on_conflict=OnConflict.REPLACE if rng.random() < 0.7 else OnConflict.KEEP,
            max_wait_ms=rng.choice([0, 0, 1_000, 60_000]),
            unique_while=rng.choice(list(UniqueWhile)) if key in self.locks else None,
        )
        p, d = self.store.partition_of(key.encode()), self.drafted(new)
        self.note("replace", p, key, new.due_ms, new.delay_ms, new.on_conflict, new.max_wait_ms, new.unique_while)
        (answers,) = await self.store.schedule([Batch(p, [d], d.replace)])
        if isinstance(answers, BaseException):
            raise answers
        (got,) = answers
        held = self.model.keys.get(key.encode())
        old = None if held is None else self.model.tasks[held[0]]
        if not d.replace and held is not None and old is not None:
            gone = old.state is State.CANCELLED
            want = (held[0], False, not gone and held[1] != d.fingerprint, gone)
            assert (got.task_id, got.created, got.conflict, got.cancelled) == want, (got, old)
            return
        due = self.now + new.delay_ms if new.delay_ms is not None else max(new.due_ms or 0, self.now)
        pending = old is not None and old.state is State.PENDING
        since = None
        if d.max_wait_ms:
            since = old.waiting_since if pending and old is not None and old.waiting_since is not None else self.now
            due = max(min(due, since + d.max_wait_ms), self.now)
        assert got.due_ms == due and got.created == (not pending), (got, due, old)
        deliveries = 0
        if old is not None and old.state is State.LEASED:
            old.superseded, old.key = True, None
        elif old is not None and old.state is State.DEAD:
            old.key = None
        elif pending and old is not None:
            assert got.task_id == old.task_id
            deliveries = old.deliveries
            del self.model.tasks[old.task_id]
        if not pending:
            assert ids.due_ms(got.task_id) == due
        self.model.create(got.task_id, p, new, d, wire_body.encode(new), due)
        made = self.model.tasks[got.task_id]
        made.deliveries, made.waiting_since = deliveries, since

    async def move_group(self) -> None:
        """Cancels or moves the waiting tasks of one group, as they are found by its index."""
        group, due = self.rng.choice(GROUPS), self.now + self.span()
        drop = self.rng.random() < 0.2
        self.note("cancel group" if drop else "move group", group, due)
        for p in await groups.places(self.store, group):
            found = [m async for page in groups.members(self.store, p, group) for m in page]
            mine = [t for t in self.model.of(State.PENDING, State.LEASED) if t.group == group and t.partition == p]
            if not self.lossy:
                assert [m.record.task_id for m in found] == sorted(t.task_id for t in mine)
            waiting = [m.record.task_id for m in found if not m.leased]
            assert all(self.model.tasks[task_id].state is State.PENDING for task_id in waiting)
            if not waiting:
                continue
            if drop:
                assert set(await self.store.cancel(waiting, group=group)) == {"cancelled"}
            else:
                assert set(await self.store.reschedule_many(waiting, due, group)) == {("moved", due)}
            assert set(await self.store.cancel(waiting, group="another")) == {"unknown"}
            for task_id in waiting:
                t = self.model.tasks[task_id]
                if not drop:
                    t.due, t.snoozed_since, t.first_due = due, None, 0
                if drop:
                    t.state = State.CANCELLED
                    self.model.unlock(t)
