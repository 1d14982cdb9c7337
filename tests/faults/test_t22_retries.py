"""T22: clients that send again: at once, many times, after a time-out, after completion, and with another body."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from delaybox.core.errors import IdempotencyConflict, StoreUnavailable
from delaybox.core.task import NewTask, Submitted, TaskType
from delaybox.service import Service
from tests.faults.harness.checker import Limits
from tests.faults.harness.look import payload
from tests.faults.harness.oracle import FAIL, OK, UNKNOWN, Call, now_us
from tests.faults.harness.proxy import CLEAN, Plan
from tests.faults.harness.rig import Rig, soon
from tests.faults.harness.scale import scaled

pytestmark = [pytest.mark.faults, pytest.mark.timeout(scaled(300, 1_800))]

TWINS = 50


def _task(key: str, due_ms: int, extra: str = "") -> NewTask:
    return NewTask(payload=payload(key, x=extra), due_ms=due_ms, type=TaskType.WORKER, idempotency_key=key)


async def _send(rig: Rig, service: Service, key: str, due_ms: int) -> str:
    """Sends until there is an answer, as a client with an outbox; the id."""
    while True:
        sent_us = now_us()
        try:
            answer = await service.submit(_task(key, due_ms))
        except StoreUnavailable:
            rig.writer.write(Call("schedule", key, "", due_ms, UNKNOWN, sent_us, now_us()))
            await asyncio.sleep(0.01)
        else:
            rig.writer.write(Call("schedule", key, answer.task_id, answer.due_ms, OK, sent_us, now_us()))
            return answer.task_id


async def test_one_key_is_one_task_however_often_it_is_sent(tmp_path: Path) -> None:
    keys = scaled(60, 500)
    async with Rig(tmp_path, "T22") as rig:
        proxy = await rig.proxy()
        url = f"redis://127.0.0.1:{proxy.port}"
        # Several services: twins must meet in Redis and not already in one process's batch.
        services = [await rig.service(url, timeout_s=1.0) for _ in range(4)]
        direct = await rig.service()
        await rig.workers(1)
        due = soon(scaled(1_500, 20_000))
        async with rig.nemesis.during("net"):
            proxy.plan = Plan(swallow=0.05, cut=0.03, rst=0.03)
            for at in range(0, keys, 20):
                sent = [
                    _send(rig, services[twin % len(services)], f"k{n}", due + n)
                    for n in range(at, min(at + 20, keys))
                    for twin in range(TWINS)
                ]
                ids = await asyncio.gather(*sent)
                for n in range(min(20, keys - at)):
                    assert len(set(ids[n * TWINS : (n + 1) * TWINS])) == 1
            proxy.plan = CLEAN
        await rig.drained(keys)

        # After completion the key is still remembered: no second task, and another body is refused.
        late = await direct.submit_many([_task(f"k{n}", due + n) for n in range(keys)])
        for n, answer in enumerate(late):
            assert isinstance(answer, Submitted)
            assert not answer.created
            rig.writer.write(Call("schedule", f"k{n}", answer.task_id, answer.due_ms, OK, now_us(), now_us()))
        # Half of a bulk call has another body: those are refused one by one, the others answered.
        mixed = await direct.submit_many([_task(f"k{n}", due + n, "other" if n % 2 else "") for n in range(keys)])
        refused = [isinstance(answer, IdempotencyConflict) for answer in mixed]
        assert refused == [n % 2 == 1 for n in range(keys)]
        rig.writer.write(*(Call("schedule", f"k{n}", "", 0, FAIL, now_us(), now_us()) for n in range(1, keys, 2)))
        verdict = await rig.passes(
            Limits(), extra={"keys": keys, "sent": keys * TWINS, "conflicts": sum(refused), **proxy.done}
        )
        assert len({s.task_id for s in rig.reader.history.starts}) == keys
        assert verdict.figures["dup_sched"] == 0
