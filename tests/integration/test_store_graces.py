"""Where nobody could extend leases their holders get a grace to do so; looks that only come late give three at most."""

from __future__ import annotations

import pytest

from delaybox.core.task import NewTask
from delaybox.store import keys
from delaybox.store.leases import new_lease
from tests.lab import Lab
from tests.reaping import LEASE_MS, reap, watched


async def note(lab: Lab, field: str) -> int:
    return int(await lab.client.hget(keys.clock(lab.tag), field))


async def test_every_look_at_leases_is_noted_and_one_at_nothing_writes_nothing(lab: Lab) -> None:
    await reap(lab)
    assert await lab.client.hget(keys.clock(lab.tag), "reaped") is None
    await lab.add(NewTask())
    await lab.lease(b"L")
    for _ in range(3):
        await lab.move(1_000)
        await reap(lab)
        assert await note(lab, "reaped") == lab.now
    assert await note(lab, "grace") == lab.now - 2_000 + LEASE_MS, "only the first look came after a gap"


@pytest.mark.parametrize("away_ms", [4_500, LEASE_MS, 3_600_000], ids=["short", "a lease", "an hour"])
async def test_after_an_outage_nothing_is_reaped_for_a_lease_and_nothing_is_stamped_anew(
    lab: Lab, away_ms: int
) -> None:
    lives, lost = await lab.add(NewTask(), NewTask())
    for lease_id in (b"one", b"two"):
        await lab.lease(lease_id, slots=1)
    held = {(await lab.find(i)).lease_id: i for i in (lives, lost)}
    await watched(lab, LEASE_MS - 1_000)
    expiry = await lab.client.zscore(keys.leases(lab.tag), b"one")
    # Whatever comes first on the server that is back, the reaper or a heartbeat.
    await lab.move(away_ms + LEASE_MS // 3)
    back = lab.now
    for other in (0, 300_000):
        seen = await reap(lab, lease_ms=LEASE_MS + other)
        assert (seen.leases, seen.grace_ms) == (0, 0 if other else back + LEASE_MS)
    assert await note(lab, "grace") == back + LEASE_MS
    assert await lab.client.zscore(keys.leases(lab.tag), b"one") == expiry
    assert await lab.store.extend(0, [b"one"], LEASE_MS) == []
    assert (await watched(lab, LEASE_MS - 1)).leases == 0
    assert await lab.store.extend(0, [b"one"], LEASE_MS) == []
    assert (await watched(lab, 1)).leases == 1, "a real loss costs one lease more"
    assert await lab.store.ack(0, b"one", [held[b"one"]]) == []
    assert (await lab.record(held[b"two"])).losses == 1


@pytest.mark.parametrize("late_ms", [5_100, 12_000, 40_000], ids=["thrice in a lease", "within a lease", "over two"])
async def test_looks_that_always_come_late_spare_a_lease_three_times(lab: Lab, late_ms: int) -> None:
    lives, lost, long = leases = [new_lease(LEASE_MS), new_lease(LEASE_MS), new_lease(4 * LEASE_MS)]
    for lease_id in leases:
        await lab.add(NewTask())
        await lab.lease(lease_id, slots=1, lease_ms=4 * LEASE_MS if lease_id == long else LEASE_MS)
    began, taken = lab.now, dict[bytes, int]()
    while len(taken) < 2 and lab.now - began < 100 * LEASE_MS:
        await lab.move(late_ms)
        await reap(lab)
        assert await lab.store.extend(0, [lives], LEASE_MS) == []
        held = await lab.client.zrange(keys.leases(lab.tag), 0, -1)
        taken |= {lease_id: lab.now - began for lease_id in (lost, long) if lease_id not in {*held, *taken}}
    for lease_id, length in ((lost, LEASE_MS), (long, 4 * LEASE_MS)):
        # Its own length; then three graces, each from the first late look after the one before has ended.
        assert 2 * length <= taken[lease_id] <= length + 3 * (length + late_ms)


async def test_a_grace_after_many_spares_who_could_not_extend_meanwhile(lab: Lab) -> None:
    await lab.add(NewTask())
    await lab.lease(b"one")
    for _ in range(10):
        await lab.move(6_000)
        await reap(lab)
        assert await lab.store.extend(0, [b"one"], LEASE_MS) == []
    for away in (20_000, 60_000):
        await lab.move(away)
        assert (await reap(lab)).leases == 0
        assert (await watched(lab, LEASE_MS - 1)).leases == 0
        assert await lab.store.extend(0, [b"one"], LEASE_MS) == []


async def test_a_clock_set_back_begins_the_graces_anew(lab: Lab) -> None:
    lives, lost = new_lease(LEASE_MS), new_lease(LEASE_MS)
    for lease_id in (lives, lost):
        await lab.add(NewTask())
        await lab.lease(lease_id, slots=1)
    for _ in range(12):
        await lab.move(6_000)
        await reap(lab)
        assert await lab.store.extend(0, [lives, lost], LEASE_MS) == []
    await lab.move(-20_000)
    assert (await reap(lab)).leases == 0, "nobody could extend since"
    for _ in range(20):
        await lab.move(6_000)
        await reap(lab)
        assert await lab.store.extend(0, [lives], LEASE_MS) == []
    assert await lab.client.zrange(keys.leases(lab.tag), 0, -1) == [lives], "and looks that come late are no excuse"


async def test_after_a_clock_set_back_late_looks_spare_a_long_lease_for_its_length(lab: Lab) -> None:
    """The third look took it back, though its holder extends it half a lease apart."""
    long = new_lease(40 * LEASE_MS)
    await lab.add(NewTask())
    await lab.lease(long, lease_ms=40 * LEASE_MS)
    await watched(lab, 1_000)
    await lab.move(-3_600_000)
    for _ in range(6):
        assert (await reap(lab)).leases == 0
        await lab.move(LEASE_MS)
    assert await lab.client.zrange(keys.leases(lab.tag), 0, -1) == [long]
    await lab.move(40 * LEASE_MS)
    assert (await reap(lab)).leases == 1, "nobody extended it"


async def test_another_server_is_an_outage_even_without_a_gap(lab: Lab) -> None:
    await lab.add(NewTask())
    await lab.lease(b"L")
    await watched(lab, LEASE_MS - 1)
    await lab.client.hset(keys.clock(lab.tag), "run", "0123456789abcdef")
    await lab.move(1)
    assert (await reap(lab)).grace_ms == lab.now + LEASE_MS
    assert (await watched(lab)).leases == 1


async def test_a_step_back_sets_a_grace_and_then_only_who_did_not_extend_is_reaped(lab: Lab) -> None:
    lease_ids = [new_lease(LEASE_MS), new_lease(LEASE_MS), new_lease(40 * LEASE_MS)]
    lives, lost, long = lease_ids
    for lease_id in lease_ids:
        await lab.add(NewTask())
        await lab.lease(lease_id, lease_ms=40 * LEASE_MS if lease_id == long else LEASE_MS)
    await watched(lab, 1_000)
    await lab.move(-3_600_000)
    seen = await reap(lab)
    assert (seen.leases, seen.grace_ms) == (0, lab.now + LEASE_MS)
    assert await lab.store.extend(0, [lives], LEASE_MS) == []
    assert (await watched(lab, LEASE_MS - 1)).leases == 0
    assert await lab.store.extend(0, [lives], LEASE_MS) == []
    assert (await watched(lab, 1)).leases == 1, "its expiry lies an hour ahead, and nobody moved it"
    assert set(await lab.client.zrange(keys.leases(lab.tag), 0, -1)) == {lives, long}
    assert await lab.store.extend(0, [lost, lives, long], LEASE_MS) == [lost]
    assert int(await lab.client.zscore(keys.leases(lab.tag), long)) == lab.now + 40 * LEASE_MS, "its own length"


async def test_the_length_belongs_to_the_lease(lab: Lab) -> None:
    long = new_lease(40 * LEASE_MS)
    await lab.add(NewTask())
    await lab.lease(long, lease_ms=40 * LEASE_MS)
    for lease_ms in (1_000, LEASE_MS):
        assert (await reap(lab, lease_ms=lease_ms)).leases == 0
        assert int(await lab.client.zscore(keys.leases(lab.tag), long)) == lab.now + 40 * LEASE_MS
    # After an outage its holder, whose heartbeats are as far apart, has its own length and not the reaper's.
    await lab.move(50 * LEASE_MS)
    for _ in range(3):
        assert (await watched(lab, 12 * LEASE_MS)).leases == 0
    assert (await watched(lab, 4 * LEASE_MS)).leases == 1
