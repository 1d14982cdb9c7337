"""T13: replies that never come. Requests are executed, their answers swallowed, cut or reset."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.harness.checker import Limits
from tests.faults.harness.proxy import CLEAN, Plan
from tests.faults.harness.rig import Rig, soon, spread
from tests.faults.harness.scale import scaled

pytestmark = [pytest.mark.faults, pytest.mark.timeout(scaled(300, 1_800))]


@pytest.mark.parametrize(
    ("name", "plan"),
    [
        ("swallow", Plan(swallow=0.05)),
        ("mixed", Plan(swallow=0.02, cut=0.02, rst=0.02, half_close=0.005, split=True)),
    ],
)
async def test_lost_replies_lose_and_double_nothing(tmp_path: Path, name: str, plan: Plan) -> None:
    count = scaled(1_000, 15_000)
    async with Rig(tmp_path, "T13") as rig:
        rig.mode = name
        proxy = await rig.proxy()
        url = f"redis://127.0.0.1:{proxy.port}"
        await rig.workers(2, url=url, timeout_s=1.0)
        service = await rig.service(url, timeout_s=1.0)
        async with rig.nemesis.during("net"):
            proxy.plan = plan
            await rig.produce(service, count, due_ms=spread(soon(200), scaled(1_000, 200)), chunk=20, pause_s=0.02)
            await rig.reached(count, timeout_s=scaled(60, 600))
            proxy.plan = CLEAN
        await rig.settled()
        verdict = await rig.passes(Limits(), extra={f"proxy_{k}": n for k, n in sorted(proxy.done.items())})
        assert proxy.done["swallow"] > 0
        assert verdict.figures["dup_sched"] == 0
