"""T8: somebody runs SCRIPT FLUSH all the time, and the server restarts: nobody notices."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from delaybox.store import keys
from tests.faults.harness.checker import Limits
from tests.faults.harness.rig import Rig, soon, spread
from tests.faults.harness.scale import WHOLE, scaled

pytestmark = [pytest.mark.faults, pytest.mark.timeout(scaled(300, 1_800))]


async def test_forgotten_scripts_surface_nowhere(tmp_path: Path) -> None:
    count = scaled(2_000, WHOLE)
    async with Rig(tmp_path, "T8") as rig:
        # No lease may end before its time, whatever the machine does.
        await rig.workers(2, lease_ms=15_000)
        service = await rig.service()
        flushes = 0

        async def flush() -> None:
            nonlocal flushes
            with rig.server.client() as client:
                while True:
                    began = time.monotonic()
                    client.script_flush("ASYNC")
                    flushes += 1
                    # A server that answers late has much to do: flushed as often as ever, it would only compile.
                    await asyncio.sleep(scaled(0.05, 0.1) + 20 * (time.monotonic() - began))

        async with rig.nemesis.during("flush_scripts"):
            flushing = asyncio.create_task(flush())
            await rig.produce(service, count, due_ms=spread(soon(300), scaled(1_000, 500)), chunk=20, pause_s=0.01)
            await rig.drained(count, timeout_s=scaled(60, 600))
            flushing.cancel()
        rig.reader.poll()
        rig.nemesis.faults.clear()  # nothing that this fault does may serve as an excuse below
        rig.reader.history.faults.clear()
        with rig.server.client() as client:
            retried = client.info("errorstats").get("errorstat_NOSCRIPT", {"count": 0})["count"]
        verdict = await rig.passes(extra={"flushes": flushes, "noscript_retried": retried})
        assert verdict.figures["unknown"] == verdict.figures["dups"] == 0, "a NOSCRIPT surfaced"
        assert retried > 0


async def test_strange_wake_ups_do_not_make_a_node_late(tmp_path: Path) -> None:
    """Anybody may publish on the wake channel; what is no wake-up must not end the listening to those that are."""
    async with Rig(tmp_path, "T8") as rig:
        rig.mode = "strange_wakeups"
        await rig.worker(poll_ms=30_000)
        service = await rig.service()
        with rig.server.client() as client:
            for channel in (keys.former_wake(rig.prefix), keys.wake(keys.tag(rig.prefix, 0))):
                for strange in (b"", b"x", b"{delaybox:0} soon", b"{delaybox:99} 1", b"\xff \xff"):
                    assert client.publish(channel, strange) == 1
        for n in range(20):
            await rig.produce(service, 1, start=n, due_ms=lambda n: soon(20))
            await rig.reached(n + 1, timeout_s=25)
        await rig.settled()
        await rig.passes(Limits(lateness_p99_ms=15_000))
