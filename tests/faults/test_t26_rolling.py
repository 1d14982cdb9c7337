"""T26: rolling restarts by SIGTERM. What runs is finished or handed back uncharged; a second signal ends at once."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import pytest

from tests.faults.harness.checker import Limits
from tests.faults.harness.node import GRACE_S
from tests.faults.harness.oracle import OK
from tests.faults.harness.rest_load import produce_over_rest
from tests.faults.harness.rig import LEASE_MS, Rig, soon, spread
from tests.faults.harness.scale import WHOLE, scaled

pytestmark = [pytest.mark.faults, pytest.mark.timeout(scaled(300, 1_800))]

LONG_LEASE_MS = 15_000
"""None may end before its time, whatever the machine does: what runs twice then was left to expire."""


async def test_rolling_restarts_run_nothing_twice(tmp_path: Path) -> None:
    count, restarts = scaled(1_500, WHOLE), scaled(4, 30)
    async with Rig(tmp_path, "T26") as rig:
        workers = await rig.workers(2, lease_ms=LONG_LEASE_MS)
        service = await rig.service()
        stops_s: list[float] = []

        async def restart() -> None:
            n = len(stops_s) % 2
            began = time.monotonic()
            async with rig.nemesis.during("term", pid=workers[n].pid):
                assert await workers[n].end(signal.SIGTERM) == 0, workers[n].output()
            stops_s.append(time.monotonic() - began)
            workers[n] = await rig.worker(lease_ms=LONG_LEASE_MS)

        rolling = asyncio.create_task(rig.nemesis.strike(restart, times=restarts, within_s=(0.1, scaled(0.4, 2.0))))
        await rig.produce(
            service, count, due_ms=spread(soon(200), scaled(1_500, 600)), chunk=100, pause_s=0.05, work={"w": 30}
        )
        await rolling
        await rig.drained(count, timeout_s=scaled(60, 600))
        verdict = await rig.passes(Limits(), extra={"stops": len(stops_s), "slowest_stop": f"{max(stops_s):.2f}s"})
        assert verdict.figures["dups"] == 0, "work of 30 ms fits into the grace: nothing may run twice"
        assert all(s.attempt == 0 for s in rig.reader.history.starts), "a hand-back charged an attempt"
        assert all(s.token == 1 for s in rig.reader.history.starts), "a claim under way was left to expire"
        assert max(stops_s) <= GRACE_S + 2


async def test_rolling_restarts_of_whole_nodes_lose_and_double_nothing(tmp_path: Path) -> None:
    """Two `delaybox serve` restarted in turn; clients go to the other one, or send again with the same key."""
    count, restarts = scaled(600, WHOLE), scaled(2, 15)
    async with Rig(tmp_path, "T26", partitions=16) as rig:
        rig.mode = "serve"
        await rig.listen()
        nodes = list(await asyncio.gather(rig.serve(), rig.serve()))
        stops_s: list[float] = []

        async def restart() -> None:
            n = len(stops_s) % 2
            began = time.monotonic()
            async with rig.nemesis.during("term", pid=nodes[n].process.pid):
                assert await nodes[n].process.end(signal.SIGTERM) == 0, nodes[n].process.output()
            stops_s.append(time.monotonic() - began)
            nodes[n] = await rig.serve(port=nodes[n].port)

        rolling = asyncio.create_task(rig.nemesis.strike(restart, times=restarts, within_s=(0.2, scaled(0.6, 2.0))))
        due = spread(soon(300), scaled(4_000, 1_000))
        await produce_over_rest(rig, [node.port for node in nodes], count, due_ms=due)
        await rolling
        await rig.reached(count, timeout_s=scaled(60, 600))
        await rig.settled()
        verdict = await rig.passes(Limits(), extra={"stops": len(stops_s), "slowest_stop": f"{max(stops_s):.2f}s"})
        assert verdict.figures["dups"] == 0
        assert max(stops_s) < GRACE_S


async def test_what_outlasts_the_grace_is_handed_back_uncharged(tmp_path: Path) -> None:
    count = 50
    async with Rig(tmp_path, "T26") as rig:
        rig.mode = "handback"
        first = await rig.worker(grace_s=0.3, lease_ms=120_000)
        service = await rig.service()
        await rig.produce(service, count, due_ms=lambda n: None, work={"w": 3_000})
        await rig.reached(count)
        async with rig.nemesis.during("term", pid=first.pid):
            assert await first.end(signal.SIGTERM) == 0, first.output()
        second = await rig.worker()
        await rig.drained(
            count, timeout_s=60
        )  # far below the first one's lease: it was handed back, not left to expire
        verdict = await rig.passes(Limits())
        released = [a for a in rig.reader.history.acks if a.op == "release" and a.outcome == OK]
        assert len({a.task_id for a in released}) == count
        again = [s for s in rig.reader.history.starts if s.pid == second.pid]
        assert len(again) == count
        assert all(s.attempt == 0 for s in again)
        assert verdict.figures["dups_handed_back"] == count


async def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    async with Rig(tmp_path, "T26") as rig:
        rig.mode = "second_signal"
        first = await rig.worker(grace_s=60.0)
        service = await rig.service()
        await rig.produce(service, 20, due_ms=lambda n: None, work={"w": 10_000})
        await rig.reached(20)
        async with rig.nemesis.during("term", pid=first.pid):
            first.send(signal.SIGTERM)
            await first.logged("stopping")
            first.send(signal.SIGTERM)
            began = time.monotonic()
            assert await first.wait() != 0
        assert time.monotonic() - began < 8.0, "ten seconds of work were waited for"
        await rig.worker()
        await rig.drained(20, timeout_s=LEASE_MS / 1000 + 60)
        await rig.passes(Limits())
