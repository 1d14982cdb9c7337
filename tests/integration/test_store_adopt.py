"""Tasks move from one lease to another while they run; what the old holder does before counts, and after is refused."""

from __future__ import annotations

import os

import pytest

from delaybox.core.task import NewTask, TaskType
from delaybox.store import keys
from delaybox.store.leases import adopt, new_lease
from tests.lab import Lab

LEASE_MS = 15_000
TASK = NewTask(type=TaskType.WORKER, name="send", payload=b"x")


async def moved(lab: Lab, old: bytes, new: bytes, *ids: bytes) -> tuple[set[bytes], set[bytes]]:
    """Which tasks lie in the new lease then, and which have ended."""
    found = await adopt(lab.store, 0, old, new, ids, lease_ms=LEASE_MS)
    return set(found.leased[0::2]), set(found.ended)


async def two_leases(lab: Lab, count: int = 1) -> tuple[bytes, bytes, list[bytes]]:
    ids = await lab.add(*[TASK] * count)
    old, new = new_lease(LEASE_MS), new_lease(LEASE_MS)
    assert set(await lab.lease(old)) == set(ids)
    return old, new, ids


async def reap_all(lab: Lab) -> int:
    """Tasks put back once all leases have run out."""
    back = 0
    for _ in range(12):
        await lab.move(LEASE_MS // 4)
        back += (await lab.store.reap(0, lease_ms=LEASE_MS, losses_cap=3)).back
    return back


async def test_a_task_moves_with_its_token_and_nothing_is_charged(lab: Lab) -> None:
    old, new, (moving, staying) = await two_leases(lab, 2)
    before = await lab.record(moving)
    await lab.move(LEASE_MS // 2)
    assert await moved(lab, old, new, moving) == ({moving}, set())
    assert await lab.record(moving) == before
    assert [(await lab.find(i)).lease_id for i in (moving, staying)] == [new, old]
    assert await lab.client.zscore(keys.leases(lab.tag), new) == lab.now + LEASE_MS
    assert await moved(lab, old, new, staying) == ({staying}, set())
    assert await lab.client.zrange(keys.leases(lab.tag), 0, -1) == [new], "an empty lease is gone"
    assert await lab.problems() == []


async def test_moved_again_is_moved_once(lab: Lab) -> None:
    old, new, ids = await two_leases(lab, 3)
    assert await moved(lab, old, new, *ids) == await moved(lab, old, new, *ids) == (set(ids), set())
    assert await lab.store.ack(0, new, ids[:1]) == []
    assert await moved(lab, old, new, *ids) == (set(ids[1:]), set(ids[:1]))


async def test_the_old_holder_is_stale_afterwards(lab: Lab) -> None:
    old, new, ids = await two_leases(lab)
    await moved(lab, old, new, *ids)
    assert await lab.store.ack(0, old, ids) == ids
    assert await lab.store.release(0, old, ids) == ids
    assert (await lab.store.fail(0, old, [(ids[0], 0, "no")]))[0] == ids
    assert (await lab.store.lose(0, old, ids, losses_cap=3))[0] == ids
    assert await lab.store.extend(0, [old, new], LEASE_MS) == [old]
    assert (await lab.find(ids[0])).lease_id == new
    assert await lab.store.ack(0, new, ids) == []
    assert await lab.names("lease*") == []


@pytest.mark.parametrize("first", ["release", "lose", "fail", "claimed by another"])
async def test_what_others_got_before_is_lost(lab: Lab, first: str) -> None:
    old, new, ids = await two_leases(lab)
    if first == "lose":
        await lab.store.lose(0, old, ids, losses_cap=3)
    elif first == "fail":
        await lab.store.fail(0, old, [(ids[0], 60_000, "no")])
    else:
        await lab.store.release(0, old, ids)
    if first == "claimed by another":
        assert set(await lab.lease(new_lease(LEASE_MS))) == set(ids)
    assert await moved(lab, old, new, *ids) == (set(), set())
    assert await lab.client.zscore(keys.leases(lab.tag), new) is None


@pytest.mark.parametrize("first", ["ack", "dead letter"])
async def test_what_ended_before_has_ended(lab: Lab, first: str) -> None:
    old, new, ids = await two_leases(lab)
    if first == "ack":
        await lab.store.ack(0, old, ids)
    else:
        await lab.store.fail(0, old, [(ids[0], None, "no")])
    assert await moved(lab, old, new, *ids) == (set(), set(ids))


async def test_a_lease_that_ran_out_can_be_adopted_until_it_is_reaped(lab: Lab) -> None:
    old, new, ids = await two_leases(lab)
    await lab.move(2 * LEASE_MS)
    assert await moved(lab, old, new, *ids) == (set(ids), set())
    assert await reap_all(lab) == 1, "an adopted task expires like any other"
    assert await moved(lab, old, new, *ids) == (set(), set())
    record = await lab.record(ids[0])
    assert (record.attempt, record.deliveries) == (0, 1)


async def test_a_lease_that_nobody_gave_holds_nothing(lab: Lab) -> None:
    _, new, ids = await two_leases(lab)
    assert await moved(lab, os.urandom(20), new, *ids) == (set(), set())


async def test_a_record_of_a_newer_version_stays_where_it_is(lab: Lab) -> None:
    old, new, ids = await two_leases(lab)
    await lab.client.hset(f"{lab.tag}:lease:".encode() + old, ids[0], b"\x20" + bytes(30))
    assert await moved(lab, old, new, *ids) == (set(), set())
    assert await lab.client.hexists(f"{lab.tag}:lease:".encode() + old, ids[0])
    lab.dirty = True
