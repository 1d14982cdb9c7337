"""T19: all due in one millisecond. T20: all overdue when the first node starts (the original stopped above 7,999)."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from delaybox.store.store import MAX_ITEMS
from tests.faults.harness.checker import Limits
from tests.faults.harness.process import Process
from tests.faults.harness.rig import Rig, soon
from tests.faults.harness.scale import WHOLE, scaled

pytestmark = [pytest.mark.faults, pytest.mark.timeout(scaled(300, 1_800))]

LONGEST_SCRIPT_US = 10_000


class Scripts:
    """How long scripts take, from SLOWLOG, which counts wall time, the kernel's pauses included.

    The server shares two cores with its clients and whatever else runs, so a script over the limit needs a preemption
    as its excuse. That work is bounded shows in the largest batch; ``make bench`` holds the time itself to the limit.
    """

    def __init__(self, rig: Rig) -> None:
        self._lab = rig
        self._preempted = self._preemptions()
        with rig.server.client() as client:
            client.config_set("slowlog-log-slower-than", LONGEST_SCRIPT_US // 10)
            client.config_set("slowlog-max-len", 100_000)

    def _preemptions(self) -> int:
        status = Path(f"/proc/{self._lab.server.pid}/status")
        lines = status.read_text().splitlines() if status.exists() else []
        return next((int(line.split()[1]) for line in lines if line.startswith("nonvoluntary_ctxt")), 0)

    def judged(self) -> dict[str, int]:
        """The figures for the report, after the assertions."""
        with self._lab.server.client() as client:
            entries = client.slowlog_get(100_000)
        preempted = self._preemptions() - self._preempted
        times = [e["duration"] for e in entries if e["command"].startswith(b"EVAL")]
        over = [t for t in times if t > LONGEST_SCRIPT_US]
        assert len(over) <= preempted, (over, preempted)
        return {"max_script_us": max(times, default=1_000), "over_10ms": len(over), "preempted": preempted}


async def _largest_batch(node: Process, folder: Path) -> int:
    """Ends the node; the most tasks one claim of its handed out, which must be bounded."""
    assert await node.end(signal.SIGTERM) == 0
    largest: int = json.loads((folder / f"batches-{node.pid}.json").read_text())
    assert 0 < largest <= MAX_ITEMS
    return largest


@pytest.mark.parametrize("count", [scaled(20_000, WHOLE)])
async def test_a_herd_is_drained_by_short_scripts(tmp_path: Path, count: int) -> None:
    async with Rig(tmp_path, "T19") as rig:
        rig.mode = f"n{count}"
        node = await rig.worker()
        service = await rig.service()
        scripts = Scripts(rig)
        due = soon(2_000 + count // 12)
        await rig.produce(service, count, due_ms=lambda n: due, chunk=5_000)
        late_ms = max(
            0, soon() - due
        )  # of the last call, on a machine that is too busy to gather the whole herd in time
        await rig.drained(count, timeout_s=scaled(60, 900))
        last = max(s.at_us for s in rig.reader.history.starts)
        rate = count / (last / 1e6 - due / 1e3)
        largest = await _largest_batch(node, tmp_path)
        await rig.passes(
            Limits(),
            extra={
                "gathered_late_ms": late_ms,
                "largest_batch": largest,
                "drain_rate": f"{rate:.0f}/s",
                **scripts.judged(),
            },
        )


@pytest.mark.parametrize("count", scaled([12_000], [10_000, WHOLE]))
async def test_a_backlog_drains_when_a_node_comes(tmp_path: Path, count: int) -> None:
    async with Rig(tmp_path, "T20") as rig:
        rig.mode = f"n{count}"
        service = await rig.service()
        scripts = Scripts(rig)
        # Due while nobody runs: spread over an hour that has passed counts as due at the moment of scheduling, so these
        # are given 300 ms and are then as overdue as an outage makes them.
        due = soon(300)
        await rig.produce(service, count, due_ms=lambda n: due + n % 50, chunk=5_000)
        with rig.server.client() as client:
            while int(client.time()[0]) * 1000 <= due + 1_000:
                pass
        started = soon()
        node = await rig.worker()
        await rig.drained(count, timeout_s=scaled(60, 900))
        history = rig.reader.history
        drain_s = max(s.at_us for s in history.starts) / 1e6 - started / 1e3
        largest = await _largest_batch(node, tmp_path)
        await rig.passes(
            Limits(),
            extra={
                "drain": f"{drain_s:.2f}s",
                "largest_batch": largest,
                **scripts.judged(),
            },
        )
