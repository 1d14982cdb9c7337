"""T1: nodes die by SIGKILL at random moments."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.faults.harness.checker import Limits
from tests.faults.harness.rest_load import produce_over_rest
from tests.faults.harness.rig import LEASE_MS, Rig, soon, spread
from tests.faults.harness.scale import WHOLE, scaled

pytestmark = [pytest.mark.faults, pytest.mark.timeout(scaled(300, 1_800))]

REAP_MS = 100
CONCURRENCY = 64


async def test_killed_workers_lose_nothing(tmp_path: Path) -> None:
    count, kills = scaled(2_000, WHOLE), scaled(5, 50)
    async with Rig(tmp_path, "T1") as rig:
        workers = await rig.workers(2, concurrency=CONCURRENCY)
        service = await rig.service()

        async def kill() -> None:
            n = rig.nemesis.random.randrange(len(workers))
            async with rig.nemesis.during("kill", pid=workers[n].pid):
                await workers[n].end()
            workers[n] = await rig.worker(concurrency=CONCURRENCY)

        killing = asyncio.create_task(rig.nemesis.strike(kill, times=kills, within_s=(0.1, scaled(0.4, 1.5))))
        due = spread(soon(200), scaled(1_000, 1_000))
        # 2,000 a second at most: what one worker can do while the other starts, or a queue is what is measured.
        await rig.produce(service, count, due_ms=due, chunk=200, pause_s=0.1, work={"w": 25})
        await killing
        await rig.drained(count, timeout_s=scaled(60, 900))
        # What a dead node held is due again when its lease ends; one second more for the reap and for starting.
        limits = Limits(recovery_ms=LEASE_MS + REAP_MS + 1_000)
        verdict = await rig.passes(limits, extra={"bound": kills * CONCURRENCY})
        assert 0 < verdict.figures["dups"] <= kills * CONCURRENCY


async def test_killed_nodes_that_fire_in_place_lose_and_double_nothing(tmp_path: Path) -> None:
    """Two `delaybox serve` on one server; REST clients send again with the same key; one SIGKILL after the other."""
    count, kills = scaled(600, WHOLE), scaled(2, 20)
    async with Rig(tmp_path, "T1", partitions=16) as rig:
        rig.mode = "serve"
        await rig.listen()
        nodes = list(await asyncio.gather(rig.serve(), rig.serve()))

        async def kill() -> None:
            n = len(rig.nemesis.faults) % len(nodes)
            async with rig.nemesis.during("kill", pid=nodes[n].process.pid):
                await nodes[n].process.end()
            nodes[n] = await rig.serve(port=nodes[n].port)

        killing = asyncio.create_task(rig.nemesis.strike(kill, times=kills, within_s=(0.2, scaled(0.6, 3.0))))
        await produce_over_rest(
            rig, [node.port for node in nodes], count, due_ms=spread(soon(300), scaled(4_000, 1_000))
        )
        await killing
        await rig.reached(count, timeout_s=scaled(60, 600))
        await rig.settled()
        verdict = await rig.passes(Limits(recovery_ms=5_000))
        assert verdict.figures["dups"] == 0, "firing in place is one script: a kill can double nothing"
