"""The store when the server is full, forgets its scripts, or holds what is no store of ours."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import TryAgainError

from delaybox.core import ids
from delaybox.core.errors import DelayBoxError, StoreFull, StoreRefused, StoreUnavailable
from delaybox.core.membership import Member
from delaybox.core.task import NewTask
from delaybox.service import Service
from delaybox.store import dashboard_secret, keys, loader, nodes, offset_pages
from delaybox.store.address import ServerSettings
from delaybox.store.connect import make_client
from delaybox.store.record import draft
from delaybox.store.servers import Servers
from delaybox.store.store import Batch, Store
from tests.lab import Lab, leased
from tests.servers import RealServer


async def test_a_full_server_refuses_new_tasks_and_drains(make_server: Callable[..., RealServer], prefix: str) -> None:
    server = make_server()
    client = make_client(server.settings)
    try:
        lab = await Lab.open(client, prefix)
        added = await lab.add(*(NewTask(payload=bytes(900)) for _ in range(200)), NewTask(payload=bytes(5_000)))
        (later,) = await lab.add(NewTask(delay_ms=60_000))
        secret = await dashboard_secret.shared(lab.store)
        await client.config_set("maxmemory", "1mb")
        answer = (await lab.store.schedule([Batch(0, [draft(NewTask())])]))[0]
        assert isinstance(answer, StoreFull)
        assert "maxmemory" in str(answer) and answer.code == "store_full"

        # A node that restarts now must open the store, and everything but scheduling goes on.
        again = await Store.open(Servers(client), prefix=prefix)
        assert again.bucket_ms == 1_000
        assert await dashboard_secret.shared(again) == secret, "else nobody stays logged in"
        await nodes.beat(lab.store, Member(id="N", seen_ms=1))
        assert await nodes.find(lab.store, "N") == Member(id="N", seen_ms=1)
        assert await lab.store.reschedule(later, delay_ms=120_000) == ("moved", lab.now + 120_000)
        assert await lab.store.cancel([later]) == ["cancelled"]
        got = await lab.lease(b"A", slots=10)
        first, second, *rest = got
        assert await lab.store.extend(0, [b"A"], 15_000) == []
        assert await lab.store.fail(0, b"A", [(first, 0, "no"), (second, None, "no")]) == ([], 0)
        assert await lab.store.replay([second]) == ["replayed"]
        assert await lab.store.release(0, b"A", rest[:4]) == []
        for by_ms in (0, 5_000, 5_000, 5_000):
            await lab.move(by_ms)
            reaped = await lab.store.reap(0, lease_ms=15_000, losses_cap=3)
        assert reaped.back == 4
        await lab.expand()
        drained: set[bytes] = set()
        while some := leased(await lab.claim(b"B")):
            assert await lab.store.ack(0, b"B", list(some)) == []
            drained |= some.keys()
        assert drained == set(added)
        assert await lab.problems() == []
        await client.config_set("maxmemory", "0")
        assert len(await lab.add(NewTask())) == 1
    finally:
        await client.aclose()


async def test_scripts_that_the_server_forgot_are_sent_again(lab: Lab) -> None:
    for _ in range(5):
        await lab.client.script_flush()
        batches = [Batch(0, [draft(NewTask())]) for _ in range(3)]
        answers = await lab.store.schedule(batches)
        assert not [a for a in answers if isinstance(a, BaseException)]
        await lab.client.script_flush()
        await lab.claim(b"L")
    assert (await lab.store.counts())[0].in_flight == 3


async def test_scripts_are_forgotten_all_the_time(lab: Lab) -> None:
    stop = asyncio.Event()

    async def forget() -> None:
        while not stop.is_set():
            await lab.client.script_flush()
            await asyncio.sleep(0.001)

    forgetting = asyncio.create_task(forget())
    for _ in range(200):
        await lab.add(NewTask())
    stop.set()
    await forgetting
    assert (await lab.store.counts())[0].pending == 200


async def test_a_newer_store_is_refused(client: Redis, prefix: str) -> None:
    store = await Store.open(Servers(client), prefix=prefix)
    await client.hset(keys.meta(prefix), "format", 2)
    with pytest.raises(StoreRefused, match=r"format 2, written by a newer DelayBox.*up to 1.*Upgrade this node"):
        await Store.open(Servers(client), prefix=prefix)
    await client.hset(keys.meta(prefix), "format", 1)
    assert (await Store.open(Servers(client), prefix=prefix)).partitions == store.partitions


@pytest.mark.parametrize("what", ["hash", "string"])
async def test_what_is_no_store_is_refused(client: Redis, prefix: str, what: str) -> None:
    if what == "hash":
        await client.hset(keys.meta(prefix), "somebody", "else's")
    else:
        await client.set(keys.meta(prefix), "somebody else's")
    with pytest.raises(StoreRefused, match=r"not a DelayBox store.*storage\.prefix"):
        await Store.open(Servers(client), prefix=prefix)


@pytest.mark.parametrize("count", [0, 3, 8_192, -4])
async def test_partitions_must_be_a_power_of_two(client: Redis, prefix: str, count: int) -> None:
    with pytest.raises(StoreRefused, match="power of two from 1 to 4096"):
        await Store.open(Servers(client), prefix=prefix, partitions=count)


async def test_two_nodes_that_open_together_agree(client: Redis, prefix: str) -> None:
    stores = await asyncio.gather(*(Store.open(Servers(client), prefix=prefix, partitions=2**i) for i in range(6)))
    assert len({s.partitions for s in stores}) == 1


async def test_a_server_that_is_away_is_said_so() -> None:
    client = make_client(ServerSettings(unix_path="/nowhere/at/all"))
    with pytest.raises(StoreUnavailable) as caught:
        await Store.open(Servers(client))
    assert caught.value.retry_after_s >= 1
    await client.aclose()


async def test_tryagain_is_tried_again(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a slot that is migrating answers; nothing was written then (rule 2)."""
    sent = 0
    send = lab.store.runner._send

    async def migrating(commands: list[tuple[Any, ...]], waits: bool = False) -> list[Any]:
        nonlocal sent
        sent += 1
        return [TryAgainError("nothing was written")] * len(commands) if sent < 3 else await send(commands, waits)

    monkeypatch.setattr(lab.store.runner, "_send", migrating)
    assert len(await lab.add(NewTask())) == 1
    assert sent >= 3


async def test_a_guarded_script_that_cannot_read_a_key_writes_nothing(lab: Lab) -> None:
    """Every script asks for its keys before its first write; an error there is TRYAGAIN."""
    guarded = [name for name in loader.names() if "--@include lib/guard.lua" in _text(name)]
    assert {"ack", "cancel", "claim", "fail", "index", "reap", "release", "replay", "reschedule", "schedule"} <= set(
        guarded
    )
    assert {"get", "counts"} & set(guarded) == set(), "what writes nothing needs no guard"


def _text(name: str) -> str:
    from importlib import resources

    return (resources.files("delaybox.store.scripts") / f"{name}.lua").read_text()


async def test_one_strange_record_does_not_hide_the_others(lab: Lab) -> None:
    """A body that is no protobuf, and a lane of a type this version does not know."""
    lab.dirty = True
    good, odd_body, odd_lane = await lab.add(*(NewTask(payload=b"x", delay_ms=1_000) for _ in range(3)))
    bucket = keys.bucket(lab.tag, ids.due_ms(good) // 1_000)
    await lab.client.hset(bucket, odd_body, b"\x10\x02\x01p\xff\xff\xff")
    await lab.client.hset(bucket, odd_lane, b"\x10\x02\x01z")
    views = await offset_pages.pending(lab.store, limit=10, skip=0)
    assert [v.task_id for v in views if v.payload == b"x"] == [ids.render(good)]
    service = Service(lab.store)
    for task_id in (odd_body, odd_lane):
        with pytest.raises(DelayBoxError):
            await service.get(ids.render(task_id))
