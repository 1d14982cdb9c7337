"""Buffers of a process that were not filled anywhere else: what happens at their bounds."""

from __future__ import annotations

import asyncio
from unittest.mock import AsyncMock

import pytest
from redis.asyncio import Redis

from delaybox.api.channel import intake as channel
from delaybox.api.channel.intake import ChannelIntake, ChannelSettings
from delaybox.api.dashboard import live
from delaybox.api.dashboard.live import Live
from delaybox.api.dashboard.sessions import Brake
from delaybox.core.errors import Overloaded
from delaybox.core.events import EventQuery, EventRules
from delaybox.core.rates import FadingRates, Means
from delaybox.core.task import NewTask, TaskType
from delaybox.service import Service, feed
from delaybox.service.submit import Submitter
from delaybox.store import event_writer, functions
from delaybox.store.offset_pages import pending
from delaybox.store.servers import Servers
from delaybox.store.store import Store
from delaybox.targets import http_hosts
from delaybox.targets.http_hosts import Hosts
from delaybox.targets.worker_lost import _PAST, Lives
from delaybox.wire.gen import task_pb2
from tests.engines import until
from tests.lab import Lab, leased
from tests.waiting import PATIENCE_S


async def test_with_as_many_waiting_as_may_a_task_is_refused(client: Redis, prefix: str) -> None:
    store = await Store.open(Servers(client), prefix=prefix)
    submitter = Submitter(store, max_waiting=3)
    answers = await asyncio.gather(
        *(submitter.submit(NewTask(delay_ms=60_000, queue="mail")) for _ in range(5)), return_exceptions=True
    )
    assert [isinstance(answer, Overloaded) for answer in answers] == [False] * 3 + [True] * 2
    assert len(await pending(store, limit=10, skip=0)) == 3


@pytest.mark.parametrize(("name", "most"), [("_MOST_WAITING", 5), ("_MOST_WAITING_BYTES", 5_000)])
async def test_the_channel_reads_on_when_what_waits_is_stored(
    client: Redis, prefix: str, monkeypatch: pytest.MonkeyPatch, name: str, most: int
) -> None:
    store = await Store.open(Servers(client), prefix=prefix)
    monkeypatch.setattr(channel, name, most)
    intake = ChannelIntake(store, ChannelSettings(channel=f"{prefix}-in", node_id="a", types=TaskType.PUB_SUB.value))
    raw = task_pb2.Task(header={"executionTimestamp": b"4000000000000"}, payload=b"x" * 1_000).SerializeToString()
    for _ in range(4):
        intake._receive(raw)
    assert intake._room.is_set()
    intake._receive(raw)
    assert not intake._room.is_set(), "no further message is read"
    await asyncio.wait_for(intake._room.wait(), PATIENCE_S)
    await until(lambda: _count(store, 5))


async def _count(store: Store, count: int) -> bool:
    return len(await pending(store, limit=10, skip=0)) == count


async def test_events_past_those_that_may_wait_are_counted(
    client: Redis, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_writer, "_MOST_WAITING", 2)
    store = await Store.open(Servers(client), prefix=prefix, partitions=2)
    service = Service(store, events=EventRules())
    reader = await service.feed.read(EventQuery())
    await service.submit_many([NewTask(delay_ms=60_000) for _ in range(7)])
    found = await anext(reader)
    while len(found) < 3:
        found += await anext(reader)
    missed = [item.what.count for item in found if hasattr(item.what, "count")]
    assert (len(found) - len(missed), missed) == (2, [5])
    reader.close()
    await service.close()


async def test_readers_of_events_and_of_the_dashboard_are_bounded(
    client: Redis, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "MOST_READERS", 1)
    monkeypatch.setattr(live, "MOST", 0)
    service = Service(await Store.open(Servers(client), prefix=prefix), events=EventRules())
    reader = await service.feed.read(EventQuery())
    with pytest.raises(Overloaded, match="1 readers follow events"):
        await service.feed.read(EventQuery())
    with pytest.raises(Overloaded, match="0 pages are open"):
        await anext(Live(service, forecast=AsyncMock(), nodes=str).read())
    reader.close()
    await service.close()


def test_the_addresses_that_tried_tokens_are_bounded() -> None:
    brake = Brake(now_s=lambda: 1_000.0)
    for n in range(Brake._ADDRESSES + 10):
        brake.failed(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}")
    assert len(brake._failed) == Brake._ADDRESSES


def test_figures_by_name_are_bounded() -> None:
    rates, means = FadingRates(0.0, most=2), Means(most=2)
    for n in range(5):
        rates.add(b"%d" % n, 1, 1.0)
        means.add(b"%d" % n, 1.0)
    assert len(rates.per_second(2.0)) == len(means.all()) == 2


def test_workers_that_went_are_bounded() -> None:
    lives = Lives(1_000)
    for n in range(_PAST + 5):
        lives.came(f"w{n}", "s")
        lives.went(f"w{n}", "s", with_tasks=True)
    assert len(lives._past) == _PAST


async def test_fairness_keys_past_the_bound_share_a_turn(lab: Lab) -> None:
    await lab.client.hset(f"{lab.tag}:fair", "", 99_999)
    await lab.add(
        *(NewTask(type=TaskType.WORKER, name="f", fairness_key=key) for key in ("a", "b", "c") for _ in range(4))
    )
    await lab.claim(slots=0)
    (turns,) = await lab.names("fair:*")
    members = await lab.client.zrange(turns, 0, -1)
    assert len(members) == 2 and b"\1" in members, "one has its own turn; the two others share one"
    found = leased(await lab.claim(types="w", slots=20))
    assert len(found) == 12, "each of them is taken all the same"


async def test_functions_past_the_bound_are_left_out(
    client: Redis, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(functions, "MOST", 2)
    store = await Store.open(Servers(client), prefix=prefix)
    assert await functions.announce(store, {"a": "qa", "b": "qb", "c": "qc"}) == ["c"]
    assert (await functions.own_queues(store))[1] == {"a": "qa", "b": "qb"}
    assert await functions.announce(store, {"a": "", "c": "qc"}) == ["c"]
    assert await functions.announce(store, {"c": "qc"}) == []


def test_the_hosts_that_are_known_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_hosts, "_MOST_HOSTS", 3)
    hosts = Hosts(1)
    kept = hosts.of("http", "h0", 80)
    for n in range(1, 10):
        hosts.of("http", f"h{n}", 80)
        assert hosts.of("http", "h0", 80) is kept, "the one that was used last stays"
    assert len(hosts._known) == 3
