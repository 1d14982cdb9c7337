"""Tasks that run are found by an index, however many leases there are; what it lacks or has too much heals."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable

from redis.asyncio import Redis

from delaybox.core.task import NewTask, TaskType
from delaybox.engine.scrubber import Scrubber
from delaybox.store import keys
from delaybox.store.fsck import fsck
from delaybox.store.record import draft
from delaybox.store.servers import Servers
from delaybox.store.states import states
from delaybox.store.store import Batch, ClaimLimits, Store
from tests.lab import Lab
from tests.proc import processor_s
from tests.servers import RealServer

LEASES = 5_200
ONE = ClaimLimits(slots=1, types="w", items=1)
SIXTEEN = b"L" * 16
"""As a lease id of an earlier version."""


async def _lease_each(store: Store, count: int) -> list[bytes]:
    """So many running tasks of partition 0, a lease for each."""
    found: list[bytes] = []
    for at in range(0, count, 400):
        some = min(400, count - at)
        await store.schedule([Batch(0, [draft(NewTask(type=TaskType.WORKER, name="f")) for _ in range(some)])])
        replies = await store.runner.run_many([store.claim_call(0, os.urandom(20), ONE) for _ in range(some)])
        found += [reply[2][0] for reply in replies]
    return found


async def test_many_that_one_claim_brings_are_kept_in_a_table(client: Redis, prefix: str) -> None:
    """As one list they would be looked through for each that is added."""
    store = await Store.open(Servers(client), prefix=prefix, partitions=1)
    index = keys.leased(store.tags[0])
    for slots, encoding in ((31, b"listpack"), (32, b"hashtable"), (31, b"hashtable")):
        drafts = [draft(NewTask(type=TaskType.WORKER, name="f")) for _ in range(slots)]
        await store.schedule([Batch(0, drafts)])
        claimed = await store.claim(0, os.urandom(16), ClaimLimits(slots=slots, types="w"))
        assert len(claimed.leased) == 2 * slots
        assert await client.object("ENCODING", index) == encoding
    assert await client.hlen(index) == 31 + 32 + 31 and not await client.hexists(index, "")


async def test_beyond_5000_leases_running_tasks_are_running_and_cheap_to_ask_for(
    server: RealServer, client: Redis, prefix: str
) -> None:
    store = await Store.open(Servers(client), prefix=prefix, partitions=1)
    running = await _lease_each(store, LEASES)
    last = running[-1]
    assert (await store.get(last)).place == "lease"
    assert await store.reschedule(last, delay_ms=1) == ("running", 0)
    (standing,) = await states(store, [last])
    assert standing is not None and standing.state is not None and not standing.ended
    gone = [task_id[:15] + bytes([task_id[15] ^ 1]) for task_id in running[:500]]
    began = processor_s(server.pid)
    for wanted, word in ((running[-500:], "running"), (gone, "unknown")):
        assert set(await store.cancel(wanted)) == {word}
    # One call held the server for 3.9 s.
    assert processor_s(server.pid) - began < 0.8
    await client.unlink(*(await client.keys(f"*{prefix}:*")))


async def test_what_leaves_a_lease_leaves_the_index(lab: Lab) -> None:
    ends: dict[str, Callable[[bytes, bytes], Awaitable[object]]] = {
        "ack": lambda lid, i: lab.store.ack(0, lid, [i]),
        "complete": lambda lid, i: lab.store.complete(0, lid, [(i, 1_000, b"")]),
        "fail": lambda lid, i: lab.store.fail(0, lid, [(i, None, "no")]),
        "retry": lambda lid, i: lab.store.fail(0, lid, [(i, 60_000, "no")]),
        "release": lambda lid, i: lab.store.release(0, lid, [i], delay_ms=60_000),
        "lose": lambda lid, i: lab.store.lose(0, lid, [i], losses_cap=3),
    }
    for name, end in ends.items():
        (task_id,) = await lab.add(NewTask(type=TaskType.WORKER, name="f"))
        lid = os.urandom(20)
        await lab.claim(lid, types="w", slots=1)
        assert await lab.client.hget(keys.leased(lab.tag), task_id) == lid
        # An end that is not this lease's changes nothing.
        assert await lab.store.ack(0, b"another", [task_id]) == [task_id]
        assert await lab.client.hget(keys.leased(lab.tag), task_id) == lid
        await end(lid, task_id)
        assert not await lab.client.exists(keys.leased(lab.tag)), name
        assert await lab.problems() == [], name
        await lab.store.cancel([task_id])


async def test_what_an_earlier_version_left_is_found_told_and_mended(lab: Lab) -> None:
    (task_id,) = await lab.add(NewTask(type=TaskType.WORKER, name="f"))
    await lab.claim(SIXTEEN, types="w")
    await lab.client.unlink(keys.leased(lab.tag))
    assert (await lab.store.get(task_id)).place == "lease"
    assert await lab.store.cancel([task_id]) == ["running"]
    assert await lab.kinds() == ["leased-not-indexed"]
    await _scrub(lab.store)
    assert await lab.problems() == []
    # Settled by one that knows of no index.
    await lab.client.unlink(keys.lease(lab.tag, SIXTEEN), keys.leases(lab.tag))
    assert (await lab.store.get(task_id)).place == ""
    assert await lab.kinds() == ["leased-dangling"]
    await _scrub(lab.store)
    assert not await lab.client.exists(keys.leased(lab.tag))


async def test_fsck_mends_the_index(lab: Lab) -> None:
    await lab.add(NewTask(type=TaskType.WORKER, name="f"), NewTask(type=TaskType.WORKER, name="f"))
    await lab.claim(SIXTEEN, types="w")
    one, _ = await lab.client.hkeys(keys.leased(lab.tag))
    await lab.client.hdel(keys.leased(lab.tag), one)
    await lab.client.hset(keys.leased(lab.tag), one[:15] + b"!", SIXTEEN)
    assert await lab.kinds() == ["leased-dangling", "leased-not-indexed"]
    await fsck(lab.store, repair=True)
    assert await lab.problems() == []


async def _scrub(store: Store) -> None:
    scrubber = Scrubber(store)
    while not scrubber.rounds:
        await scrubber.step()
