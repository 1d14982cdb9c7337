"""T24: cancel, reschedule and run-now race with firing and with each other."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from delaybox.core.errors import TaskNotFound, TaskRunning
from delaybox.service import Service
from tests.faults.harness.checker import Limits
from tests.faults.harness.oracle import FAIL, OK, Call, now_us
from tests.faults.harness.rig import Rig, soon, spread
from tests.faults.harness.scale import scaled

pytestmark = [pytest.mark.faults, pytest.mark.timeout(scaled(300, 1_800))]

CLIENTS = 32


async def _meddle(rig: Rig, service: Service, seed: int, tasks: list[tuple[str, str]], until_ms: int) -> dict[str, int]:
    """One client that cancels and moves tasks at random; how often each call had its way."""
    draw = random.Random(seed)
    had_its_way = {"cancel": 0, "reschedule": 0, "run_now": 0}
    while soon() < until_ms:
        key, task_id = draw.choice(tasks)
        op = draw.choices(("cancel", "reschedule", "run_now"), (1, 12, 2))[0]
        due = soon(draw.randrange(-20, 400))
        sent_us, outcome = now_us(), OK
        try:
            if op == "cancel":
                await service.cancel(task_id)
            elif op == "run_now":
                due = await service.run_now(task_id)
            else:
                due = await service.reschedule(task_id, due_ms=due)
        except (TaskNotFound, TaskRunning):
            outcome = FAIL
        else:
            had_its_way[op] += 1
        rig.writer.write(Call(op, key, task_id, due, outcome, sent_us, now_us()))
        await asyncio.sleep(draw.uniform(0, 0.004))
    return had_its_way


async def test_what_was_cancelled_never_runs_and_what_was_moved_is_never_early(tmp_path: Path) -> None:
    rounds, each = scaled(4, 50), 100
    async with Rig(tmp_path, "T24") as rig:
        # No lease may end before its time, whatever the machine does.
        await rig.workers(2, lease_ms=15_000)
        service = await rig.service()
        total = {"cancel": 0, "reschedule": 0, "run_now": 0}
        for turn in range(rounds):
            first, due = turn * each, soon(250)
            await rig.produce(service, each, start=first, due_ms=spread(due, 1_000))
            rig.reader.poll()
            tasks = [(c.key, c.task_id) for c in rig.reader.history.calls if c.op == "schedule"][-each:]
            meddlers = [
                _meddle(rig, service, rig.seed * 1000 + turn * CLIENTS + i, tasks, due + 500) for i in range(CLIENTS)
            ]
            for part in await asyncio.gather(*meddlers):
                total = {op: total[op] + n for op, n in part.items()}
        await rig.settled()
        rig.reader.poll()
        ran = {s.task_id for s in rig.reader.history.starts}
        cancelled = {c.task_id for c in rig.reader.history.calls if c.op == "cancel" and c.outcome == OK}
        verdict = await rig.passes(Limits(), extra={"tasks": rounds * each, "ran": len(ran), **total})
        # Each task ended in exactly one way, and one cancel at most had its way.
        assert not ran & cancelled
        assert len(ran) + len(cancelled) == rounds * each
        assert total["cancel"] == len(cancelled)
        assert verdict.figures["cancelled_but_ran"] == 0
        assert min(total.values()) > 0


async def test_a_number_of_an_id_is_never_used_again(tmp_path: Path) -> None:
    """Control calls on ids of finished tasks find nothing, whatever became of them."""
    async with Rig(tmp_path, "T24") as rig:
        rig.mode = "after_the_end"
        await rig.workers(1)
        service = await rig.service()
        await rig.produce(service, 50, due_ms=lambda n: None)
        await rig.drained(50)
        rig.reader.poll()
        for call in [c for c in rig.reader.history.calls if c.op == "schedule"]:
            for attempt in (service.cancel(call.task_id), service.run_now(call.task_id)):
                with pytest.raises(TaskNotFound):
                    await attempt
        await rig.passes(Limits())
