"""Tasks that were put off until a moment and are brought back: only where nobody has done anything to them since."""

from __future__ import annotations

import pytest

from delaybox.core.queue import QueueRules
from delaybox.core.task import NewTask, Priority, TaskType
from delaybox.core.webhook import Webhook
from delaybox.service.rules import Rules
from delaybox.store.record import delivery_of, read, rewrite
from delaybox.store.resuming import resume
from delaybox.store.snooze import Snooze, snooze
from tests.lab import Lab

TO = Webhook("https://example.com/hook")


def hook(**more: object) -> NewTask:
    return NewTask(type=TaskType.HTTP, webhook=TO, **more)  # type: ignore[arg-type]


async def put_off(lab: Lab, until_ms: int, *tasks: NewTask) -> list[bytes]:
    """Tasks that were handed out and back."""
    ids = await lab.add(*tasks)
    assert set(await lab.lease(b"L")) == set(ids)
    assert await lab.store.release(0, b"L", ids, until_ms=until_ms) == []
    return ids


@pytest.mark.parametrize("away_ms", [40_000, 100_000])
async def test_put_off_until_a_moment_and_brought_back(lab: Lab, away_ms: int) -> None:
    moment = lab.now + away_ms
    large = hook(payload=bytes(2_000), priority=Priority.CRITICAL)
    one, two = await put_off(lab, moment, hook(fairness_key="a"), large)
    for task_id in (one, two):
        record = await lab.record(task_id)
        assert (record.due_ms, record.deliveries, record.attempt) == (moment, 1, 0)
    await lab.expand()
    await lab.move(1_000)
    assert not await lab.lease(b"none")
    assert await resume(lab.store, {0: [(one, moment), (two, moment)]}) == 2
    assert await lab.problems() == []
    again = await lab.lease(b"again")
    assert {i: (r.due_ms, r.deliveries) for i, r in again.items()} == {one: (lab.now, 2), two: (lab.now, 2)}
    assert await resume(lab.store, {0: [(one, moment), (two, moment)]}) == 0
    assert await lab.store.ack(0, b"again", [one, two]) == []
    for pattern in ("lease*", "b:*", "body:*", "near:*", "ready:*"):
        assert await lab.names(pattern) == []


async def test_what_was_moved_cancelled_taken_or_came_by_itself_is_left_alone(lab: Lab) -> None:
    moment = lab.now + 40_000
    moved, cancelled, same = await put_off(lab, moment, hook(), hook(), hook())
    assert await lab.store.reschedule(moved, due_ms=lab.now + 3_600_000) == ("moved", lab.now + 3_600_000)
    assert await lab.store.cancel([cancelled]) == ["cancelled"]
    unknown = bytes(6) + b"\xff" * 10
    asked = [(moved, moment), (cancelled, moment), (unknown, moment), (same, moment + 1)]
    assert await resume(lab.store, {0: asked}) == 0
    assert (await lab.record(moved)).due_ms == lab.now + 3_600_000
    await lab.move(40_000)
    assert await resume(lab.store, {0: [(same, moment)]}) == 0, "it is due anyhow"
    assert (await lab.record(same)).due_ms == moment
    assert set(await lab.lease(b"mine")) == {same}
    assert await resume(lab.store, {0: [(same, moment)]}) == 0
    assert (await lab.find(same)).place == "lease"


async def test_whoever_sends_is_told_and_a_paused_queue_stays_paused(lab: Lab) -> None:
    moment = lab.now + 40_000
    (task_id,) = await put_off(lab, moment, hook(queue="mail"))
    await lab.claim(types="h", guest=True)
    rules = Rules(lab.store)
    await rules.set("mail", QueueRules(paused=True))
    assert await resume(lab.store, {0: [(task_id, moment)]}) == 1
    assert not await lab.lease(b"paused")
    await rules.set("mail", QueueRules(paused=False))
    assert set(await lab.lease(b"L")) == {task_id}


async def test_a_moment_that_is_over_is_now_and_one_past_all_time_is_the_last(lab: Lab) -> None:
    (early,) = await put_off(lab, lab.now - 5_000, hook())
    assert (await lab.record(early)).due_ms == lab.now
    assert set(await lab.lease(b"M")) == {early}
    assert await lab.store.release(0, b"M", [early], until_ms=10**15) == []
    assert (await lab.record(early)).due_ms == 10**14


async def test_a_task_that_may_expire_keeps_the_time_at_which_it_was_due_first(lab: Lab) -> None:
    (task_id,) = await lab.add(hook(expire_after_ms=60_000, idempotency_key="k", group="g"))
    first = lab.now
    for lease, how in ((b"A", {"delay_ms": 5_000}), (b"B", {"until_ms": lab.now + 20_000})):
        assert set(await lab.lease(lease)) == {task_id}
        assert await lab.store.release(0, lease, [task_id], **how) == []
        record = await lab.record(task_id)
        assert record.first_due_ms == first < record.due_ms and (record.key, record.group) == (b"k", "g")
        await lab.move(record.due_ms - lab.now)
        assert await lab.problems() == []
    (one,) = (await lab.claim(b"C")).leased[1::2]
    assert delivery_of(task_id, one, 0, b"C", lab.now).first_due_ms == first
    # Tried, and failed: how late it is counts from the retry.
    assert await lab.store.fail(0, b"C", [(task_id, 1_000, "broke")]) == ([], 0)
    assert (await lab.record(task_id)).first_due_ms == 0


@pytest.mark.parametrize("how", ["reschedule", "update", "replay", "snooze"])
async def test_a_task_that_was_moved_on_purpose_is_late_from_then_on(lab: Lab, how: str) -> None:
    (task_id,) = await put_off(lab, lab.now + 1_000, hook(expire_after_ms=60_000))
    if how == "reschedule":
        await lab.store.reschedule(task_id, delay_ms=2_000)
    elif how == "update":
        old = (await lab.find(task_id)).value
        new, body = rewrite(read(task_id, old), body=b"", due_ms=lab.now + 2_000, priority=2)
        assert await lab.store.update(task_id, old, new, body) == ("moved", lab.now + 2_000)
    else:
        await lab.move(1_000)
        assert set(await lab.lease(b"M")) == {task_id}
        if how == "snooze":
            await snooze(lab.store, 0, b"M", [Snooze(task_id, 2_000, 60_000, "later")])
        else:
            await lab.store.fail(0, b"M", [(task_id, None, "broke")])
            assert await lab.store.replay([task_id]) == ["replayed"]
    assert (await lab.record(task_id)).first_due_ms == 0
    assert await lab.problems() == []


async def test_a_hand_back_at_once_and_one_of_a_task_that_never_expires_add_nothing(lab: Lab) -> None:
    never, may = await lab.add(hook(), hook(expire_after_ms=60_000))
    assert len(await lab.lease(b"L")) == 2
    assert await lab.store.release(0, b"L", [may]) == []
    assert await lab.store.release(0, b"L", [never], delay_ms=1_000) == []
    for task_id in (never, may):
        assert (await lab.record(task_id)).extension == b""
