"""T15: the server is full. New tasks are refused; what is due goes on firing until there is room again."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import pytest

from delaybox.core.errors import StoreFull
from delaybox.core.task import NewTask, TaskType
from tests.faults.harness.checker import Limits
from tests.faults.harness.look import payload
from tests.faults.harness.oracle import FAIL, OK, Call, now_us
from tests.faults.harness.rig import Rig, soon
from tests.faults.harness.scale import scaled
from tests.waiting import PATIENCE_S

pytestmark = [pytest.mark.faults, pytest.mark.timeout(scaled(300, 1_800))]


async def test_a_full_server_drains_by_itself(tmp_path: Path) -> None:
    # Many at once: on a busy machine it must be full before the first is due.
    room, padding, together = scaled(1 << 20, 50 << 20), 600, scaled(20, 100)
    async with Rig(tmp_path, "T15") as rig:
        service = await rig.service()
        workers = await rig.workers(2)
        with rig.server.client() as client:
            used = client.info("memory")["used_memory"]
            client.config_set("maxmemory", used + room)
        due = soon(scaled(4_000, 60_000))
        accepted, refused, numbers = 0, 0, itertools.count()

        async def schedule(n: int) -> None:
            nonlocal accepted, refused
            key = f"k{n}"
            task = NewTask(
                payload=payload(key) + b" " * padding, due_ms=due + n % 500, type=TaskType.WORKER, idempotency_key=key
            )
            sent_us = now_us()
            try:
                answer = await service.submit(task)
            except StoreFull:
                refused += 1
                rig.writer.write(Call("schedule", key, "", due, FAIL, sent_us, now_us()))
            else:
                accepted += 1
                rig.writer.write(Call("schedule", key, answer.task_id, answer.due_ms, OK, sent_us, now_us()))

        async with rig.nemesis.during("oom"):
            while refused < 20 and soon() < due - 500:
                await asyncio.gather(*(schedule(next(numbers)) for _ in range(together)))
            assert refused >= 20, "the server never got full"
            assert accepted > 200
            # A node that starts while it is full must get going as well.
            async with rig.nemesis.during("kill", pid=workers[0].pid):
                await workers[0].end()
            await rig.worker()
            await rig.drained(accepted, timeout_s=scaled(60, 600))
        drain_ms = rig.reader.history.starts[-1].at_us / 1000 - due
        await rig.passes(Limits(), extra={"refused_full": refused, "drain": f"{drain_ms / 1000:.1f}s"})
        # With the room that firing made, new tasks are taken again, nobody having helped.
        again = await asyncio.wait_for(service.submit(NewTask(payload=b"x", delay_ms=60_000)), PATIENCE_S)
        assert again.created
