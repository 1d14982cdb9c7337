"""What must hold after any step, on a real server beside the model."""

from __future__ import annotations

from typing import Any

from delaybox.core import ids
from delaybox.store import keys
from delaybox.store.fsck import fsck
from delaybox.store.label_entries import split
from delaybox.store.record import group_member, read, read_dead
from delaybox.store.store import Store
from tests.property.labelling import Labelling
from tests.property.model import Model, State


class Checks(Labelling):
    """Compares the store with the model."""

    client: Any
    store: Store
    model: Model
    lossy: bool

    async def compare(self) -> None:
        """Every task in exactly one state, the model's, and nothing else stored."""
        where: dict[bytes, list[tuple[State, bytes | None, Any]]] = {}
        width = self.store.bucket_ms
        for tag in self.store.tags:
            buckets, leases = await self.client.keys(f"{tag}:b:*"), await self.client.keys(f"{tag}:lease:*")
            pipe = self.client.pipeline(transaction=False)
            for name in (*buckets, *leases, keys.dead(tag)):
                pipe.hgetall(name)
            *hashes, dead = await pipe.execute()
            for name, stored in zip(buckets, hashes[: len(buckets)], strict=True):
                for task_id, raw in stored.items():
                    if raw:
                        assert int(name.rsplit(b":", 1)[1]) == ids.due_ms(task_id) // width, "wrong bucket"
                        where.setdefault(task_id, []).append((State.PENDING, None, read(task_id, raw)))
            for name, stored in zip(leases, hashes[len(buckets) :], strict=True):
                lease_id = name[len(tag) + 7 :]
                for task_id, raw in stored.items():
                    where.setdefault(task_id, []).append((State.LEASED, lease_id, read(task_id, raw)))
            for task_id, value in dead.items():
                where.setdefault(task_id, []).append((State.DEAD, None, read_dead(task_id, value)[2]))
        for task_id, places in where.items():
            assert len(places) == 1, f"{task_id.hex()} lies in {len(places)} places"
            t = self.model.tasks[task_id]
            state, lease_id, record = places[0]
            assert (state, lease_id) == (t.state, t.lease), f"stored as {state} {lease_id!r}, but {t}"
            assert not (why := t.differs(record)), f"{t}: {why}"
        grouped = [t for t in self.model.of(State.PENDING, State.LEASED, State.DEAD) if t.group]
        for p, tag in enumerate(self.store.tags):
            listed = set(await self.client.zrange(keys.groups(tag), 0, -1))
            wanted = {group_member(t.group, t.task_id) for t in grouped if t.partition == p}
            assert listed == wanted or (self.lossy and listed <= wanted), f"groups list {listed ^ wanted}"
        live = {t.task_id for t in self.model.of(State.PENDING, State.LEASED, State.DEAD)}
        assert not (lost := live - where.keys()), f"lost: {[self.model.tasks[i] for i in lost]}"

    async def clean(self) -> None:
        report = await fsck(self.store)
        problems = report.problems
        if self.lossy:
            # The scrubber walks what waits: a group that was lost by hand lists a task again when it is home again.
            away = [f"id {ids.render(t.task_id)}:" for t in self.model.of(State.LEASED, State.DEAD)]
            problems = [p for p in problems if not (p.startswith("group-missing:") and any(i in p for i in away))]
        assert problems == [], "\n".join(problems)

    async def check_leftovers(self) -> None:
        dead = {t.task_id for t in self.model.of(State.DEAD)}
        for tag in self.store.tags:
            for name in await self.client.keys(f"{tag}:*"):
                kind, _, rest = name[len(tag) + 1 :].partition(b":")
                fine = kind in (b"clock", b"dead", b"req", b"stream", b"active") or (kind == b"body" and rest in dead)
                # Which lanes may have fairness keys.
                fine = fine or (kind == b"fair" and not rest)
                if kind == b"idem":
                    task_id = self.model.keys[rest][0]
                    fine = (await self.client.ttl(name) == -1) == (task_id in dead)
                if kind == b"cancelled":
                    fine = self.model.tasks[rest].state is State.CANCELLED and await self.client.ttl(name) > 0
                if kind == b"label":
                    fine = any(t.labels for t in self.model.of(State.DEAD))
                if kind == b"listed":
                    # Also by labels that a task has no more.
                    entries = [one for element in await self.client.lrange(name, 0, -1) for one in split(element)]
                    fine = {one[: ids.ID_BYTES] for one in entries} <= dead
                if kind == b"groups":
                    fine = any(t.group for t in self.model.of(State.DEAD))
                assert fine, f"{name!r} is left behind"
