"""Messages on the store's channels, as docs/bounds.md counts them: how many a call publishes, and how long they are."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from delaybox.core import ids
from delaybox.core.lane import lane_of
from delaybox.core.needs import WorkerNeeds
from delaybox.core.placement import Server
from delaybox.core.task import NewTask, TaskType
from delaybox.engine import calls
from delaybox.engine.calls import WorkerCalls
from delaybox.engine.placement import Placement
from delaybox.service import Service
from delaybox.store import cluster_subscription, keys, roster
from delaybox.store.cluster_subscription import Spread
from delaybox.store.leftovers import promote
from delaybox.store.record import draft
from delaybox.store.servers import Servers
from delaybox.store.store import Batch, Store
from tests.cluster import RealCluster, spread
from tests.engines import until
from tests.lab import Lab

PATIENCE_S = 30.0

Heard = Callable[..., Awaitable[Callable[[], Awaitable[list[tuple[str, bytes]]]]]]


@pytest.fixture
async def listen(client: Redis, prefix: str) -> AsyncIterator[Heard]:
    """Listens on channels from now on; what it returns answers what came on them since it was asked last."""
    subscriptions: list[Any] = []

    async def begin(*channels: str) -> Callable[[], Awaitable[list[tuple[str, bytes]]]]:
        # Messages come in the order in which they are published: behind this one there is none of before.
        end = f"{prefix}:end:{len(subscriptions)}"
        subscription = client.pubsub()
        subscriptions.append(subscription)
        await subscription.subscribe(*channels, end)

        async def came() -> list[tuple[str, bytes]]:
            await client.publish(end, b"")
            found: list[tuple[str, bytes]] = []
            while True:
                message = await subscription.get_message(timeout=PATIENCE_S)
                assert message is not None
                if message["type"] == "message":
                    if (channel := message["channel"].decode()) == end:
                        return found
                    found.append((channel, message["data"]))

        await came()
        return came

    yield begin
    for one in subscriptions:
        await one.aclose()


async def test_claims_of_workers_tasks_announce_nothing(lab: Lab, listen: Heard) -> None:
    """With a task a millisecond each claim announced the next one, to a time keeper and to the member that claimed."""
    lanes = (lane_of(TaskType.WORKER, "default", "f"),)
    tasks = [NewTask(type=TaskType.WORKER, name="f", delay_ms=n) for n in (1, 2, 3, 9)]
    await lab.add(*tasks)
    came = await listen(keys.wake(lab.tag), keys.wake_workers(lab.tag))
    for count in (1, 1, 1, 0):
        await lab.move(1)
        assert len((await lab.claim(types="w", lanes=lanes, guest=True)).leased) == 2 * count
    assert await came() == []


async def test_a_call_wakes_each_kind_of_taker_once(lab: Lab, listen: Heard) -> None:
    wakes = [keys.wake(lab.tag), keys.wake_workers(lab.tag), keys.wake_hooks(lab.tag)]
    came = await listen(*wakes)
    # Whoever claims all promises to look again in a second.
    await lab.claim()
    many: list[NewTask] = []
    for n in range(150):
        later = 900 - n
        many += [
            NewTask(type=TaskType.SHELL_CMD, name="c", delay_ms=later),
            NewTask(type=TaskType.WORKER, name=f"f{n}", delay_ms=later),
            NewTask(type=TaskType.HTTP, delay_ms=later),
        ]
    await lab.add(*many)
    found = await came()
    assert sorted(channel for channel, _ in found) == sorted(wakes)
    assert {data for _, data in found} == {b"%d" % (lab.now + 900 - 149)} and all(len(d) <= 14 for _, d in found)
    await lab.add(*many)
    assert await came() == [], "nothing is earlier than what was announced"


async def test_a_claim_announces_once_what_it_left(lab: Lab, listen: Heard) -> None:
    ready, workers = keys.ready_channel(lab.tag), keys.ready_workers(lab.tag)
    came = await listen(ready, workers)
    await lab.add(*(NewTask(type=TaskType.SHELL_CMD, queue=f"q{n}", name="c") for n in range(300)))
    claims = 0
    while (await lab.claim(types="p", slots=0)).promoted:
        claims += 1
    assert await came() == [(ready, lab.tag.encode())] * claims and claims
    await lab.add(*(NewTask(type=TaskType.WORKER, queue=f"q{n % 50}", name="f") for n in range(300)))
    await lab.move(1_000)
    moved = (await promote(lab.store, 0, late_ms=100)).moved
    assert await came() == [(workers, b"%d %d" % (lab.now, moved))] and moved == 300
    assert len(b"%d %d" % (lab.now, 500)) <= 30


async def test_each_change_of_the_members_is_announced_once(lab: Lab, listen: Heard) -> None:
    came = await listen(channel := keys.members_channel(lab.store.prefix))
    for n in range(20):
        await roster.beat(lab.store, f"m{n}", b"record")
    for n in range(20):
        await roster.beat(lab.store, f"m{n}", b"record")
    for n in range(20):
        await roster.leave(lab.store, f"m{n}")
    found = await came()
    assert [at for at, _ in found] == [channel] * 40
    assert all(data.isdigit() and len(data) <= 14 for _, data in found)


async def test_calls_for_help_are_few_and_name_no_more_than_they_may(
    client: Redis, prefix: str, listen: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "ASK_AGAIN_MS", 3_600_000.0)
    monkeypatch.setattr(calls, "ALL_AGAIN_MS", 3_600_000.0)
    store = await Store.open(Servers(client), prefix=prefix, partitions=128)
    came = await listen(keys.help_channel(prefix))
    names = [f"{n:02}{'f' * 120}" for n in range(40)]
    needs = WorkerNeeds(2, ("l" * 60,)).text()
    lanes = [lane_of(TaskType.WORKER, "q" * 50, name + needs) for name in names]
    placement = Placement("me", store.partitions)
    placement.assign([Server(name, 1, frozenset(lanes)) for name in ("me", "b", "c")])
    mine = WorkerCalls(store, placement, "me", lambda: 1_800_000_000_000, lambda _: False, lambda _: 0)
    try:
        for _ in range(100):
            mine.ask(range(128))
        await until(lambda: mine._asking is not None and mine._tasks == {mine._asking})
        ((_, message),) = await came()
        assert len(message.split()) == 1 + calls.MOST_NAMED and len(message) <= 400
        assert [mine.lend(p, lanes) for p in range(5)] == [True, False, False, False, False]
        await until(lambda: mine._tasks == {mine._asking})
        ((_, message),) = await came()
        assert len(message.split()) == 1 + 1
        for p in range(100):
            await mine._ask([p])
        assert len(mine._sent) == calls._OWN_MOST, "who hears none of its calls remembers the last ones"
        assert len(await came()) == 100
        for _ in range(5):
            await mine._call_all([(0, lane) for lane in lanes])
        found = [message.split() for _, message in await came()]
        assert [len(words) for words in found] == [calls._LANES_NAMED] * 2 + [8], "the rest by the next ones"
        assert len({word for words in found for word in words}) == len(lanes), "each lane of a partition once"
        assert max(len(word) for words in found for word in words) <= 260
    finally:
        mine.stop()


async def test_a_task_that_is_cancelled_while_it_runs_is_named_once(lab: Lab, listen: Heard) -> None:
    came = await listen(channel := lab.store.control_channel)
    task_ids = await lab.add(*(NewTask(type=TaskType.WORKER, name="f") for _ in range(10)))
    await lab.lease(os.urandom(20))
    service = Service(lab.store)
    for task_id in task_ids:
        await service.cancel(ids.render(task_id), running=True)
    found = await came()
    assert found == [(channel, f"cancel {ids.render(task_id)}".encode()) for task_id in task_ids]
    assert {len(data) for _, data in found} == {43}
    await service.close()


async def test_messages_that_nobody_fetches_wait_at_the_servers_of_a_cluster(
    cluster: RealCluster, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_subscription, "_MOST_WAITING", 4)
    store = await Store.open(Servers.connect(cluster.settings), prefix=spread(prefix), partitions=16)
    channels = [keys.ended_at(tag) for tag in store.tags]
    subscription = store.subscribe(*channels)
    assert isinstance(subscription, Spread)
    await subscription.open()
    try:
        for _ in channels:
            message = await subscription.next(PATIENCE_S)
            assert message is not None and message.opened
        for n in range(10):
            for channel in channels:
                await store.servers.notify(channel, b"%d" % n)
        await until(subscription._came.full)
        assert subscription._came.qsize() == 4
        got: dict[str, list[bytes]] = {channel: [] for channel in channels}
        for _ in range(160):
            message = await subscription.next(PATIENCE_S)
            assert message is not None
            got[message.channel].append(message.data)
        assert all(found == [b"%d" % n for n in range(10)] for found in got.values()), "none was lost"
    finally:
        await subscription.close()
        await store.close()


async def test_tasks_of_one_call_are_announced_together_on_a_cluster_too(cluster: RealCluster, prefix: str) -> None:
    """There a partition's channels lie at its server."""
    store = await Store.open(Servers.connect(cluster.settings), prefix=spread(prefix), partitions=16)
    subscription = store.subscribe(keys.wake(store.tags[3]), keys.wake(store.tags[4]))
    await subscription.open()
    try:
        for _ in range(2):
            message = await subscription.next(PATIENCE_S)
            assert message is not None and message.opened
        drafts = [draft(NewTask(type=TaskType.SHELL_CMD, name="c", delay_ms=50_000 - n)) for n in range(300)]
        await store.schedule([Batch(3, drafts)])
        await store.schedule([Batch(4, drafts[:1])])
        woken: list[str] = []
        for _ in range(2):
            message = await subscription.next(PATIENCE_S)
            assert message is not None
            woken.append(message.channel)
        assert set(woken) == {keys.wake(store.tags[p]) for p in (3, 4)}, "one of each, from whichever server first"
    finally:
        await subscription.close()
        await store.close()
