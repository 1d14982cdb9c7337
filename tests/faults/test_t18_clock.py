"""T18: the server's clock steps by an hour under load, ahead or back: nothing is early by it, lost, or done twice."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.faults.harness import preload
from tests.faults.harness.checker import Limits
from tests.faults.harness.clock import Clock
from tests.faults.harness.rig import LEASE_MS, Rig, soon, spread
from tests.faults.harness.scale import scaled

pytestmark = [
    pytest.mark.faults,
    pytest.mark.timeout(scaled(300, 1_800)),
    pytest.mark.skipif(bool(preload.why_not()), reason=preload.why_not()),
]

HOUR_MS = 3_600_000
HELD_MS = scaled(3_000, LEASE_MS)
"""Of leases: a worker that a busy machine holds up for a second or two keeps what it runs."""
CASES = scaled([("ahead", HOUR_MS, HOUR_MS)], [("ahead", HOUR_MS, HOUR_MS), ("back", -HOUR_MS, 0)])


@pytest.mark.parametrize(("name", "first", "then"), CASES)
async def test_a_clock_that_steps_loses_and_doubles_nothing(tmp_path: Path, name: str, first: int, then: int) -> None:
    """Set back, what is due waits until the clock has come as far again: it is set right then."""
    part = scaled(200, 10_000)
    clock = Clock(tmp_path / "clock")
    async with Rig(tmp_path, "T18", environ=clock.environ) as rig:
        rig.mode = name
        rig.config["lease_ms"] = HELD_MS
        await rig.workers(2, lease_ms=HELD_MS)
        service = await rig.service()

        async def some(nth: int) -> None:
            """Tasks of which some run, and some wait, when this returns."""
            await rig.produce(
                service,
                part,
                start=nth * part,
                due_ms=spread(soon(100) + clock.off_ms - nth * part * scaled(4, 1), scaled(4_000, 1_000)),
                chunk=scaled(20, 200),
                pause_s=scaled(0.02, 0.05),
                work={"w": 100},
            )

        await some(0)
        clock.set(first)
        await some(1)
        # Longer than a lease: whoever would take healthy ones back has had the time.
        await asyncio.sleep(1.5 * HELD_MS / 1000)
        clock.set(then)
        await some(2)
        await rig.drained(3 * part, timeout_s=scaled(60, 300))
        clock.translate(rig.reader.final())
        verdict = await rig.passes(Limits())
        assert verdict.figures["early"] == verdict.figures["lost"] == verdict.figures["dups"] == 0
