"""T10: primaries of a cluster die or are replaced, and slots move, while tasks are scheduled and carried out.

Producers are in `strict`, so that a primary that was replaced without being asked may lose nothing that it had
acknowledged. They send without waiting for each other: what the harm holds up must hold up nothing else.
"""

from __future__ import annotations

import asyncio
import itertools
from functools import partial
from pathlib import Path
from uuid import UUID

import pytest

from delaybox.core import ids
from delaybox.core.durability import Durability, DurabilityMode
from delaybox.core.task import NewTask, TaskType
from delaybox.service import Service
from delaybox.store import keys
from tests.faults.harness.checker import Harm, Limits
from tests.faults.harness.cluster import KINDS, Cluster
from tests.faults.harness.look import payload
from tests.faults.harness.oracle import OK, History
from tests.faults.harness.rig import LEASE_MS, Rig, soon
from tests.faults.harness.scale import FULL, WHOLE, scaled

pytestmark = [pytest.mark.faults, pytest.mark.timeout(scaled(300, 1_800))]

STRICT = Durability(mode=DurabilityMode.STRICT, within_ms=500)
PARTITIONS = 16
CHUNK = 50
UNDER_WAY = 64
"""Calls of producers at once."""
AHEAD_MS = 300
EVERY_S = scaled(0.1, 0.05)


async def send(rig: Rig, service: Service, first: int) -> None:
    """Schedules some tasks, each until it is confirmed."""
    due_ms = soon(AHEAD_MS)
    names = [f"k{n}" for n in range(first, first + CHUNK)]
    tasks = {k: NewTask(payload=payload(k), due_ms=due_ms, type=TaskType.WORKER, idempotency_key=k) for k in names}
    while tasks:
        tasks, refused = await rig.submit(service, tasks)
        assert not refused
        if tasks:
            await asyncio.sleep(0.05)


async def produce(rig: Rig, service: Service, count: int, over: asyncio.Event) -> int:
    """Sends at least so many, and on until ``over``; how many."""
    room = asyncio.Semaphore(UNDER_WAY)

    async def one(first: int) -> None:
        async with room:
            await send(rig, service, first)

    async with asyncio.TaskGroup() as group:
        for first in itertools.count(0, CHUNK):
            if first >= count and over.is_set():
                return first
            group.create_task(one(first))
            await asyncio.sleep(EVERY_S)
    raise AssertionError("it does not end")


def partition_of(task_id: str) -> int:
    return ids.partition(UUID(task_id).bytes)


def lies_elsewhere(mine: frozenset[int], task_id: str) -> bool:
    return partition_of(task_id) not in mine


def late_ms(history: History) -> dict[int, list[tuple[int, float]]]:
    """Partition → (due µs, how late it first ran) of each task that was stored in time."""
    due = {c.task_id: c.due_ms for c in history.calls if c.outcome == OK and c.answered_us < c.due_ms * 1_000}
    found: dict[int, list[tuple[int, float]]] = {p: [] for p in range(PARTITIONS)}
    for start in sorted(history.starts, key=lambda start: start.at_us):
        if (at := due.pop(start.task_id, None)) is not None:
            found[partition_of(start.task_id)].append((at * 1_000, start.at_us / 1_000 - at))
    return found


def p99(values: list[float]) -> float:
    return sorted(values)[int(len(values) * 0.99)] if values else 0.0


async def test_a_cluster_loses_nothing_and_goes_on_elsewhere(tmp_path: Path) -> None:
    count = scaled(1_000, WHOLE)
    cluster = Cluster(tmp_path / "cluster")
    async with Rig(tmp_path, "T10", mode="strict", server=cluster, partitions=PARTITIONS, durability=STRICT) as rig:
        service = await rig.service()
        await rig.workers(2)
        tags = [keys.tag(rig.prefix, p) for p in range(PARTITIONS)]
        over = asyncio.Event()
        producing = asyncio.create_task(produce(rig, service, count, over))
        struck: list[tuple[str, frozenset[int], int, int]] = []
        kinds = rig.nemesis.random.sample(4 * KINDS, 4 * len(KINDS)) if FULL else ["takeover", "kill"]
        for kind in kinds:
            await asyncio.sleep(rig.nemesis.random.uniform(0.3, 1.0))
            tag = rig.nemesis.random.choice(tags)
            victim = await asyncio.to_thread(cluster.of.primary_of, tag)
            mine = frozenset(p for p in range(PARTITIONS) if cluster.of.primary_of(tags[p]) is victim)
            struck.append((kind, mine, *await cluster.strike(rig.nemesis, kind, tag)))
        over.set()
        sent = await producing
        await rig.drained(sent, timeout_s=scaled(60, 600))
        late = late_ms(rig.reader.history)
        killed = [(mine, began, ended) for kind, mine, began, ended in struck if kind == "kill"]
        harms = [Harm(a, b, partial(lies_elsewhere, mine)) for mine, a, b in killed]
        windows = [(began - 500_000, ended + 2_000_000) for _, _, began, ended in struck]
        calm = [ms for some in late.values() for due, ms in some if not any(a < due < b for a, b in windows)]
        starts = [(start.at_us, partition_of(start.task_id)) for start in rig.reader.history.starts]
        first = [(ended, min((at for at, p in starts if at > ended and p in mine))) for mine, _, ended in killed]
        again = [at - ended - 1_000 * rig.starved_ms(ended, at) for ended, at in first]
        extra = {
            "calm_p99_ms": round(p99(calm), 1),
            "resumed_s": round(max(again) / 1e6, 2),
        }
        # In a short run one kill is all, and some dozen tasks fall due elsewhere meanwhile.
        limits = Limits(recovery_ms=LEASE_MS + 6_000, harms=harms, spared_ms=scaled(500.0, 50.0))
        verdict = await rig.passes(limits, extra=extra)
        assert verdict.figures["spared"] >= scaled(1, 100)
        # Two seconds are promised; the machine that runs the tests may be busy.
        assert max(again) < 4e6, extra
