"""After a restart or a fail-over the scrubber hurries through everything once, and then walks as slowly as before."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from redis.asyncio import Redis

from delaybox.core.task import NewTask
from delaybox.engine.scrubber import Scrubber
from delaybox.service import Service
from delaybox.store import keys
from delaybox.store.fsck import fsck
from delaybox.store.servers import Servers
from delaybox.store.store import Store
from tests.cluster import RealCluster, spread
from tests.servers import RealServer
from tests.waiting import until_async

PENDING = 4_000


async def hurried(scrubber: Scrubber) -> int:
    """How many steps it takes until one walk is over. (The pause after a step does not tell: it is as long as the step,
    so on a busy machine as long as that of a walk that does not hurry.)"""
    rounds = scrubber.rounds
    for steps in range(10_000):
        await scrubber.step()
        if scrubber.rounds > rounds:
            return steps
    raise AssertionError("it never ends")


async def test_lost_hints_are_back_after_a_restart_within_one_hurried_walk(
    make_server: Callable[..., RealServer],
) -> None:
    own = make_server("--appendonly", "yes", "--appendfsync", "always")
    store = await Store.open(Servers.connect(own.settings), prefix="d", partitions=4)
    await Service(store).submit_many(
        [NewTask(payload=b"x", delay_ms=20_000 + n, group="g" if n % 2 else "") for n in range(PENDING)]
    )
    for tag in store.tags:
        await store.servers.ask("HDEL", keys.clock(tag), "scrubbed")
    scrubber = Scrubber(store)
    assert await hurried(scrubber) > 0, "a walk hurries where nobody knows of one, as in a store of an earlier version"
    for tag in store.tags:
        noted = await store.servers.ask("HGET", keys.clock(tag), "scrubbed")
        assert noted
    # A walk that finds the same server does not hurry.
    again = Scrubber(store)
    assert await again.step() == 0.1

    await store.close()
    own.kill()
    own.start()
    store = await Store.open(Servers.connect(own.settings), prefix="d")
    again = Scrubber(store)
    for tag in store.tags:
        await store.servers.ask("UNLINK", *keys.nears(tag), keys.groups(tag))
    assert {one.split(":")[0] for one in (await fsck(store)).problems} == {"group-missing"}
    steps = await hurried(again)
    assert (await fsck(store)).problems == []
    counts = await store.servers.ask_many([("ZCARD", key) for tag in store.tags for key in keys.nears(tag)])
    assert sum(counts) == PENDING
    assert steps < PENDING / 500 + 40, "500 records a step"
    assert await again.step() == 0.1
    await store.close()


async def test_a_store_that_was_made_just_now_needs_no_hurry(client: Redis, prefix: str) -> None:
    store = await Store.open(Servers(client), prefix=prefix, partitions=4)
    await Service(store).submit_many([NewTask(payload=b"x", delay_ms=20_000 + n) for n in range(PENDING)])
    scrubber = Scrubber(store)
    assert await scrubber.step() == 0.1 and not scrubber._hurries
    # Keys that stand there already are of a store whose meta alone was lost: of these nobody knows.
    for tag in store.tags:
        await client.hdel(keys.clock(tag), "scrubbed")
    await client.delete(keys.meta(prefix))
    again = Scrubber(await Store.open(Servers(client), prefix=prefix, partitions=4))
    await again.step()
    assert again._hurries


async def test_on_a_cluster_each_server_is_looked_through_once(cluster: RealCluster, prefix: str) -> None:
    store = await Store.open(Servers.connect(cluster.settings, timeout_s=20.0), prefix=spread(prefix), partitions=16)
    for tag in store.tags:
        await store.servers.ask("HDEL", keys.clock(tag), "scrubbed")

    async def once_each() -> bool:
        await hurried(Scrubber(store))
        noted = [await store.servers.ask("HGET", keys.clock(tag), "scrubbed") for tag in store.tags]
        again = Scrubber(store)
        return (len(set(noted)), None in noted, await again.step() >= 0.1, again._hurries) == (3, False, True, False)

    # A server that stands still for a second is replaced, and the new one is looked through as well.
    await until_async(once_each)
    await store.close()


async def test_in_a_hurry_thin_buckets_share_round_trips(client: Redis, prefix: str) -> None:
    store = await Store.open(Servers(client), prefix=prefix, partitions=1)
    some = [NewTask(delay_ms=3_600_000 + n * 60_000, group="g") for n in range(400)]
    await Service(store).submit_many([*some, *[NewTask(delay_ms=1_800_000, group="g")] * 700])
    await client.delete(keys.groups(store.tags[0]))
    await client.hdel(keys.clock(store.tags[0]), "scrubbed")
    steps = await hurried(Scrubber(store))
    assert steps < 60, "401 buckets"
    assert await client.zcard(keys.groups(store.tags[0])) == 1_100
    assert (await fsck(store)).problems == []


async def test_a_server_that_lost_the_store_gets_no_clock(client: Redis, prefix: str) -> None:
    store = await Store.open(Servers(client), prefix=prefix, partitions=1)
    scrubber = Scrubber(store)
    await hurried(scrubber)
    await client.delete(keys.clock(store.tags[0]))
    scrubber._look_at = 0.0
    await hurried(scrubber)
    assert not await client.exists(keys.clock(store.tags[0]))


async def test_where_there_are_no_groups_and_no_leases_no_script_looks_for_them(client: Redis, prefix: str) -> None:
    """An idle fleet is to cost hardly anything."""
    calls: list[str] = []
    store = await Store.open(
        Servers(client), prefix=prefix, partitions=2, observe=lambda script, _: calls.append(script)
    )
    await hurried(Scrubber(store))
    assert not {"reindex", "regroup"} & set(calls)
    await Service(store).submit_many([NewTask(delay_ms=60_000, group="g")])
    await hurried(Scrubber(store))
    assert calls.count("regroup") == 1, "of the partition that has some"


async def test_an_empty_store_is_looked_through_in_two_round_trips(make_server: Callable[..., RealServer]) -> None:
    """It took three for each partition, and a script."""
    store = await Store.open(Servers.connect(make_server().settings), prefix="d", partitions=16)
    scrubber = Scrubber(store)
    while await scrubber.step() < 1.0:
        """The first walk after a start hurries."""
    sent: list[int] = []
    send = store.servers.send

    async def counted(commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        sent.append(len(commands))
        return await send(commands)

    store.servers.send = counted
    store.runner._send_all = counted
    assert await scrubber.step() > 1.0
    assert len(sent) == 2
    await store.close()


async def test_a_bucket_that_is_read_in_one_go_needs_no_run_id(make_server: Callable[..., RealServer]) -> None:
    """To ask for it takes longer than some records."""
    store = await Store.open(Servers.connect(make_server().settings), prefix="d", partitions=1)
    now = await store.ping()
    due = now // store.bucket_ms * store.bucket_ms + 90 * store.bucket_ms
    await Service(store).submit_many([NewTask(payload=b"x" * 100, due_ms=due + n) for n in range(3_000)])
    await Service(store).submit_many([NewTask(due_ms=due + store.bucket_ms)])

    async def asked() -> int:
        stats = await store.servers.ask("INFO", "commandstats")
        found = re.search(r"cmdstat_info:calls=(\d+)", stats if isinstance(stats, str) else stats.decode())
        return int(found[1]) if found else 0

    before = await asked()
    assert await store.index(0, due // store.bucket_ms + 1, b"0") == (b"0", 1, 0)
    assert await asked() == before + 1, "which is this look's own"
    seen, cursor, steps = 0, b"0", 0
    while not steps or cursor != b"0":
        cursor, some, _ = await store.index(0, due // store.bucket_ms, cursor)
        seen, steps = seen + some, steps + 1
    assert seen >= 3_000 and steps > 5
    # A cursor of another server means nothing, so the scan begins anew.
    cursor, _, _ = await store.index(0, due // store.bucket_ms, b"0")
    again, _, _ = await store.index(0, due // store.bucket_ms, b"77@" + b"0" * 40)
    assert again == cursor and b"@" in cursor
    assert (await fsck(store)).problems == []
    await store.close()
