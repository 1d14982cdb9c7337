"""Buckets, the horizon, expansion chunk by chunk, and the scrubber."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from delaybox.core.task import NewTask, TaskType
from delaybox.store import keys
from delaybox.store.connect import make_client
from delaybox.store.servers import Servers
from delaybox.store.store import Store
from tests.lab import Lab, leased
from tests.servers import RealServer

HOUR = 3_600_000


async def test_a_far_task_is_indexed_when_its_bucket_is_expanded(lab: Lab) -> None:
    near, far = await lab.add(NewTask(delay_ms=10_000), NewTask(delay_ms=HOUR))
    assert set(await lab.near()) == {near + b"p"}
    look = await lab.store.expand(0, lead_ms=60_000)
    while look.bucket >= 0:
        await lab.index(look.bucket)
        look = await lab.store.expand(0, lead_ms=60_000, done=look.bucket)
    assert look.look_ms == (lab.now + HOUR) // 1_000 * 1_000 - 60_000
    assert set(await lab.near()) == {near + b"p"}
    await lab.move(look.look_ms - lab.now)
    await lab.expand()
    assert set(await lab.near()) == {near + b"p", far + b"p"}
    await lab.move(60_000 + 1_000)
    assert set(leased(await lab.claim())) == {near, far}


async def test_while_a_bucket_is_indexed_what_comes_is_hinted_at_once(lab: Lab) -> None:
    await lab.add(NewTask(delay_ms=HOUR))
    await lab.move(HOUR - 300_000)
    await lab.expand(lead_ms=0)
    look = await lab.store.expand(0, lead_ms=301_000)
    assert look.bucket == (lab.now + 300_000) // 1_000 and look.fields == 1
    (late,) = await lab.add(NewTask(delay_ms=300_000))
    assert late + b"p" in await lab.near(), "it may have come behind the cursor"


async def test_a_crash_in_the_middle_expands_the_same_bucket_again(lab: Lab) -> None:
    await lab.add(*(NewTask(payload=bytes(100), delay_ms=HOUR) for _ in range(400)))
    await lab.move(HOUR)
    look = await lab.store.expand(0, lead_ms=60_000)
    cursor, seen, _ = await lab.store.index(0, look.bucket, b"0", count=50)
    assert cursor != b"0" and 0 < seen < 400
    assert (await lab.store.expand(0, lead_ms=60_000)).bucket == look.bucket
    await lab.expand()
    assert len(await lab.near()) == 400
    assert (await lab.store.expand(0, lead_ms=60_000)).bucket == -1


async def test_a_cursor_of_before_a_restart_starts_again(make_server: Callable[..., RealServer], prefix: str) -> None:
    """A stored cursor lost 5,000 of 20,000 fields, because the hash seed changes. The client reconnects by itself."""
    server = make_server("--appendonly", "yes", "--appendfsync", "always")
    client = make_client(server.settings)
    try:
        lab = await Lab.open(client, prefix)
        for _ in range(8):
            await lab.add(*(NewTask(payload=bytes(100), delay_ms=HOUR) for _ in range(500)))
        await lab.move(HOUR)
        look = await lab.store.expand(0, lead_ms=60_000)
        assert look.fields == 4_000
        cursor = b"0"
        for _ in range(20):
            cursor, _, _ = await lab.store.index(0, look.bucket, cursor, count=100)
        assert cursor != b"0" and len(await lab.near()) < 4_000
        for turn in range(3):
            server.kill()
            server.start()
            cursor, _, _ = await lab.store.index(0, look.bucket, cursor, count=100)
            assert cursor != b"0", turn
        while cursor != b"0":
            cursor, _, _ = await lab.store.index(0, look.bucket, cursor, count=100)
        await lab.store.expand(0, lead_ms=60_000, done=look.bucket)
        assert len(await lab.near()) == 4_000
        assert await lab.problems() == []
    finally:
        await client.aclose()


async def test_a_task_moved_nearer_than_its_home_is_found_through_a_pointer(lab: Lab) -> None:
    (task_id,) = await lab.add(NewTask(delay_ms=3 * HOUR))
    due = lab.now + HOUR
    await lab.store.reschedule(task_id, due_ms=due)
    assert await lab.client.hgetall(keys.bucket(lab.tag, due // 1_000)) == {task_id: b""}
    await lab.move(HOUR - 10_000)
    await lab.expand()
    assert await lab.near() == {task_id + b"p": due}
    assert len(await lab.names("b:*")) == 1, "the pointer is dropped, the record stays at home"
    await lab.move(10_000)
    assert set(leased(await lab.claim())) == {task_id}
    assert await lab.names("b:*") == [] and await lab.names("buckets") == []


async def test_a_pointer_whose_task_is_gone_is_dropped(lab: Lab) -> None:
    (task_id,) = await lab.add(NewTask(delay_ms=3 * HOUR))
    due = lab.now + HOUR
    await lab.store.reschedule(task_id, due_ms=due)
    await lab.client.hdel(keys.bucket(lab.tag, (lab.now + 3 * HOUR) // 1_000), task_id)
    await lab.client.zrem(keys.buckets(lab.tag), (lab.now + 3 * HOUR) // 1_000)
    await lab.move(HOUR)
    await lab.expand()
    assert await lab.names("b:*") == [] and await lab.near() == {}


async def test_the_scrubber_heals_any_lost_hint(lab: Lab) -> None:
    lab.dirty = True
    due, later = await lab.add(NewTask(type=TaskType.WORKER), NewTask(delay_ms=30_000))
    (waiting,) = await lab.add(NewTask())
    await lab.expand()
    await lab.claim(types="w", slots=0)  # all that is due is ready
    await lab.client.unlink(
        *(await lab.names("near:*")), *(await lab.names("active:*")), *(await lab.names("ready:w*"))
    )
    assert await lab.kinds() == ["no-hint"] * 3
    for number in {b.rsplit(b":", 1)[1] for b in await lab.names("b:*")}:
        await lab.index(int(number))
    assert await lab.problems() == []
    await lab.move(30_000)
    assert set(leased(await lab.claim())) | set(leased(await lab.claim())) == {due, later, waiting}


async def test_the_scrubber_does_not_hint_twice_what_is_ready(lab: Lab) -> None:
    (task_id,) = await lab.add(NewTask())
    await lab.claim(slots=0)
    await lab.index(lab.now // 1_000)
    assert await lab.near() == {} and await lab.ready("p") == [task_id]


async def test_the_list_of_buckets_heals(lab: Lab) -> None:
    await lab.add(NewTask(delay_ms=HOUR))
    number, ghost = (lab.now + HOUR) // 1_000, 5
    await lab.client.zrem(keys.buckets(lab.tag), number)
    await lab.client.zadd(keys.buckets(lab.tag), {str(ghost): ghost})
    await lab.index(number)
    await lab.index(ghost)
    assert await lab.client.zrange(keys.buckets(lab.tag), 0, -1) == [str(number).encode()]


async def test_expansion_moves_over_empty_time(lab: Lab) -> None:
    await lab.expand()
    horizon, expanded = map(int, await lab.client.hmget(keys.clock(lab.tag), "horizon", "expanded"))
    assert horizon == expanded * 1_000 > lab.now + 60_000
    await lab.move(10 * HOUR)
    (task_id,) = await lab.add(NewTask(delay_ms=61_500))
    await lab.expand(lead_ms=120_000)
    assert task_id + b"p" in await lab.near()


@pytest.mark.parametrize("width", [100, 60_000])
async def test_a_store_keeps_the_width_and_partitions_it_was_made_with(client: object, prefix: str, width: int) -> None:
    made = await Store.open(Servers(client), prefix=prefix, partitions=4, bucket_ms=width)  # type: ignore[arg-type]
    taken = await Store.open(Servers(client), prefix=prefix, partitions=16, bucket_ms=1_000)  # type: ignore[arg-type]
    assert (made.partitions, made.bucket_ms) == (taken.partitions, taken.bucket_ms) == (4, width)
