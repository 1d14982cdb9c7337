"""T7: power loss. The append-only file ends two seconds before the end, as if the disk had not seen the rest.

``kill -9`` alone proves nothing of it (the page cache survives), so the file is cut at its own time marks.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from tests.faults.harness.aof import truncate_to
from tests.faults.harness.checker import Limits, check
from tests.faults.harness.oracle import OK
from tests.faults.harness.rig import Rig, soon
from tests.faults.harness.scale import WHOLE, scaled

pytestmark = [pytest.mark.faults, pytest.mark.timeout(scaled(300, 1_800))]

LOST_SECONDS = 2


async def test_power_loss_costs_two_seconds_and_an_outbox_costs_nothing(tmp_path: Path) -> None:
    count, chunk = scaled(2_000, WHOLE), scaled(50, 2_000)
    async with Rig(tmp_path, "T7", options={"aof-timestamp-enabled": "yes"}) as rig:
        await rig.workers(2)
        service = await rig.service()
        # Half is due during the run, so that acknowledgements are forgotten as well as schedules.
        due = {n: soon(scaled(1_500, 5_000)) if n % 2 else soon(scaled(9_000, 60_000)) for n in range(count)}
        await rig.produce(service, count, due_ms=due.__getitem__, chunk=chunk, pause_s=0.1)

        died_s = time.time()
        rig.server.kill()
        # The last whole second that survives; the file's marks have whole seconds.
        moment = int(died_s) - LOST_SECONDS
        cut = truncate_to(rig.server.append_only_folder(), moment)
        rig.nemesis.note("rollback", from_us=(moment + 1) * 1_000_000, to_us=int(died_s * 1e6))
        async with rig.nemesis.during("server"):
            await asyncio.to_thread(rig.server.start)

        final = await rig.final()
        rig.reader.poll()
        before = check(rig.reader.history, final, Limits(drained=False, lost=count)).figures["lost"]
        acked = [c for c in rig.reader.history.calls if c.outcome == OK]
        exposed = sum(c.answered_us >= (moment + 1) * 1_000_000 for c in acked)
        assert cut > 0
        assert 0 < before <= exposed, "the cut must cost something, and only what was acknowledged in the lost window"

        await rig.produce(service, count, due_ms=due.__getitem__, chunk=500)
        await rig.drained(count, timeout_s=scaled(60, 600))
        await rig.passes(Limits(), extra={"lost_before_resend": int(before), "exposed": exposed, "cut_bytes": cut})
