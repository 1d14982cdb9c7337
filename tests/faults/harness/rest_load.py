"""REST clients with an outbox: what is not known to be stored is sent again, to the next node, with the same key."""

from __future__ import annotations

import asyncio
import time
from base64 import b64encode
from collections.abc import Callable, Sequence

from tests.faults.harness.look import payload
from tests.faults.harness.oracle import FAIL, OK, UNKNOWN, Call, now_us
from tests.faults.harness.rest import Rest
from tests.faults.harness.rig import Rig

CLIENTS = 16
_UNSURE = (429, 503)


async def produce_over_rest(
    rig: Rig,
    ports: Sequence[int],
    count: int,
    *,
    due_ms: Callable[[int], int],
    start: int = 0,
    per_s: float = float("inf"),
) -> None:
    """Posts PUB_SUB tasks with keys ``k<start>``… until each is answered, at most ``per_s``, and logs every call."""
    began = time.monotonic()
    rests = [Rest(port) for port in ports]
    todo = iter(range(start, start + count))

    async def client() -> None:
        for n in todo:
            turn = n
            await asyncio.sleep(began + (n - start) / per_s - time.monotonic())
            while not await _post(rig, rests[turn % len(rests)], f"k{n}", due_ms(n)):
                turn += 1
                await asyncio.sleep(0.02)

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    for rest in rests:
        await rest.close()


async def _post(rig: Rig, rest: Rest, key: str, due_ms: int) -> bool:
    """Whether it is stored, as far as the client knows. AssertionError for an answer that no retry mends."""
    task = {
        "parameter": {"executionTimestamp": due_ms, "idempotencyKey": key},
        "pyload": b64encode(payload(key)).decode(),
    }
    sent_us = now_us()
    try:
        answer = await rest.post(task)
    except (OSError, EOFError):
        rig.writer.write(Call("schedule", key, "", due_ms, UNKNOWN, sent_us, now_us()))
        return False
    if answer.status == 200:
        task_id = answer.json()["taskUuid"]
        # A past due time counts from the moment of scheduling, which the id carries.
        due = max(due_ms, int(task_id.replace("-", "")[:12], 16))
        rig.writer.write(Call("schedule", key, task_id, due, OK, sent_us, now_us()))
        return True
    outcome = UNKNOWN if answer.status in _UNSURE else FAIL
    rig.writer.write(Call("schedule", key, "", due_ms, outcome, sent_us, now_us()))
    assert outcome == UNKNOWN, answer
    return False
