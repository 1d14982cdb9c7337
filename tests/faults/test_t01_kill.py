"""T1: nodes die by SIGKILL at random moments."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from delaybox.service import Service
from tests.faults.harness.checker import Limits
from tests.faults.harness.oracle import History
from tests.faults.harness.rest_load import produce_over_rest
from tests.faults.harness.rig import LEASE_MS, Rig, soon, spread
from tests.faults.harness.scale import WHOLE, scaled

pytestmark = [pytest.mark.faults, pytest.mark.timeout(scaled(300, 1_800))]

REAP_MS = 100
CONCURRENCY = 64
HELD_MS = scaled(3_000, LEASE_MS)
"""Of leases: a worker that a busy machine holds up for a second or two keeps what it runs."""
LONG, LONG_MS = 10, 2_000
"""The last tasks of a part: a look that a busy machine delays must meet tasks in hand as well."""


@pytest.mark.fresh  # A worker that is back in no time leaves little for the kills to meet.
async def test_killed_workers_lose_nothing(tmp_path: Path) -> None:
    count, kills = scaled(2_000, WHOLE), scaled(5, 50)
    async with Rig(tmp_path, "T1") as rig:
        rig.config["lease_ms"] = HELD_MS
        workers = await rig.workers(2, concurrency=CONCURRENCY, lease_ms=HELD_MS)
        service = await rig.service()

        def busy(history: History) -> list[int]:
            """The workers that have tasks in hand."""
            ended = {end.task_id for end in history.ends[-1_000:]}
            pids = {start.pid for start in history.starts[-200:] if start.task_id not in ended}
            return [n for n, worker in enumerate(workers) if worker.pid in pids]

        async def produce(service: Service, part: int, first: int, due_ms: Callable[[int], int]) -> None:
            short = part - LONG
            await rig.produce(service, short, start=first, due_ms=due_ms, chunk=200, work={"w": 25})
            await rig.produce(service, LONG, start=first + short, due_ms=due_ms, work={"w": LONG_MS})

        def under_way(begun: int, history: History) -> bool:
            return len(history.starts) >= begun and bool(busy(history))

        part = count // kills
        for first in range(0, count, part):
            # A part for each kill, for a worker takes longer to start than the other one needs for all that is left.
            # 1,000 a second: what one of them can do, or a queue is what is measured.
            due_ms = spread(soon(200) - first, 1_000)
            producing = asyncio.create_task(produce(service, part, first, due_ms))
            enough = partial(under_way, first + part // 4)
            await rig.reader.until(enough, timeout_s=60, what="work in hand")
            n = rig.nemesis.random.choice(busy(rig.reader.history))
            async with rig.nemesis.during("kill", pid=workers[n].pid):
                await workers[n].end()
            workers[n] = await rig.worker(concurrency=CONCURRENCY, lease_ms=HELD_MS)
            await producing
        await rig.drained(count, timeout_s=scaled(60, 900))
        # What a dead node held is due again when its lease ends; one second more for the reap and for starting, and two
        # in `make test`, whose machine is busy.
        limits = Limits(recovery_ms=HELD_MS + REAP_MS + scaled(3_000, 1_000))
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
        verdict = await rig.passes(Limits(recovery_ms=scaled(10_000, 5_000)))
        assert verdict.figures["dups"] == 0, "firing in place is one script: a kill can double nothing"
