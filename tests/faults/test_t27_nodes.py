"""T27 with whole nodes: `delaybox serve`, all processes of which freeze or die together, join and leave."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from delaybox.core.task import TaskType
from tests.faults.harness.checker import Limits
from tests.faults.harness.rig import LEASE_MS, Node, Rig, soon, spread
from tests.faults.harness.scale import FULL

pytestmark = [
    pytest.mark.faults,
    pytest.mark.timeout(1_800),
    pytest.mark.skipif(not FULL, reason="starting whole nodes takes longer than a short run may"),
]

NODES = 4
COUNT = int(os.environ.get("DELAYBOX_FAULTS_COUNT", "100000"))
PER_S = 1_000
FREEZES_S = (0.4, 2.0, 4.0)


async def test_a_fleet_of_whole_nodes_in_turmoil_loses_nothing(tmp_path: Path) -> None:
    async with Rig(tmp_path, "T27", partitions=16) as rig:
        rig.mode = "serve"
        await rig.listen()
        nodes: list[Node] = list(await asyncio.gather(*(rig.serve() for _ in range(NODES))))
        suffered = dict.fromkeys(("kill", "freeze", "leave", "join"), 0)
        ended = asyncio.Event()
        random = rig.nemesis.random

        async def suffer() -> None:
            what = random.choice([what for what, times in suffered.items() if not times] or [*suffered])
            suffered[what] += 1
            node = random.choice(nodes)
            pid = node.process.pid
            if what == "freeze":
                async with rig.nemesis.during("freeze", pid=pid):
                    # Its processes are a group of their own.
                    os.killpg(pid, signal.SIGSTOP)
                    await asyncio.sleep(random.choice(FREEZES_S))
                    os.killpg(pid, signal.SIGCONT)
                return
            if what == "kill":
                nodes.remove(node)
                async with rig.nemesis.during("kill", pid=pid):
                    await node.process.clean_up()
            elif what == "leave":
                nodes.remove(node)
                async with rig.nemesis.during("term", pid=pid):
                    assert await node.process.end(signal.SIGTERM) == 0, node.process.output()
            if len(nodes) <= NODES:
                nodes.append(await rig.serve())

        async def turmoil() -> None:
            while not ended.is_set():
                await asyncio.sleep(random.uniform(0.0, 1.0))
                await suffer()

        suffering = asyncio.create_task(turmoil())
        chunk = 500
        due = spread(soon(2_000), 1_000_000 // PER_S)
        service = await rig.service()
        pause_s = 0.9 * chunk / PER_S
        await rig.produce(service, COUNT, due_ms=due, task_type=TaskType.PUB_SUB, chunk=chunk, pause_s=pause_s)
        ended.set()
        await suffering
        await rig.drained(COUNT, timeout_s=300)
        verdict = await rig.passes(Limits(recovery_ms=LEASE_MS + 1_000), extra=suffered)
        assert verdict.figures["lost"] == verdict.figures["early"] == verdict.figures["dups"] == 0
