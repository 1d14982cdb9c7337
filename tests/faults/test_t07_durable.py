"""T7 by mode: power is lost, and the disk keeps to the byte what it was made to keep, and nothing else.

`durable` on `appendfsync always` loses nothing of what was acknowledged. `fast` on `everysec` in the same rig is the
negative control: it must lose some, or the run proves nothing.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from delaybox.core.durability import Durability, DurabilityMode
from tests.faults.harness import disk, preload
from tests.faults.harness.checker import Limits, check
from tests.faults.harness.oracle import History
from tests.faults.harness.rig import Rig, soon
from tests.faults.harness.scale import scaled
from tests.waiting import until_async

pytestmark = [
    pytest.mark.faults,
    pytest.mark.timeout(scaled(300, 1_800)),
    pytest.mark.skipif(bool(preload.why_not()), reason=preload.why_not()),
]

LATER_MS = 3_600_000
MOST_CUTS = 20
"""Without durability a cut costs what was answered since the last sync. A moment after one that is nothing: then the
power is cut again."""


@pytest.mark.parametrize(("fsync", "mode"), [("always", DurabilityMode.DURABLE), ("everysec", DurabilityMode.FAST)])
async def test_what_the_disk_was_made_to_keep_is_kept(tmp_path: Path, fsync: str, mode: DurabilityMode) -> None:
    cuts, each = scaled((1, 400), (10, 2_000))
    own = disk.Disk(tmp_path / "disk")
    async with Rig(tmp_path, "T7", mode=fsync, environ=own.environ, durability=Durability(mode=mode)) as rig:
        rig.mode = f"{mode}-{fsync}"
        cut_bytes = lost = 0
        for nth in range(cuts if mode is DurabilityMode.DURABLE else MOST_CUTS):
            service = await rig.service()
            await until_async(own.has_promised)
            # The power goes while calls are on their way: some have an answer, some have none.
            producing = asyncio.create_task(
                rig.produce(service, each, start=nth * each, due_ms=lambda n: soon(LATER_MS), chunk=20, resend=False)
            )
            enough = nth * each + each // 2

            def half_was_sent(history: History, enough: int = enough) -> bool:
                return len(history.calls) >= enough

            await rig.reader.until(half_was_sent, timeout_s=60, what="half of the calls")
            rig.server.kill()
            cut_bytes += own.lose(rig.server.append_only_folder())
            await producing
            await asyncio.to_thread(rig.server.start)
            rig.reader.poll()
            final = await rig.final()
            lost = int(check(rig.reader.history, final, Limits(drained=False, lost=MOST_CUTS * each)).figures["lost"])
            if lost and nth + 1 >= cuts:
                break
        if mode is DurabilityMode.DURABLE:
            await rig.passes(Limits(drained=False), extra={"cuts": nth + 1, "cut_bytes": cut_bytes})
            assert lost == 0
        else:
            rig.row = "control-T7"
            verdict = await rig.judge(Limits(drained=False), extra={"cuts": nth + 1, "cut_bytes": cut_bytes})
            assert "I1" in verdict.broken(), "the cut must cost something, or the run proves nothing"
            assert cut_bytes > 0
