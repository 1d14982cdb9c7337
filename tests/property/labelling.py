"""The index of labels in random sequences: tasks come into lists or sets, and lists are looked through in between."""

from __future__ import annotations

import random
from typing import Any

from delaybox.core.task import NewTask
from delaybox.store import label_index, label_lists
from delaybox.store.label_entries import draft_with
from delaybox.store.record import Draft, draft
from delaybox.store.store import Store
from tests.property.model import Model, State

NAME = "c"
VALUES = "xy"


class Labelling:
    """All tasks are indexed by one label."""

    store: Store
    model: Model
    rng: random.Random
    note: Any

    def drafted(self, new: NewTask) -> Draft:
        made = draft(new)
        draft_with(made, (NAME,), new.labels)
        return made

    async def start_labelling(self) -> None:
        for p in range(self.store.partitions):
            await label_index.completed(self.store, p, (NAME,))

    async def relist(self) -> None:
        p, steps = self.rng.randrange(self.store.partitions), self.rng.choice([1, 2, 1_000])
        self.note("relist", p, steps)
        async for _ in label_lists.look_through(self.store, p, every=self.rng.random() < 0.5):
            steps -= 1
            if not steps:
                return

    async def check_labels(self, *, ended: bool = True) -> None:
        """Whatever has the label and has not ended is found. ``ended``: what has may be found as well."""
        live = self.model.of(State.PENDING, State.LEASED, State.DEAD)
        for value in VALUES:
            found = [one async for some in label_index.candidates(self.store, NAME, value) for one in some]
            assert len(found) == len(set(found)), "found twice"
            wanted = {(t.partition, t.task_id) for t in live if t.labels.get(NAME) == value}
            assert wanted <= set(found), f"not found by {value}: {wanted - set(found)}"
            if not ended:
                assert {task_id for _, task_id in found} <= {t.task_id for t in live}
