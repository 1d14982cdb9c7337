"""T27: members of a fleet join, leave, freeze and are killed at random, while they share the partitions."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from delaybox.core.task import TaskType
from tests.faults.harness.checker import Limits
from tests.faults.harness.oracle import Start
from tests.faults.harness.process import Process
from tests.faults.harness.rig import CHANNEL, LEASE_MS, Rig, soon, spread
from tests.faults.harness.scale import scaled

pytestmark = [pytest.mark.faults, pytest.mark.timeout(scaled(300, 1_800))]

NODES = 4
REAP_MS = 100
LASTS_S = scaled(5.0, 300.0)
COUNT = scaled(2_000, 300_000)
"""Half of them are fired on a channel by owners, half are claimed for workers by placers."""
CONCURRENCY = 200


class Fleet:
    """Nodes that suffer one thing after the other, and each thing at least once. Starting one takes its time, in which
    others suffer."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.nodes: list[Process] = []
        self.suffered = dict.fromkeys(("kill", "freeze", "leave", "join"), 0)
        self._joining: set[asyncio.Task[None]] = set()

    async def join(self) -> None:
        """One more node."""
        self.nodes.append(await self.rig.worker(fleet=True, channel=CHANNEL, concurrency=CONCURRENCY))

    async def suffer(self) -> None:
        """Something happens to a node. Whoever is gone is followed by another."""
        random = self.rig.nemesis.random
        what = random.choice([what for what, times in self.suffered.items() if not times] or [*self.suffered])
        self.suffered[what] += 1
        node = random.choice(self.nodes)
        if what == "freeze":
            # For longer than a lease as well, so that its tasks have other holders when it goes on.
            pause_s = random.choice(scaled([0.4, 2.0], [0.3, 1.0, 2.5]))
            async with self.rig.nemesis.during("freeze", pid=node.pid):
                node.send(signal.SIGSTOP)
                await asyncio.sleep(pause_s)
                node.send(signal.SIGCONT)
            return
        if what != "join":
            self.nodes.remove(node)
            how = signal.SIGKILL if what == "kill" else signal.SIGTERM
            async with self.rig.nemesis.during("kill" if what == "kill" else "term", pid=node.pid):
                code = await node.end(how)
            assert what == "kill" or code == 0, node.output()
        if len(self.nodes) + len(self._joining) <= NODES:
            task = asyncio.create_task(self.join())
            self._joining.add(task)
            task.add_done_callback(self._joining.discard)
        while len(self.nodes) <= NODES // 2:
            await asyncio.gather(*self._joining)

    async def calm(self) -> None:
        """Returns when nobody is starting any more."""
        await asyncio.gather(*self._joining)


def latest_ms(rig: Rig) -> dict[str, int]:
    """By how much the latest first execution was late: of tasks fired in place, and of those for workers."""
    due = {call.task_id: call.due_ms for call in rig.reader.history.calls if call.task_id}
    first: dict[str, Start] = {}
    for start in rig.reader.history.starts:
        first.setdefault(start.task_id, start)
    late = {"in_place": 0, "workers": 0}
    for start in first.values():
        kind = "workers" if start.token else "in_place"
        late[kind] = max(late[kind], start.at_us // 1000 - due[start.task_id])
    return {f"latest_{kind}_ms": ms for kind, ms in late.items()}


async def test_a_fleet_in_turmoil_loses_nothing(tmp_path: Path) -> None:
    async with Rig(tmp_path, "T27", partitions=16) as rig:
        await rig.listen()
        fleet = Fleet(rig)
        await asyncio.gather(*(fleet.join() for _ in range(NODES)))
        service = await rig.service()
        half = COUNT // 2
        due = spread(soon(300), int(LASTS_S * 1e6 / half))
        ended = asyncio.Event()

        async def turmoil() -> None:
            while not ended.is_set():
                await asyncio.sleep(rig.nemesis.random.uniform(0.0, scaled(0.2, 2.0)))
                await fleet.suffer()

        suffering = asyncio.create_task(turmoil())
        chunk = scaled(50, 500)
        pause_s = LASTS_S * chunk / half * 0.9
        await asyncio.gather(
            rig.produce(service, half, due_ms=due, chunk=chunk, pause_s=pause_s, work={"w": 10}),
            rig.produce(
                service,
                half,
                due_ms=lambda n: due(n - half),
                start=half,
                task_type=TaskType.PUB_SUB,
                chunk=chunk,
                pause_s=pause_s,
            ),
        )
        ended.set()
        await suffering
        await fleet.calm()
        await rig.drained(COUNT, timeout_s=scaled(60, 300))
        limits = Limits(recovery_ms=LEASE_MS + REAP_MS + scaled(3_000, 1_000))
        verdict = await rig.passes(limits, extra={**fleet.suffered, **latest_ms(rig)})
        assert verdict.figures["lost"] == verdict.figures["early"] == 0
        in_place = [s for s in rig.reader.history.starts if s.token == 0]
        assert len(in_place) == half, "firing in place is one script: whoever else looks, nothing is doubled"
