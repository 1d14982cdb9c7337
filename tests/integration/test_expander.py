"""The expander beside a server that forgets, or whose clock is set."""

from __future__ import annotations

from collections.abc import Callable

from redis.asyncio import Redis
from redis.exceptions import RedisError

from delaybox.core.task import NewTask, TaskType
from delaybox.store import keys
from delaybox.store.connect import make_client
from delaybox.store.fsck import fsck
from delaybox.store.record import draft
from delaybox.store.servers import Servers
from delaybox.store.store import Batch, Store
from tests.engines import Recorder, running, until
from tests.lab import Lab
from tests.servers import RealServer

TASKS = 400
LEAD_MS = 600_000
HOUR = 3_600_000


async def test_what_it_did_on_a_server_that_lost_it_is_done_again(
    make_server: Callable[..., RealServer], prefix: str
) -> None:
    server = make_server()
    client = make_client(server.settings)
    store = await Store.open(Servers(client), prefix=prefix, partitions=1)
    drafts = [draft(NewTask(delay_ms=200_000)) for _ in range(TASKS)]
    await store.schedule([Batch(0, drafts)])
    # The state that the server is set back to: nothing is indexed yet.
    await client.save()

    async def indexed() -> bool:
        try:
            return bool(await client.zcard(keys.near(store.tags[0], 2)) == TASKS)
        except RedisError:
            return False  # a connection of before

    try:
        async with running(store, {}, lead_ms=LEAD_MS, scrub=False):
            await until(indexed)
            server.kill()
            server.start()
            await until(indexed)
        assert (await fsck(store)).problems == []
    finally:
        await client.aclose()


async def test_a_bucket_counts_as_indexed_only_where_it_was_handed_out(lab: Lab) -> None:
    await lab.add(NewTask(delay_ms=HOUR))
    look = await lab.store.expand(0, lead_ms=2 * HOUR)
    await lab.index(look.bucket)
    # As an earlier copy would have it: nobody was given that bucket, and nothing of it is in near.
    await lab.client.hdel(keys.clock(lab.tag), "expanding")
    await lab.client.delete(keys.near(lab.tag, 2))
    again = await lab.store.expand(0, lead_ms=2 * HOUR, done=look.bucket)
    assert again.bucket == look.bucket
    await lab.index(again.bucket)
    assert (await lab.store.expand(0, lead_ms=2 * HOUR, done=again.bucket)).bucket == -1
    assert len(await lab.near()) == 1


async def test_a_clock_that_is_set_ahead_wakes_it(client: Redis, prefix: str) -> None:
    lab = await Lab.open(client, prefix, bucket_ms=60_000)
    target = Recorder()
    async with running(lab.store, {TaskType.PUB_SUB: target}, channel="", poll_ms=50, scrub=False):
        await lab.add(NewTask(delay_ms=HOUR))
        await until(lambda: client.hexists(keys.clock(lab.tag), "expanded"))
        await lab.move(HOUR)
        await until(lambda: len(target.got) == 1)
    await client.unlink(*(await client.keys(f"*{prefix}:*")))
