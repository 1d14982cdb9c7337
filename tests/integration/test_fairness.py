"""Fairness keys: within a lane of a partition keys take turns, and nobody waits for another's backlog."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from delaybox.core.queue import QueueRules
from delaybox.core.task import NewTask, OnConflict, Priority, TaskType
from delaybox.service.rules import Rules
from delaybox.store import fairness
from delaybox.store import keys as store_keys
from delaybox.store.record import draft
from delaybox.store.replies import Batch, Claimed
from tests.lab import Lab, leased

WORKER = TaskType.WORKER


def call(key: str = "", weight: float = 1.0, **parts: Any) -> NewTask:
    return NewTask(type=TaskType.WORKER, name="f", fairness_key=key, fairness_weight=weight, **parts)


async def taken(lab: Lab, count: int, *, slots: int = 10, **how: Any) -> list[str]:
    """The keys of the tasks that were taken, in order."""
    keys: list[str] = []
    idle = 0
    while len(keys) < count and idle < 20:
        claimed: Claimed = await lab.claim(types="w", slots=slots, **how)
        found = [record.fairness_key for record in leased(claimed).values()]
        idle = 0 if found else idle + 1
        keys += found
    return keys


@pytest.mark.parametrize("guest", [False, True])
@pytest.mark.parametrize("priority", [Priority.NORMAL, Priority.CRITICAL])
async def test_keys_take_turns_by_weight(lab: Lab, guest: bool, priority: Priority) -> None:
    for key, count, weight in (("a", 400, 1.0), ("b", 300, 2.0), ("", 100, 1.0)):
        await lab.add(*(call(key, weight, priority=priority) for _ in range(count)))
    # All of it is ready first: what was due before a key comes up is not passed over.
    for _ in range(8):
        await lab.claim(slots=0)
    got = Counter((await taken(lab, 200, guest=guest))[:200])
    # Every twentieth goes by virtual deadline, and that is the backlog of a.
    assert abs(got["b"] - 95) <= 3 and abs(got[""] - 48) <= 3 and abs(got["a"] - 57) <= 3, got
    assert await lab.problems() == []


@pytest.mark.parametrize("guest", [False, True])
async def test_a_critical_task_with_a_key_does_not_wait_behind_others(lab: Lab, guest: bool) -> None:
    await lab.add(*(NewTask(type=TaskType.WORKER, name="g") for _ in range(40)))
    (critical,) = await lab.add(call("a", priority=Priority.CRITICAL))
    took = leased(await lab.claim(types="w", slots=10, guest=guest))
    assert critical in took and len(took) == 10
    assert await lab.problems() == []


async def test_a_key_with_little_work_does_not_wait_for_a_backlog(lab: Lab) -> None:
    await lab.add(*(call("busy") for _ in range(300)))
    assert (await taken(lab, 20))[:20] == ["busy"] * 20
    await lab.add(call("small"), call("small"))
    assert "small" in (await taken(lab, 300, slots=4))[:80]
    rest = await taken(lab, 300, slots=250)
    assert len(rest) <= 300
    assert await lab.names("fair*") == [], "nothing is kept of a lane without ready work"
    assert not await lab.client.hexists(f"{lab.tag}:clock", "fair")


async def test_new_keys_do_not_starve_a_backlog(lab: Lab) -> None:
    await lab.add(*(call("old") for _ in range(50)))
    await lab.claim(slots=0)
    old = 0
    for turn in range(60):
        await lab.move(1)
        await lab.add(*(call(f"new-{turn}-{n}") for n in range(5)))
        old += Counter((await taken(lab, 5, slots=5))[:5])["old"]
    assert old >= 12, "every twentieth of 300 goes by virtual deadline, at least"


async def test_without_a_crowd_nothing_is_made_ready(lab: Lab) -> None:
    ids = await lab.add(*(call(f"k{n}") for n in range(20)))
    claimed = await lab.claim(types="w", slots=20)
    assert set(leased(claimed)) == set(ids) and claimed.promoted == 0


async def test_what_is_cancelled_or_moved_leaves_nothing(lab: Lab) -> None:
    ids = await lab.add(*(call("k") for _ in range(30)))
    await lab.claim(slots=0)
    assert await lab.names("fair*")
    await lab.store.cancel(ids[:10])
    for task_id in ids[10:20]:
        assert (await lab.store.reschedule(task_id, delay_ms=5_000))[0] == "moved"
    assert len(await taken(lab, 30)) == 10
    assert await lab.problems() == []
    await lab.move(6_000)
    assert len(await taken(lab, 30)) == 10
    # That the lane may have keys is known until its ready work is over again.
    assert await lab.names("fair*") == [f"{lab.tag}:fair".encode()]


async def remembered(lab: Lab) -> set[str]:
    """The lanes of which it is known that they may have tasks with a key."""
    names = {name.decode() for name in await lab.client.hkeys(f"{lab.tag}:fair")}
    assert bool(names) is bool(await lab.client.hexists(store_keys.clock(lab.tag), "fair"))
    return {name[1:] for name in names if name.startswith(".")}


async def test_lanes_that_were_never_crowded_are_forgotten_after_a_while(lab: Lab) -> None:
    """Else claims of their partition would do more for ever, though there are no such tasks any more."""
    for first in (0, 300):
        await lab.add(*(call("a", queue=f"q{n}") for n in range(first, first + 300)))
        claimed = await lab.claim(b"L" * 16, types="w")
        assert claimed.promoted == 0, "nothing was ready"
        await lab.store.ack(0, b"L" * 16, list(leased(claimed)))
    assert len(await remembered(lab)) == 600
    await lab.move(50_000)
    await lab.add(call("b", delay_ms=3_000), call("b", queue="ready"))
    await lab.claim(slots=0)
    await lab.move(20_000)

    async def forget() -> int:
        after, gone = await fairness.forget_lanes(lab.store, 0)
        while after != b"0":
            after, more = await fairness.forget_lanes(lab.store, 0, after)
            gone += more
        return gone

    assert await forget() == 600
    assert await remembered(lab) == {"w:f", "wready:f"}, "of a task that waits, and of one that was due a moment ago"
    await lab.move(100_000)
    assert await forget() == 0, "both wait still: one is due and not made ready, the other is ready"
    assert len(leased(await lab.claim(types="w"))) == 2
    await lab.move(100_000)
    assert await forget() <= 2 and await remembered(lab) == set()
    assert await lab.problems() == []


async def test_a_lane_that_is_forgotten_takes_no_other_along(lab: Lab) -> None:
    """Of two lanes one had ready work, though none with a key was among it."""
    await lab.add(*(NewTask(type=WORKER, queue="x", name="f") for _ in range(2)))
    await lab.claim(slots=0)
    await lab.add(call("k", queue="x", delay_ms=1_000), call("k", queue="y", delay_ms=2_000))
    await lab.move(1_000)
    (kept,) = [name for name in await lab.near(2, "w") if b"wx" in name]
    await lab.store.cancel([kept[:16]])
    assert len(leased(await lab.claim(types="w"))) == 2
    assert await remembered(lab) == {"wy:f"}


async def test_what_left_before_its_turn_is_no_turn_of_its_key(lab: Lab) -> None:
    """Its entry stays where the clock went back, and a second hint was made beside it."""
    gone = await lab.add(*(call("a") for _ in range(60)))
    await lab.move(1)
    await lab.add(*(call("a") for _ in range(10)), *(call("b") for _ in range(100)))
    for _ in range(3):
        await lab.claim(slots=0)
    await lab.move(-2)
    await lab.index((lab.now + 1) // 1_000)
    await lab.index((lab.now + 2) // 1_000)
    await lab.store.cancel(gone)
    await lab.move(2)
    assert len(await lab.ready("w:f")) == 170, "or this test shows nothing"
    assert Counter((await taken(lab, 40, slots=5))[:40])["a"] == 10, "those of b do not come before them for it"
    assert await lab.problems() == []


async def test_what_comes_and_goes_while_its_queue_waits_piles_up_nowhere(lab: Lab) -> None:
    await Rules(lab.store).set("default", QueueRules(paused=True))
    await lab.add(call("stays"))
    for how in range(30):
        (task_id,) = await lab.add(call(f"k{how % 3}", weight=1 + how % 2))
        await lab.claim(slots=0)
        if how % 2:
            await lab.store.cancel([task_id])
        else:
            await lab.store.reschedule(task_id, delay_ms=50_000)
    assert await lab.client.zcard(f"{lab.tag}:fairq:w:f") == len(await lab.ready("w:f")) == 1
    assert await lab.problems() == []


async def test_fsck_finds_keys_that_are_kept_for_nothing(lab: Lab) -> None:
    lab.dirty = True
    await lab.client.zadd(f"{lab.tag}:fair:w:f", {"k": 1})
    assert await lab.kinds() == ["fair-orphan"]


async def test_a_retry_keeps_its_key(lab: Lab) -> None:
    (task_id,) = await lab.add(call("k", 2.5))
    lease = b"l" * 16
    await lab.lease(lease)
    await lab.store.fail(0, lease, [(task_id, 1_000, "no")])
    record = await lab.record(task_id)
    assert (record.fairness_key, record.fairness_weight) == ("k", 2.5)


async def test_ten_thousand_ready_keys_among_many_pending_ones(lab: Lab) -> None:
    for first in range(0, 10_000, 500):
        await lab.add(*(call(f"key-{n}") for n in range(first, first + 500)))
        await lab.add(*(call(f"later-{n}", delay_ms=3_600_000) for n in range(first, first + 500)))
    while (await lab.claim(slots=0)).promoted:
        pass
    assert int(await lab.client.hget(f"{lab.tag}:fair", "")) == 10_000, "who waits for a later time costs nothing"
    got = Counter(await taken(lab, 10_000, slots=250))
    assert len(got) == 10_000 and set(got.values()) == {1}


@pytest.mark.parametrize("paused", [True, False])
async def test_a_task_that_replaced_one_of_another_lane_is_not_taken_through_it(lab: Lab, paused: bool) -> None:
    def named(key: str, **parts: Any) -> Batch:
        d = draft(NewTask(idempotency_key=key, on_conflict=OnConflict.REPLACE, **parts))
        return Batch(0, [d], d.replace)

    work: Any = {"type": TaskType.WORKER, "name": "f"}
    (stored,) = await lab.store.schedule([named("k", fairness_key="a", **work)])
    assert not isinstance(stored, BaseException)
    (task,) = stored
    others = await lab.add(*(call("b") for _ in range(3)))
    await lab.claim(slots=0)
    assert (await lab.client.zcard(f"{lab.tag}:fairq:w:f")) == 4
    if paused:
        await Rules(lab.store).set("mail", QueueRules(paused=True))
    (moved,) = await lab.store.schedule([named("k", queue="mail", **work)])
    assert not isinstance(moved, BaseException) and moved[0].task_id == task.task_id
    lanes = (b"w:f",)
    assert set(leased(await lab.claim(types="w", slots=10, lanes=lanes))) == set(others), "not the lanes of this taker"
    took = leased(await lab.claim(types="w", slots=10, lease_id=b"m" * 16))
    assert list(took) == ([] if paused else [task.task_id])
    assert await lab.problems() == []
