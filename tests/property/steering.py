"""Steps of a sequence with what only some tasks use: they put themselves off."""

from __future__ import annotations

import random

from delaybox.store.snooze import Snooze, snooze
from tests.property.checks import Checks
from tests.property.model import State, Task


class Steering(Checks):
    """Part of `driver.Sequence_`, whose helpers it uses."""

    rng: random.Random
    now: int

    def note(self, *what: object) -> None:
        raise NotImplementedError

    def span(self) -> int:
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
            elif over:
                want_dead.append(t.task_id)
            else:
                t.due, t.snoozed_since = self.now + s.delay_ms, since
        assert (stale, dead, dropped) == (want_stale, want_dead, 0)
