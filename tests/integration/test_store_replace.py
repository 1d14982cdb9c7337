"""Keys that replace their task, and keys that are locks: nothing is lost, doubled or left behind."""

from __future__ import annotations

from typing import Any

import pytest

from delaybox.core import ids
from delaybox.core.queue import QueueRules
from delaybox.core.task import NewTask, OnConflict, TaskType, UniqueWhile
from delaybox.service.rules import Rules
from delaybox.store import keys
from delaybox.store.record import draft
from delaybox.store.replies import Batch, Stored
from delaybox.wire import body as wire_body
from tests.lab import Lab

LEASE = b"a lease of them.."[:16]
WORK: Any = {"type": TaskType.WORKER, "name": "f", "idempotency_key": "k"}


async def put(lab: Lab, payload: bytes, *, replace: bool = True, **parts: Any) -> Stored:
    on_conflict = OnConflict.REPLACE if replace else OnConflict.KEEP
    d = draft(NewTask(payload=payload, on_conflict=on_conflict, **{**WORK, **parts}))
    (answers,) = await lab.store.schedule([Batch(0, [d], d.replace)])
    assert not isinstance(answers, BaseException), answers
    return answers[0]


async def payload_of(lab: Lab, task_id: bytes) -> bytes:
    found = await lab.find(task_id)
    record = await lab.record(task_id)
    return wire_body.decode(found.body if record.stub else record.body).payload


@pytest.mark.parametrize("sizes", [(1, 2), (2_000, 1), (1, 2_000), (2_000, 3_000)])
async def test_a_pending_task_takes_the_last_time_and_content(lab: Lab, sizes: tuple[int, int]) -> None:
    first, last = bytes(sizes[0]), bytes([1]) * sizes[1]
    one = await put(lab, first, delay_ms=5_000, queue="a", labels={"v": "1"})
    await lab.move(3_000)
    two = await put(lab, last, delay_ms=5_000, queue="b", priority=0)
    assert (two.task_id, two.created, two.due_ms) == (one.task_id, False, lab.now + 5_000)
    assert await payload_of(lab, one.task_id) == last
    record = await lab.record(one.task_id)
    assert (record.queue, record.priority, record.due_ms, record.extension) == ("b", 0, lab.now + 5_000, b"")
    assert await lab.problems() == []
    await lab.move(4_999)
    assert await lab.lease(LEASE) == {}
    await lab.move(1)
    assert list(await lab.lease(LEASE)) == [one.task_id]
    assert await lab.store.ack(0, LEASE, [one.task_id]) == []
    assert await lab.problems() == []


async def test_max_wait_bounds_how_long_requests_put_it_off(lab: Lab) -> None:
    start = lab.now
    one = await put(lab, b"0", delay_ms=5_000, max_wait_ms=12_000)
    for n in range(1, 5):
        await lab.move(3_000)
        last = await put(lab, b"%d" % n, delay_ms=5_000, max_wait_ms=12_000)
        assert (last.task_id, last.due_ms) == (one.task_id, min(lab.now + 5_000, start + 12_000))
        assert await lab.problems() == []
    assert list(await lab.lease(LEASE)) == [one.task_id] and await payload_of(lab, one.task_id) == b"4"
    # The next burst begins anew.
    again = await put(lab, b"5", delay_ms=5_000, max_wait_ms=12_000)
    assert again.created and again.due_ms == lab.now + 5_000


@pytest.mark.parametrize("size", [1, 2_000])
@pytest.mark.parametrize("end", ["ack", "fail", "release", "lose", "reap"])
async def test_one_that_runs_is_superseded_and_never_tried_again(lab: Lab, end: str, size: int) -> None:
    one = await put(lab, bytes(size), group="old")
    await lab.lease(LEASE, lease_ms=1_000)
    two = await put(lab, b"new", delay_ms=50_000)
    assert two.created and two.task_id != one.task_id
    assert (await lab.record(one.task_id)).superseded
    assert await lab.problems() == []
    if end == "ack":
        assert await lab.store.ack(0, LEASE, [one.task_id]) == []
    elif end == "fail":
        assert await lab.store.fail(0, LEASE, [(one.task_id, 1, "broke")]) == ([], 0)
    elif end == "release":
        assert await lab.store.release(0, LEASE, [one.task_id]) == []
    elif end == "lose":
        assert await lab.store.lose(0, LEASE, [one.task_id], losses_cap=1) == ([], 0, 0)
    else:
        await lab.store.reap(0, losses_cap=1, lease_ms=1_000, every_ms=10_000)
        await lab.move(2_000)
        assert (await lab.store.reap(0, losses_cap=1, lease_ms=1_000, every_ms=10_000)).leases == 1
    assert (await lab.find(one.task_id)).place == ""
    assert await payload_of(lab, two.task_id) == b"new"
    assert await lab.names("body:*") == [] and await lab.names("groups") == [] and await lab.problems() == []
    # Nobody else has the key: the same request again finds the new one.
    assert (await put(lab, b"newer")).task_id == two.task_id


@pytest.mark.parametrize("end", ["ack", "cancel", "dead"])
async def test_where_the_first_has_ended_a_new_task_is_stored(lab: Lab, end: str) -> None:
    one = await put(lab, b"1")
    if end == "cancel":
        assert await lab.store.cancel([one.task_id]) == ["cancelled"]
    else:
        await lab.lease(LEASE)
        if end == "ack":
            await lab.store.ack(0, LEASE, [one.task_id])
        else:
            await lab.store.fail(0, LEASE, [(one.task_id, None, "broke")])
    two = await put(lab, b"2", delay_ms=1_000)
    assert two.created and two.task_id != one.task_id and two.due_ms == ids.due_ms(two.task_id) == lab.now + 1_000
    assert await lab.problems() == []
    if end == "dead":
        # It can be replayed; the key stays the new one's.
        assert await lab.store.replay([one.task_id]) == ["replayed"]
        assert await lab.problems() == []
    assert (await put(lab, b"3", delay_ms=1_000)).task_id == two.task_id


async def test_the_same_command_again_changes_nothing(lab: Lab) -> None:
    d = draft(NewTask(payload=b"1", on_conflict=OnConflict.REPLACE, delay_ms=1_000, **WORK))
    call = lab.store.schedule_call(Batch(0, [d], True), ids.tails(0, bytes(8)))
    first = await lab.store.runner.run(call)
    await lab.move(500)
    assert await lab.store.runner.run(call) == first


@pytest.mark.parametrize("end", ["ack", "complete", "cancel", "dead", "lost"])
@pytest.mark.parametrize("span", list(UniqueWhile))
async def test_a_lock_ends_with_its_task_whatever_its_end(lab: Lab, span: UniqueWhile, end: str) -> None:
    one = await put(lab, b"1", replace=False, unique_while=span)
    other = await put(lab, b"2", replace=False, unique_while=span)
    assert (other.task_id, other.conflict) == (one.task_id, True)
    if end == "cancel":
        assert await lab.store.cancel([one.task_id]) == ["cancelled"]
    else:
        assert list(await lab.lease(LEASE)) == [one.task_id]
        if span is UniqueWhile.PENDING:
            assert await lab.ttl_of("k") == -2
        else:
            assert (await put(lab, b"2", replace=False, unique_while=span)).conflict
        assert await lab.problems() == []
        if end == "ack":
            await lab.store.ack(0, LEASE, [one.task_id])
        elif end == "complete":
            await lab.store.complete(0, LEASE, [(one.task_id, 60_000, b"result")])
        elif end == "dead":
            await lab.store.fail(0, LEASE, [(one.task_id, None, "broke")])
        else:
            assert (await lab.store.lose(0, LEASE, [one.task_id], losses_cap=1))[1] == 1
    assert await lab.ttl_of("k") == -2
    again = await put(lab, b"2", replace=False, unique_while=span)
    assert again.created
    assert await lab.problems() == []
    if end in ("dead", "lost"):
        # A replay does not take the lock back from whom it was given to.
        assert await lab.store.replay([one.task_id]) == ["replayed"]
        assert await lab.problems() == []


async def test_a_locked_message_goes_out_by_a_lease_and_frees_its_key(lab: Lab) -> None:
    one = await put(lab, b"1", type=TaskType.PUB_SUB, name="", unique_while=UniqueWhile.RUNNING)
    claimed = await lab.claim(LEASE, types="", channel="somewhere")
    assert (claimed.leased[::2], claimed.lateness_ms) == ([one.task_id], [])
    assert await lab.store.ack(0, LEASE, [one.task_id]) == []
    assert await lab.ttl_of("k") == -2 and await lab.names("lease*") == []


async def test_how_long_a_key_outlives_its_task_is_a_setting(lab: Lab) -> None:
    lab.store.key_keep_ms = 3_600_000
    one = await put(lab, b"1", replace=False)
    await lab.lease(LEASE)
    await lab.store.ack(0, LEASE, [one.task_id])
    ttl = await lab.ttl_of("k")
    assert ttl is not None and 3_500 < ttl <= 3_600


async def test_a_record_of_a_newer_version_is_left_alone(lab: Lab) -> None:
    one = await put(lab, b"1", delay_ms=1_000)
    bucket = keys.bucket(lab.tag, ids.due_ms(one.task_id) // 1_000)
    await lab.client.hset(bucket, one.task_id, b"\x30?")
    lab.dirty = True
    two = await put(lab, b"2")
    assert (two.task_id, two.conflict) == (one.task_id, True)
    assert await lab.client.hget(bucket, one.task_id) == b"\x30?"


async def test_who_cancels_the_first_again_does_not_free_the_key_of_the_next(lab: Lab) -> None:
    first = await put(lab, b"1", delay_ms=60_000)
    assert await lab.store.cancel([first.task_id]) == ["cancelled"]
    assert (await put(lab, b"2", delay_ms=60_000)).created
    assert await lab.store.cancel([first.task_id], free_key=True) == ["cancelled"], "which it is"
    assert not (await put(lab, b"2", replace=False, delay_ms=60_000)).created


async def test_one_that_was_ready_when_the_clock_went_back_is_not_taken_through_its_former_lane(lab: Lab) -> None:
    """It stands among the ready ones and, hinted by the scrubber, in near: what replaces it leaves the former entry."""
    one = await put(lab, b"1", queue="a", delay_ms=5)
    await lab.move(10)
    await lab.claim(slots=0)
    await lab.move(-8)
    await lab.index(one.due_ms // 1_000)
    two = await put(lab, b"2", queue="b")
    assert two.task_id == one.task_id
    assert await lab.ready("wa:f") == [one.task_id], "or this test shows nothing"
    await Rules(lab.store).set("b", QueueRules(paused=True))
    assert await lab.lease(LEASE, types="w") == {}, "its queue is paused"
    await Rules(lab.store).set("b", QueueRules(paused=False))
    assert await lab.lease(LEASE, types="w", lanes=(b"wa:f",)) == {}
    assert list(await lab.lease(LEASE, types="w", lanes=(b"wb:f",))) == [one.task_id]
    assert await lab.problems() == []
