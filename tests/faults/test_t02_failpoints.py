"""T2: a node dies by SIGKILL at each named place, before a call leaves and after its reply came."""

from __future__ import annotations

import asyncio
import re
import signal
from functools import partial
from pathlib import Path

import pytest

import delaybox
from delaybox.service import Service
from tests.faults.harness import failpoints
from tests.faults.harness.checker import Limits
from tests.faults.harness.oracle import History
from tests.faults.harness.rig import LEASE_MS, Rig
from tests.faults.harness.scale import scaled
from tests.waiting import PATIENCE_S

pytestmark = [pytest.mark.faults, pytest.mark.timeout(scaled(300, 1_800))]

TASKS = 20
# A quarter fails once, and handlers outlast a heartbeat: claim, extend, ack and fail are all used.
WORK = {"w": LEASE_MS // 2}
PLACES = (
    "before_claim",
    "after_claim_reply",
    "before_deliver",
    "after_deliver",
    "before_extend",
    "after_extend_reply",
    "before_ack",
    "after_ack_reply",
    "before_fail",
    "after_fail_reply",
    "before_release",
    "after_release_reply",
    "before_reap",
    "after_reap_reply",
)
AT_FIRST = ("extend", "fail", "release", "reap")
"""What a process does seldom, so it dies the first time."""


def test_every_place_is_in_the_product() -> None:
    source = "".join(p.read_text() for p in Path(delaybox.__file__).parent.rglob("*.py") if "failpoints" not in p.name)
    assert set(PLACES) <= set(re.findall(r'"((?:before|after)_\w+)"', source))


def _has_begun(pid: int, history: History) -> bool:
    return any(start.pid == pid for start in history.starts)


async def _dies_with_work(rig: Rig, service: Service, first: int) -> None:
    """A process whose leases the next one must take back."""
    before = await rig.worker()
    await rig.produce(service, TASKS, start=first, due_ms=lambda n: None, work={"w": 1_000})
    await rig.reader.until(partial(_has_begun, before.pid), timeout_s=60, what="work in hand")
    async with rig.nemesis.during("kill", pid=before.pid):
        await before.end()


@pytest.mark.parametrize("place", PLACES)
async def test_death_at_a_place_loses_and_doubles_nothing(tmp_path: Path, place: str) -> None:
    async with Rig(tmp_path, "T2") as rig:
        rig.mode = place
        service = await rig.service()
        for turn in range(scaled(1, 20)):
            # The nth passing, so that some of the work has been done; later in each further turn.
            nth = 1 if any(name in place for name in AT_FIRST) else 2 + turn % 5
            if "reap" in place:
                await _dies_with_work(rig, service, TASKS * turn)
            env = failpoints.environ(f"{place}=kill#{nth}", seed=rig.seed)
            # What it finds to take back may be there when it starts.
            doomed = await rig.worker(env=env, ready="reap" not in place, grace_s=0.1)
            async with rig.nemesis.during("kill", pid=doomed.pid):
                for part in range(4) if "reap" not in place else ():
                    first = (4 * turn + part) * TASKS // 4
                    work = WORK if part else {"w": 50, "f": 1}
                    await rig.produce(service, TASKS // 4, start=first, due_ms=lambda n: None, work=work)
                if "release" in place:
                    # It is told to stop while it has tasks in hand that take longer than it may.
                    await rig.reader.until(partial(_has_begun, doomed.pid), timeout_s=60, what="work in hand")
                    doomed.send(signal.SIGTERM)
                async with asyncio.timeout(PATIENCE_S):
                    await doomed.wait()
            heir = await rig.worker()
            await rig.drained(TASKS * (turn + 1))
            await heir.end()
        verdict = await rig.passes(Limits(), extra={"kills": scaled(1, 20)})
        assert verdict.figures["dups"] <= 2 * TASKS * scaled(1, 20)
