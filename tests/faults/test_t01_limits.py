"""T1 with limits: nodes are killed while queues have a rate and a concurrency, which hold all the same and are used."""

from __future__ import annotations

import asyncio
import heapq
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from delaybox.core.queue import QueueRules
from delaybox.core.queue_limits import rate_of
from delaybox.core.task import NewTask, TaskType
from delaybox.store import keys
from tests.faults.harness.checker import Limits
from tests.faults.harness.look import payload
from tests.faults.harness.oracle import now_us
from tests.faults.harness.process import Process
from tests.faults.harness.rig import CHANNEL, Rig
from tests.faults.harness.scale import FULL, scaled

pytestmark = [pytest.mark.faults, pytest.mark.timeout(scaled(120, 900))]

NODES = 3
RATE = 50
CONCURRENCY = 6
TAKES_MS = 40
LASTS_S = scaled(2, 90)
KILL_EVERY_S = scaled(0.5, 20.0)


async def test_limits_hold_and_are_used_while_nodes_are_killed(tmp_path: Path) -> None:
    async with Rig(tmp_path, "T1", partitions=8) as rig:
        await rig.listen()
        nodes: list[Process] = list(await asyncio.gather(*(node(rig) for _ in range(NODES))))
        service, store = await rig.service(), await rig.store()
        await service.rules.set("paced", QueueRules(rate=rate_of(f"{RATE}/s")))
        await service.rules.set("default", QueueRules(concurrency=CONCURRENCY))
        await asyncio.sleep(1.0)  # what is promised: in force everywhere within a second
        tasks = {
            f"{kind}{n}": NewTask(
                payload=payload(f"{kind}{n}", w=TAKES_MS),
                type=TaskType.WORKER if kind == "w" else TaskType.PUB_SUB,
                queue="default" if kind == "w" else "paced",
                idempotency_key=f"{kind}{n}",
            )
            for kind in "wp"
            for n in range(RATE * LASTS_S)
        }
        names = sorted(tasks, key=lambda key: int(key[1:]))
        for at in range(0, len(names), 2_000):
            assert await rig.submit(service, {key: tasks[key] for key in names[at : at + 2_000]}) == ({}, [])
        killed: dict[int, int] = {}
        while sum(c.pending + c.in_flight for c in await store.counts()) > scaled(RATE * 2, RATE * 40):
            await asyncio.sleep(KILL_EVERY_S)
            gone = nodes.pop(rig.nemesis.random.randrange(len(nodes)))
            async with rig.nemesis.during("kill", pid=gone.pid):
                await gone.end(signal.SIGKILL)
            killed[gone.pid] = now_us()
            if not FULL:
                break
            nodes.append(await node(rig))
        await rig.settled(timeout_s=scaled(60, 600))
        assert killed
        began = await in_place(rig)
        assert len(began) == RATE * LASTS_S
        over = sum(later - first < 1_000 for first, later in zip(began, began[RATE:], strict=False))
        share = len(began) / (RATE * ((began[-1] - began[0]) / 1_000 + 1))
        figures = {"over_rate": over, "rate_used": round(share, 3), "most_at_once": most_at_once(rig, killed)}
        await rig.passes(Limits(), extra=figures)
        assert over == 0 and figures["most_at_once"] <= CONCURRENCY, figures
        # In a short run the time until a stand-in steps in, and a busy machine, count for too much.
        assert not FULL or share >= 0.95, figures


async def node(rig: Rig) -> Process:
    return await rig.worker(fleet=True, channel=CHANNEL, concurrency=100, stream=1_000_000)


async def in_place(rig: Rig) -> list[int]:
    """When messages were published, by the server's clock: the claim's own entries in the stream."""
    store = await rig.store()
    entries = [await store.servers.ask("XRANGE", keys.stream(tag), "-", "+") for tag in store.tags]
    return sorted(int(entry[0].split(b"-")[0]) for found in entries for entry in found)


def most_at_once(rig: Rig, killed: dict[int, int]) -> int:
    """How many handlers ran at a time: from beginning to end, or until their node was killed."""
    history = rig.reader.final()
    ends = {(end.task_id, end.token): end.at_us for end in history.ends}
    running: list[int] = []
    most = 0
    starts: Sequence[tuple[int, int]] = sorted(
        (start.at_us, ends.get((start.task_id, start.token), killed.get(start.pid, start.at_us)))
        for start in history.starts
        if start.token
    )
    for began, over in starts:
        while running and running[0] <= began:
            heapq.heappop(running)
        heapq.heappush(running, over)
        most = max(most, len(running))
    return most
