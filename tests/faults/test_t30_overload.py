"""T30: ten times the callers that keep a node busy. It takes what it can, refuses in words, and fires on time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.faults.harness.checker import Limits
from tests.faults.harness.oracle import OK, History
from tests.faults.harness.overload import Seen
from tests.faults.harness.rig import Node, Rig
from tests.faults.harness.scale import FULL, scaled

pytestmark = [pytest.mark.faults, pytest.mark.timeout(scaled(300, 1_800))]

CALLERS = scaled(8, 64)
"""So many keep a node busy: each sends the next request when the last one is answered."""
SECONDS = scaled(0.5, 5.0)
LOADS = scaled((1, 10), (1, 2, 5, 10))
TURNS = (LOADS, LOADS[::-1])
"""Up and down again, so that what else the machine does meets all of them."""
LEAST_GOODPUT = 0.9
MOST_LATER_MS = 50.0
"""Beyond the p99 lateness at the simple load; the callers take the node's cores."""


async def _load(rig: Rig, node: Node, times: int, turn: int) -> Seen:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.faults.harness.overload", str(rig.oracle), str(node.port)),
        *(f"x{times}-{turn}", str(times * CALLERS), str(SECONDS)),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    return Seen(**json.loads(output))


@contextlib.asynccontextmanager
async def _ears(rig: Rig) -> AsyncIterator[None]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.faults.harness.ears", str(rig.oracle), rig.server.url),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        assert await process.stdout.readline() == b"subscribed\n"
        yield
    finally:
        process.kill()
        await process.wait()


def _late_p99_ms(history: History, times: int) -> float:
    """Of the tasks that were taken at that load."""
    due = {c.task_id: c.due_ms for c in history.calls if c.outcome == OK and c.key.startswith(f"x{times}-")}
    late = sorted(s.at_us / 1000 - due[s.task_id] for s in history.starts if s.task_id in due)
    return late[int(len(late) * 0.99)] if late else 0.0


async def test_ten_times_the_load_costs_neither_goodput_nor_time(tmp_path: Path) -> None:
    async with Rig(tmp_path, "T30", partitions=16) as rig, _ears(rig):
        node = await rig.serve()
        seen: list[tuple[int, Seen]] = []
        for turn, loads in enumerate(TURNS):
            for times in loads:
                seen.append((times, await _load(rig, node, times, turn)))
                await rig.drained(sum(one.stored for _, one in seen), timeout_s=300)
        history = rig.reader.final()
        late = {times: _late_p99_ms(history, times) for times in LOADS}
        goodput = {
            times: sum(one.stored for at, one in seen if at == times)
            / sum(one.seconds for at, one in seen if at == times)
            for times in LOADS
        }
        figures = {
            "goodput": "/".join(f"{rate:.0f}" for rate in goodput.values()) + "/s",
            "late_p99": "/".join(f"{ms:.1f}" for ms in late.values()) + "ms",
            "refused": sum(one.refused for _, one in seen),
            "refused_p99_ms": max(one.refused_p99_ms for _, one in seen),
            "gave_up": sum(one.gave_up for _, one in seen),
        }
        await rig.passes(Limits(), extra=figures)
        assert node.process.running
        assert not any(one.unasked for _, one in seen), "a refusal did not say when to come again"
        assert all(one.stored for _, one in seen)
        if not FULL:
            return  # half a second on a busy machine says nothing of rates
        assert goodput[LOADS[-1]] >= LEAST_GOODPUT * max(goodput.values()), figures
        assert late[LOADS[-1]] <= late[LOADS[0]] + MOST_LATER_MS, figures
