"""T6: the server dies by SIGKILL under load and comes back on the same folder. The page cache survives: 0 lost."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from tests.faults.harness.checker import Limits
from tests.faults.harness.rig import LEASE_MS, Rig, soon, spread
from tests.faults.harness.scale import WHOLE, scaled

pytestmark = [pytest.mark.faults, pytest.mark.timeout(scaled(300, 1_800))]


@pytest.mark.parametrize("mode", ["everysec", "always"])
async def test_a_killed_server_loses_nothing(tmp_path: Path, mode: str) -> None:
    count, kills = scaled(2_000, WHOLE), scaled(2, 10)
    async with Rig(tmp_path, "T6", mode=mode) as rig:
        await rig.workers(2)
        service = await rig.service()
        ready_s: list[float] = []

        async def kill() -> None:
            async with rig.nemesis.during("server"):
                await asyncio.to_thread(rig.server.written)
                rig.server.kill()
                # Every second time it stays away longer than the store's own repeats last, so that callers see it.
                await asyncio.sleep(0.8 * (len(ready_s) % 2))
                ready_s.append(await asyncio.to_thread(rig.server.start))

        began = time.monotonic()
        killing = asyncio.create_task(rig.nemesis.strike(kill, times=kills, within_s=(0.3, 0.8)))
        await rig.produce(service, count, due_ms=spread(soon(200), scaled(1_000, 400)), chunk=100, pause_s=0.05)
        rate = count / (time.monotonic() - began)
        await killing
        await rig.drained(count, timeout_s=scaled(60, 600))
        await rig.passes(
            Limits(recovery_ms=LEASE_MS + 6_000),
            extra={"ack_rate": f"{rate:.0f}/s", "ready": f"{max(ready_s):.2f}s"},
        )
