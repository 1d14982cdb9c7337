"""Tasks that put themselves off: nothing is charged, the whole time is limited, and others cost no byte more."""

from __future__ import annotations

import pytest

from delaybox.core.task import NewTask, TaskType
from delaybox.store.record import draft
from delaybox.store.snooze import Snooze, snooze
from tests.lab import Lab

DAY = 24 * 3600 * 1000


async def put_off(lab: Lab, task_id: bytes, *, delay_ms: int = 1_000, longest_ms: int = DAY) -> bool:
    """Claims it and puts it off; whether it became a dead letter."""
    lease_id = b"lease" + task_id[-11:]
    assert await lab.lease(lease_id) != {}
    one = Snooze(task_id, delay_ms, longest_ms, "too long")
    stale, dead, dropped = await snooze(lab.store, 0, lease_id, [one])
    assert (stale, dropped) == ([], 0)
    # Sent again, as after an unknown answer, it changes nothing.
    assert await snooze(lab.store, 0, lease_id, [one]) == ([task_id], [], 0)
    return dead == [task_id]


@pytest.mark.parametrize("payload", [b"x", bytes(2_000)])
@pytest.mark.parametrize("key", [None, "k"])
async def test_any_number_of_snoozes_charges_nothing(lab: Lab, payload: bytes, key: str | None) -> None:
    (task_id,) = await lab.add(NewTask(payload=payload, type=TaskType.WORKER, name="f", idempotency_key=key))
    first = lab.now
    for _ in range(7):
        assert not await put_off(lab, task_id)
        record = await lab.record(task_id)
        assert (record.attempt, record.losses, record.due_ms) == (0, 0, lab.now + 1_000)
        assert record.snoozed_since == first
        assert await lab.problems() == []
        await lab.move(1_000)
    assert record.deliveries == 7
    assert await lab.lease(b"the last one ...") != {}
    assert await lab.store.ack(0, b"the last one ...", [task_id]) == []
    assert await lab.problems() == []


async def test_past_the_whole_time_it_is_a_dead_letter_and_a_replay_begins_anew(lab: Lab) -> None:
    (task_id,) = await lab.add(NewTask(type=TaskType.WORKER, name="f"))
    assert not await put_off(lab, task_id, delay_ms=600, longest_ms=1_000)
    await lab.move(600)
    assert await put_off(lab, task_id, delay_ms=600, longest_ms=1_000)
    assert (await lab.find(task_id)).place == "dead"
    assert await lab.store.replay([task_id]) == ["replayed"]
    record = await lab.record(task_id)
    assert (record.snoozed_since, record.extension) == (None, b"")
    assert not await put_off(lab, task_id, delay_ms=600, longest_ms=1_000)


async def test_a_task_that_is_moved_by_hand_may_be_put_off_for_the_whole_time_again(lab: Lab) -> None:
    (task_id,) = await lab.add(NewTask(type=TaskType.WORKER, name="f"))
    assert not await put_off(lab, task_id, delay_ms=600, longest_ms=1_000)
    assert (await lab.store.reschedule(task_id, priority=1))[0] == "moved"
    assert (await lab.record(task_id)).snoozed_since is not None
    assert (await lab.store.reschedule(task_id, delay_ms=5_000))[0] == "moved"
    assert (await lab.record(task_id)).snoozed_since is None
    await lab.move(5_000)
    assert not await put_off(lab, task_id, delay_ms=600, longest_ms=1_000)


async def test_a_task_that_was_never_put_off_has_no_extension(lab: Lab) -> None:
    new = NewTask(payload=b"x", type=TaskType.WORKER, name="f")
    (task_id,) = await lab.add(new)
    assert (await lab.find(task_id)).value == draft(new).record
    await lab.lease(b"a lease of it ..")
    assert (await lab.find(task_id)).value[0] == 0x11
