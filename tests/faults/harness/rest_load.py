"""REST clients with an outbox: what is not known to be stored is sent again, to the next node, with the same key."""

from __future__ import annotations

import asyncio
import time
from base64 import b64encode
from collections.abc import Callable, Sequence

from tests.faults.harness.look import payload
from tests.faults.harness.oracle import FAIL, OK, UNKNOWN, Call, Writer, now_us
from tests.faults.harness.rest import Answer, Rest
from tests.faults.harness.rig import Rig

CLIENTS = 16
REFUSED = (429, 503)
"""Answers to a request that may be sent again."""


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
            while (answer := await post(rig.writer, rests[turn % len(rests)], f"k{n}", due_ms(n))) is None or (
                answer.status in REFUSED
            ):
                turn += 1
                await asyncio.sleep(0.02)

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    for rest in rests:
        await rest.close()


async def post(log: Writer, rest: Rest, key: str, due_ms: int, *, timeout_s: float = 15.0) -> Answer | None:
    """Posts a PUB_SUB task and logs the call; None: no whole answer came. AssertionError for an answer that no retry
    mends."""
    task = {
        "parameter": {"executionTimestamp": due_ms, "idempotencyKey": key},
        "pyload": b64encode(payload(key)).decode(),
    }
    sent_us = now_us()
    try:
        answer = await rest.post(task, timeout_s=timeout_s)
    except (OSError, EOFError):
        log.write(Call("schedule", key, "", due_ms, UNKNOWN, sent_us, now_us()))
        return None
    if answer.status == 200:
        task_id = answer.json()["taskUuid"]
        # A past due time counts from the moment of scheduling, which the id carries.
        due = max(due_ms, int(task_id.replace("-", "")[:12], 16))
        log.write(Call("schedule", key, task_id, due, OK, sent_us, now_us()))
        return answer
    # 503 may come after the task was sent to the store.
    outcome = UNKNOWN if answer.status == 503 else FAIL
    log.write(Call("schedule", key, "", due_ms, outcome, sent_us, now_us()))
    assert answer.status in REFUSED, answer
    return answer
