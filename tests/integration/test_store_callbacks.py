"""Webhooks that call back: the script that ends one stores the call, once, whichever script that is."""

from __future__ import annotations

import json
from typing import Any

import pytest

from delaybox.core.task import NewTask, Priority, TaskType
from delaybox.core.webhook import Webhook
from delaybox.store.record import read
from delaybox.store.snooze import Snooze, snooze
from delaybox.wire import body as wire_body
from tests.lab import Lab

GOOD, BAD = "https://example.com/good", "https://example.com/bad"
LEASE = b"a lease of all  "


def webhook(**parts: Any) -> NewTask:
    return NewTask(
        type=TaskType.HTTP, queue="mail", priority=Priority.HIGH,
        webhook=Webhook("https://example.com/x", on_success=GOOD, on_failure=BAD), **parts,
    )  # fmt: skip


async def called(lab: Lab) -> list[tuple[bytes, str, dict[str, Any]]]:
    """The calls that are due: id, URL, what they say. They are completed, and call nobody."""
    claimed = (await lab.claim(LEASE + b"2")).leased
    found = []
    for task_id, raw in zip(claimed[0::2], claimed[1::2], strict=True):
        record = read(task_id, raw)
        assert (record.type, record.queue, record.priority, record.extension) == (TaskType.HTTP, "mail", 1, b"")
        stored = record.body
        if record.stub:
            (apart,) = await lab.store.bodies(0, [task_id])
            stored = apart or b""
        message = wire_body.decode(stored)
        assert message.header["content-type"] == b"application/json"
        found.append((task_id, message.webhook.url, json.loads(message.payload)))
    if found:
        assert await lab.store.ack(0, LEASE + b"2", [task_id for task_id, _, _ in found]) == []
    assert await lab.problems() == []
    return found


@pytest.mark.parametrize("payload", [b"x", bytes(2_000)])
@pytest.mark.parametrize("kept", [True, False])
async def test_one_that_ended_well(lab: Lab, kept: bool, payload: bytes) -> None:
    (task_id,) = await lab.add(webhook(payload=payload, group="g", idempotency_key="k"))
    await lab.lease(LEASE)
    for stale in ([], [task_id]):
        # Sent again, as after an unknown answer, it calls nobody a second time.
        if kept:
            assert await lab.store.complete(0, LEASE, [(task_id, 60_000, b"result")]) == stale
        else:
            assert await lab.store.ack(0, LEASE, [task_id]) == stale
    ((call_id, url, said),) = await called(lab)
    assert call_id != task_id
    assert (url, said["type"], said["state"], said["attempts"]) == (GOOD, "webhook.succeeded", "succeeded", 1)
    assert said["task_id"].replace("-", "") == task_id.hex()
    assert await called(lab) == []


async def end_by(lab: Lab, how: str, task_id: bytes) -> None:
    if how == "fail":
        assert await lab.store.fail(0, LEASE, [(task_id, None, 'answered 404 "no" \\ é')]) == ([], 0)
    elif how == "snooze":
        assert await snooze(lab.store, 0, LEASE, [Snooze(task_id, 10, 1, "put off too long")]) == ([], [task_id], 0)
    elif how == "lose":
        assert (await lab.store.lose(0, LEASE, [task_id], losses_cap=1))[1] == 1
    else:
        # The first look notes that there was none before, and gives holders the time of one lease.
        await lab.store.reap(0, lease_ms=100, losses_cap=1, every_ms=100_000)
        await lab.move(100_000)
        assert (await lab.store.reap(0, lease_ms=100, losses_cap=1, every_ms=100_000)).dead == 1


@pytest.mark.parametrize("how", ["fail", "snooze", "lose", "reap"])
async def test_a_dead_letter_whatever_made_it_one(lab: Lab, how: str) -> None:
    (task_id,) = await lab.add(webhook())
    await lab.lease(LEASE, lease_ms=100)
    await end_by(lab, how, task_id)
    ((_, url, said),) = await called(lab)
    reason = {
        "fail": 'answered 404 "no" \\ é', "snooze": "put off too long",
        "lose": "lost with its worker 1 times", "reap": "lost with its node 1 times",
    }[how]  # fmt: skip
    assert (url, said["type"], said["state"], said["reason"]) == (BAD, "webhook.failed", "failed", reason)
    assert said["attempts"] == (1 if how == "fail" else 0)


async def test_a_failure_that_is_tried_again_and_one_that_is_cancelled_call_nobody(lab: Lab) -> None:
    again, cancelled = await lab.add(webhook(), webhook(delay_ms=60_000))
    await lab.lease(LEASE)
    assert await lab.store.fail(0, LEASE, [(again, 60_000, "no")]) == ([], 0)
    assert await lab.store.cancel([cancelled]) == ["cancelled"]
    assert await called(lab) == []


async def test_a_long_reason_lies_apart(lab: Lab) -> None:
    (task_id,) = await lab.add(webhook())
    await lab.lease(LEASE)
    assert await lab.store.fail(0, LEASE, [(task_id, None, "x" * 1_900)]) == ([], 0)
    ((_, _, said),) = await called(lab)
    assert said["reason"] == "x" * 1_900


async def test_one_that_calls_nobody_costs_nothing(lab: Lab) -> None:
    (task_id,) = await lab.add(NewTask(type=TaskType.HTTP, webhook=Webhook("https://example.com/x")))
    assert (await lab.record(task_id)).extension == b""
