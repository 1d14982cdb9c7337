"""T27: the server stands still for longer than leases last, in each way there is; callers learn it in time, and then
all goes on."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from delaybox.core.errors import StoreUnavailable, TaskNotFound
from delaybox.service import Service
from tests.faults.harness.checker import Limits
from tests.faults.harness.rig import Rig, soon, spread
from tests.faults.harness.scale import scaled
from tests.faults.harness.server import Server

pytestmark = [pytest.mark.faults, pytest.mark.timeout(scaled(120, 600))]

TIMEOUT_S = 1.0
LONG_S = 5.0
"""A server that stands still for so long is not waited for: whoever asks is told, after the time-out and a repeat."""
PER_S = scaled(100, 1_000)
UNKNOWN = "01a00000-0000-8000-8000-000000000000"


def _sleep(server: Server, seconds: float) -> None:
    with server.client() as client:
        client.execute_command("DEBUG", "SLEEP", seconds)


def _pause(server: Server, seconds: float, what: str) -> None:
    with server.client() as client:
        client.execute_command("CLIENT", "PAUSE", int(seconds * 1_000), what)
    time.sleep(seconds)


def _stop(server: Server, seconds: float) -> None:
    os.kill(server.pid, signal.SIGSTOP)
    time.sleep(seconds)
    os.kill(server.pid, signal.SIGCONT)


WAYS: dict[str, tuple[Callable[[Server, float], None], float]] = {
    "sleep": (_sleep, scaled(2.0, 5.0)),
    "pause writes": (lambda server, seconds: _pause(server, seconds, "WRITE"), scaled(2.0, 10.0)),
    "pause all": (lambda server, seconds: _pause(server, seconds, "ALL"), scaled(2.0, 10.0)),
    "stop": (_stop, scaled(2.0, 3.0)),
}


async def _ask(service: Service, over: asyncio.Event) -> tuple[float, int]:
    """How long the longest of many calls took, and how many were refused because the store did not answer."""
    longest, refused = 0.0, 0
    while not over.is_set():
        began = time.monotonic()
        try:
            await service.get(UNKNOWN)
        except StoreUnavailable:
            refused += 1
        except TaskNotFound:
            pass
        longest = max(longest, time.monotonic() - began)
        await asyncio.sleep(0.05)
    return longest, refused


@pytest.mark.parametrize("how", WAYS)
async def test_a_server_that_stands_still_is_waited_for(tmp_path: Path, how: str) -> None:
    stand_still, seconds = WAYS[how]
    count = int(PER_S * (seconds + 3.0))
    async with Rig(tmp_path, "T27") as rig:
        rig.mode = how
        await rig.workers(2, timeout_s=TIMEOUT_S)
        service, asked = await rig.service(timeout_s=TIMEOUT_S), await rig.service(timeout_s=TIMEOUT_S)
        due, chunk = spread(soon(500), int(1e6 / PER_S)), PER_S // 10
        producing = asyncio.create_task(
            rig.produce(service, count, due_ms=due, chunk=chunk, pause_s=0.08, work={"w": 20})
        )
        await rig.reached(20)
        over = asyncio.Event()
        asking = asyncio.create_task(_ask(asked, over))
        async with rig.nemesis.during("net"):
            await asyncio.to_thread(stand_still, rig.server, seconds)
        over.set()
        longest_s, refused = await asking
        await producing
        await rig.drained(count, timeout_s=scaled(30, 120))
        await rig.passes(Limits(), extra={"longest_call_s": round(longest_s, 1), "refused": refused})
        # Looks are no writes.
        if seconds >= LONG_S and how != "pause writes":
            assert refused and longest_s < max(seconds, LONG_S + 2.0), "who asks is told in time"
