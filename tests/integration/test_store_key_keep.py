"""How long idempotency keys outlive their tasks, by a rule of the queue, whatever the end."""

from __future__ import annotations

import pytest

from delaybox.core.queue import QueueRules
from delaybox.core.task import NewTask, TaskType
from delaybox.service.rules import Rules
from tests.lab import Lab, leased

LEASE = b"l" * 20
DAY_MS = 24 * 3_600_000


@pytest.mark.parametrize("how", ["ack", "complete", "in_place", "cancel"])
async def test_a_key_outlives_its_task_as_its_queue_says(lab: Lab, how: str) -> None:
    await Rules(lab.store).set("mail", QueueRules(key_keep_ms=90_000))
    await lab.add(
        *(
            NewTask(type=TaskType.PUB_SUB if how == "in_place" else TaskType.HTTP, queue=queue, idempotency_key=queue)
            for queue in ("mail", "other")
        )
    )
    if how == "in_place":
        assert len((await lab.claim(channel="c", slots=0)).lateness_ms) == 2
    elif how == "cancel":
        ids = [member[:16] for member in await lab.near()]
        assert await lab.store.cancel(ids) == ["cancelled"] * 2
        assert {await lab.client.pttl(name) <= 90_000 for name in await lab.names("cancelled:*")} == {True, False}
    else:
        took = list(leased(await lab.claim(LEASE)))
        if how == "ack":
            await lab.store.ack(0, LEASE, took)
        else:
            await lab.store.complete(0, LEASE, [(task_id, 60_000, b"r") for task_id in took])
    mail, other = [await lab.client.pttl(f"{lab.tag}:idem:{queue}") for queue in ("mail", "other")]
    assert 80_000 < mail <= 90_000 and DAY_MS - 10_000 < other <= DAY_MS
