"""What is deleted by age: results, dead letters, records that cannot be read, heartbeats of nodes that died."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from delaybox.core import ids
from delaybox.core.membership import Activity, Member
from delaybox.core.task import NewTask, TaskType
from delaybox.service import Service
from delaybox.store import keys, nodes
from delaybox.store.connect import make_client
from delaybox.store.fsck import fsck
from delaybox.store.record import draft
from delaybox.store.servers import Servers
from delaybox.store.store import Batch, ClaimLimits, Store
from tests.engines import running, until
from tests.nodes import node
from tests.servers import RealServer

HOUR = 3_600_000
MANY = 8_000


async def bury(store: Store) -> bytes:
    """A dead letter."""
    answers = (await store.schedule([Batch(0, [draft(NewTask(type=TaskType.WORKER, name="f"))])]))[0]
    assert not isinstance(answers, BaseException)
    (raw,) = [answer.task_id for answer in answers]
    await store.claim(0, raw, ClaimLimits(slots=1, types="w"))
    await store.fail(0, raw, [(raw, None, "no")])
    return raw


async def sour(store: Store, task_id: bytes, record: bytes, since_ms: int) -> None:
    await store.servers.ask("HSET", keys.quarantine(store.tags[0]), task_id, record)
    await store.servers.ask("ZADD", keys.quarantine_at(store.tags[0]), since_ms, task_id)


async def test_a_flood_of_results_goes_as_fast_as_it_came(client: Redis, prefix: str) -> None:
    store = await Store.open(Servers(client), prefix=prefix, partitions=1)
    tag = store.tags[0]
    names = [ids.tails(0, (n).to_bytes(8, "big"))[0].rjust(16, b"\0") for n in range(MANY)]
    await client.hset(keys.results(tag), mapping=dict.fromkeys(names, b"\0\0\0\0"))
    await client.zadd(keys.results_at(tag), dict.fromkeys(names, 1))
    async with running(store, {}, scrub=False):
        # At 200 for each look, two looks a second, this took 20 s.
        await until(lambda: _none(client, keys.results_at(tag)))
    assert not await client.exists(keys.results(tag))


async def _none(client: Redis, key: str) -> bool:
    return not await client.exists(key)


async def test_a_node_deletes_by_age_what_its_configuration_says(
    make_server: Callable[..., RealServer], tmp_path: Path
) -> None:
    server = make_server()
    client: Any = make_client(server.settings)
    store = await Store.open(Servers(client))
    tag = store.tags[0]
    old, young = await bury(store), await bury(store)
    now = await store.ping()
    await client.zadd(keys.dead_at(tag), {old: now - 2 * HOUR})
    await sour(store, b"o" * 16, b"?", now - 2 * HOUR)
    await sour(store, b"y" * 16, b"?", now)
    await nodes.beat(store, Member(id="gone", seen_ms=now - HOUR))
    ages = ("--set", "deadLetters.age=1h", "--set", "quarantine.age=1h")
    with node("--redis", server.url, "--http-port", "0", *ages, folder=tmp_path) as one:

        async def left() -> bool:
            dead = await client.zrange(keys.dead_at(tag), 0, -1)
            quarantined = await client.zrange(keys.quarantine_at(tag), 0, -1)
            named = await client.hkeys(keys.nodes(store.prefix))
            return bool(dead == [young] and quarantined == [b"y" * 16] and b"gone" not in named)

        await until(left)
        assert one.call("GET", "/readyz")[0] == 200
    assert await client.hlen(keys.dead(tag)) == await client.hlen(keys.quarantine(tag)) == 1
    await client.aclose()


async def test_what_only_a_dead_node_served_is_unserved(client: Redis, prefix: str) -> None:
    store = await Store.open(Servers(client), prefix=prefix, partitions=1)
    await store.schedule([Batch(0, [draft(NewTask(type=TaskType.WORKER, name="f", queue="q"))])])
    service = Service(store)
    now = await store.ping()
    here = Member(id="here", seen_ms=now, activity=Activity(lanes=(b"wq:f",)))
    await nodes.beat(store, here)
    assert (await service.queues())[0].unserved == ()
    await nodes.beat(store, replace(here, seen_ms=now - 6_000))
    await until(lambda: _unserved(service, ("f",)))
    await service.close()


async def _unserved(service: Service, functions: tuple[str, ...]) -> bool:
    return (await service.queues())[0].unserved == functions


async def test_a_heartbeat_that_came_meanwhile_stays(client: Redis, prefix: str) -> None:
    store = await Store.open(Servers(client), prefix=prefix, partitions=1)
    now = await store.ping()
    for name, seen_ms in (("n", now - 60_000), ("ahead", now + 60_000), ("living", now)):
        await nodes.beat(store, Member(id=name, seen_ms=seen_ms))
    await client.hset(keys.nodes(prefix), "damaged", b"{")
    assert len(await nodes.live(store)) == 3, "what cannot be read is left out"
    assert await nodes.forget(store, now, 10_000) == 3
    assert [member.id for member in await nodes.live(store)] == ["living"]


async def test_quarantine_is_listed_retried_and_discarded(server: RealServer, client: Redis, prefix: str) -> None:
    store = await Store.open(Servers(client), prefix=prefix, partitions=1)
    now = await store.ping()
    answers = (
        await store.schedule([Batch(0, [draft(NewTask(due_ms=now + HOUR, payload=bytes(2_000), idempotency_key="k"))])])
    )[0]
    assert not isinstance(answers, BaseException)
    good = answers[0].task_id
    bucket = keys.bucket(store.tags[0], ids.due_ms(good) // store.bucket_ms)
    record = await client.hget(bucket, good)
    await client.unlink(bucket)
    await client.zrem(keys.buckets(store.tags[0]), ids.due_ms(good) // store.bucket_ms)
    bad = good[:15] + b"!"
    assert isinstance(record, bytes)
    await sour(store, good, record, now - 1)
    await sour(store, bad, b"\x10", now)

    def outcome_of(*words: str) -> tuple[int, Any]:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "delaybox", "quarantine", *words, "--json"),
                *("--redis", server.url, "--set", f"storage.prefix={prefix}"),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, json.loads(done.stdout)

    _, shown = outcome_of("list")
    assert [(r["id"], bool(r["problem"])) for r in shown["records"]] == [
        (ids.render(good), False),
        (ids.render(bad), True),
    ]
    assert outcome_of("retry", "--all") == (1, {"restored": 1, "left": 1})
    assert (await store.get(good)).place == "home"
    await sour(store, good, record, now)
    assert outcome_of("retry", ids.render(good)) == (1, {"restored": 0, "left": 1}), "what is there is not written over"
    assert outcome_of("discard", ids.render(good)) == (0, {"discarded": 1, "unknown": 0})
    assert (await store.get(good)).place == "home"
    assert outcome_of("discard", ids.render(bad)) == (0, {"discarded": 1, "unknown": 0})
    assert (await fsck(store)).problems == []
