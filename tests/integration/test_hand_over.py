"""From a claim to those who carry tasks out: what fails on the way must cost no more than itself."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from redis.asyncio import Redis

from delaybox import metrics
from delaybox.core.errors import StoreUnavailable
from delaybox.core.retry import RetryPolicy
from delaybox.core.task import NewTask, TaskType
from delaybox.engine import due_tracker
from delaybox.engine.clock_estimate import RedisClock, local_ms
from delaybox.engine.due_tracker import Tracker
from delaybox.engine.loops import Loop
from delaybox.engine.options import EngineOptions
from delaybox.engine.taker import Asked
from delaybox.store import keys
from delaybox.store.loader import ScriptCall
from delaybox.store.record import draft, read_dead
from delaybox.store.servers import Servers
from delaybox.store.store import Batch, Store
from delaybox.targets.pubsub import PubSubTarget
from tests.engines import running, until
from tests.takers import Collecting
from tests.waiting import PATIENCE_S


class Clumsy(Collecting):
    """Fails at the first hand-over of each partition."""

    def __init__(self) -> None:
        super().__init__()
        self.tried: set[int] = set()

    def full(self, partitions: Sequence[int]) -> None:
        raise AssertionError("it has room")

    def accept(self, partition: int, lease_id: bytes, leased: Sequence[bytes]) -> list[float]:
        if partition not in self.tried:
            self.tried.add(partition)
            raise ZeroDivisionError("a defect")
        return super().accept(partition, lease_id, leased)


class Narrow(Collecting):
    """Has room for one message at a time."""

    types, free = "p", 1

    def accept(self, partition: int, lease_id: bytes, leased: Sequence[bytes]) -> list[float]:
        self.free = 0
        return super().accept(partition, lease_id, leased)


class Wide(Collecting):
    """Has always room for just as many as one claim brings."""

    types, free = "p", 250


async def add(store: Store, partition: int, task: NewTask) -> bytes:
    (answers,) = await store.schedule([Batch(partition, [draft(task)])])
    assert not isinstance(answers, BaseException), answers
    return answers[0].task_id


async def test_a_hand_over_that_fails_makes_no_partition_deaf(client: Redis, prefix: str) -> None:
    store = await Store.open(Servers(client), prefix=prefix, partitions=4)
    taker = Clumsy()
    options = EngineOptions(node_id="test", channel="", poll_ms=50)
    tracker = Tracker(store, taker, options, RedisClock())
    loop = Loop("tracker", tracker.step)
    command = NewTask(type=TaskType.SHELL_CMD)
    for p in range(4):
        await add(store, p, command)
    loop.start()
    try:
        await until(lambda: len(taker.tried) == 4)
        made = {await add(store, p, command) for p in range(4)}
        await until(lambda: set(taker.got) == made)
    finally:
        await loop.stop()
        await tracker.finish(1.0)
        tracker.close()


@pytest.mark.parametrize("lost_during", ["survey", "claim"])
async def test_nothing_is_claimed_from_a_partition_that_another_member_got_meanwhile(
    client: Redis, prefix: str, monkeypatch: pytest.MonkeyPatch, lost_during: str
) -> None:
    """Under pressure as well, where a look comes before a claim: messages would overtake those of the new owner."""
    store = await Store.open(Servers(client), prefix=prefix, partitions=1)
    taker = Narrow()
    tracker = Tracker(store, taker, EngineOptions(node_id="test", channel="", poll_ms=50), RedisClock())
    loop = Loop("tracker", tracker.step)
    run_many, scripts = store.runner.run_many, list[str]()
    begun, may = asyncio.Event(), asyncio.Event()

    async def held_up(calls: Sequence[ScriptCall]) -> Sequence[Any]:
        scripts.append(calls[0].script)
        if calls[0].script == lost_during and taker.got:
            begun.set()
            await may.wait()
        return await run_many(calls)

    monkeypatch.setattr(store.runner, "run_many", held_up)
    for _ in range(4):
        await add(store, 0, NewTask())
    loop.start()
    try:
        await until(lambda: len(taker.got) == 1)
        taker.free = 1
        tracker._chooser.press([0])
        # As when slots came free where it was hungry.
        tracker.call(0)
        await asyncio.wait_for(begun.wait(), PATIENCE_S)
        tracker.keep(frozenset())
        claims = scripts.count("claim")
        may.set()
        await until(lambda: tracker._asleep_until > 0 and not tracker.claims(0))
        taker.free = 1
        tracker.slots_freed()
        # A step goes to sleep at once where nothing is due.
        for _ in range(3):
            await asyncio.sleep(0)
        await until(lambda: tracker._asleep_until > 0 and not tracker.claims(0))
        assert scripts.count("claim") == claims
    finally:
        may.set()
        await loop.stop()
        await tracker.finish(1.0)
        tracker.close()


async def test_slots_that_come_free_during_a_look_are_used_by_the_claim_after_it(
    client: Redis, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a slow machine a look takes as long as a task, and with idle slots a busy fleet does not get out again."""
    store = await Store.open(Servers(client), prefix=prefix, partitions=1)
    taker = Narrow()
    tracker = Tracker(store, taker, EngineOptions(node_id="test", channel="", poll_ms=50), RedisClock())
    loop = Loop("tracker", tracker.step)
    run_many, looks = store.runner.run_many, 0

    async def free_meanwhile(calls: Sequence[ScriptCall]) -> Sequence[Any]:
        nonlocal looks
        replies = await run_many(calls)
        if calls[0].script == "survey":
            looks += 1
            taker.free = 3
        return replies

    monkeypatch.setattr(store.runner, "run_many", free_meanwhile)
    for _ in range(4):
        await add(store, 0, NewTask())
    loop.start()
    try:
        await until(lambda: len(taker.got) == 1)
        taker.free = 1
        tracker._chooser.press([0])
        tracker.call(0)
        await until(lambda: len(taker.got) > 1)
        assert (looks, len(taker.got)) == (1, 4)
    finally:
        await loop.stop()
        await tracker.finish(1.0)
        tracker.close()


def test_a_tracker_beside_others_may_ask_for_its_share_of_what_came_free_meanwhile() -> None:
    asked = Asked()
    asked.count = 3  # 2 of another tracker, 1 of this one
    assert [asked.room_beside(free, 1) for free in (0, 3, 10)] == [1, 1, 8]
    asked.trackers = 2
    assert [asked.room_beside(free, 1) for free in (3, 10)] == [1, 5]


def test_rounds_of_several_trackers_leave_slots_for_whole_claims() -> None:
    asked = Asked()
    assert [asked.enough(own) for own in (1, 2)] == [False, True]
    assert asked.in_full(800, 250) == 5
    asked.trackers = 3
    assert asked.in_full(800, 250) == 3, "each claim can bring 250"
    asked.rounds = 2
    assert not asked.enough(1), "the third server has nothing to do"
    asked.rounds = 3
    assert asked.enough(1)


async def test_a_claim_that_brought_all_that_one_may_is_no_lack_of_slots(
    client: Redis, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With as many slots as that it passed for one, and the whole backlog was then claimed by looks and plans."""
    store = await Store.open(Servers(client), prefix=prefix, partitions=1)
    taker = Wide()
    tracker = Tracker(store, taker, EngineOptions(node_id="test", channel="", poll_ms=50), RedisClock())
    loop = Loop("tracker", tracker.step)
    scripts: list[str] = []
    run_many = store.runner.run_many

    async def noted(calls: Sequence[ScriptCall]) -> Sequence[Any]:
        scripts.extend(call.script for call in calls)
        return await run_many(calls)

    for _ in range(300):
        await add(store, 0, NewTask())
    monkeypatch.setattr(store.runner, "run_many", noted)
    loop.start()
    try:
        await until(lambda: len(taker.got) == 300)
        assert set(scripts) == {"claim"}
    finally:
        await loop.stop()
        await tracker.finish(1.0)
        tracker.close()


@pytest.mark.parametrize("reaped", [True, False])
async def test_a_claim_whose_reply_comes_too_late_is_run_only_where_its_lease_lives(
    client: Redis, prefix: str, monkeypatch: pytest.MonkeyPatch, reaped: bool
) -> None:
    """As after a freeze: what was taken back meanwhile would run a second time, and its ack be refused."""
    store = await Store.open(Servers(client), prefix=prefix, partitions=1)
    taker = Clumsy()
    taker.tried.add(0)
    options = EngineOptions(node_id="test", channel="", poll_ms=50, lease_ms=1)
    tracker = Tracker(store, taker, options, RedisClock())
    loop = Loop("tracker", tracker.step)
    run_many, late = store.runner.run_many, asyncio.Event()
    dropped = metrics.REGISTRY.get_sample_value("delaybox_late_claims_total") or 0

    async def taken_back() -> bool:
        return (await store.reap(0, lease_ms=1, losses_cap=20)).leases == 1

    async def over() -> bool:
        found: Any = await client.zrange(keys.leases(store.tags[0]), 0, -1, withscores=True)
        return bool(await store.ping() > found[0][1])

    async def held_up(calls: Sequence[ScriptCall]) -> Sequence[Any]:
        replies = await run_many(calls)
        if calls[0].script == "claim" and replies[0][2] and not late.is_set():
            late.set()
            await until(taken_back if reaped else over)
        return replies

    monkeypatch.setattr(store.runner, "run_many", held_up)
    task_id = await add(store, 0, NewTask(type=TaskType.SHELL_CMD))
    loop.start()
    try:
        # Taken back it is claimed once more, and alive it is handed over.
        await until(lambda: taker.got == [task_id])
        assert late.is_set()
        assert metrics.REGISTRY.get_sample_value("delaybox_late_claims_total") == dropped + reaped
    finally:
        await loop.stop()
        await tracker.finish(1.0)
        tracker.close()


@pytest.mark.parametrize("lost", [True, False], ids=["reply lost", "reply late"])
async def test_an_old_lease_is_extended_before_its_tasks_are_handed_over(
    client: Redis, prefix: str, monkeypatch: pytest.MonkeyPatch, lost: bool
) -> None:
    """A heartbeat comes once in a third of a lease: what has less left would be taken back while its tasks run."""
    store = await Store.open(Servers(client), prefix=prefix, partitions=1)
    taker = Clumsy()
    taker.tried.add(0)
    lease_ms = 100_000
    options = EngineOptions(node_id="test", channel="", poll_ms=50, lease_ms=lease_ms)
    tracker = Tracker(store, taker, options, RedisClock())
    loop = Loop("tracker", tracker.step)
    run_many, leases, behind_ms = store.runner.run_many, keys.leases(store.tags[0]), 0.0

    async def the_lease() -> tuple[bytes, float]:
        found: Any = await client.zrange(leases, 0, -1, withscores=True)
        member, ends_ms = found[0]
        return member, ends_ms

    async def held_up(calls: Sequence[ScriptCall]) -> Sequence[Any]:
        nonlocal behind_ms
        replies = await run_many(calls)
        if calls[0].script == "claim" and replies[0][2] and not behind_ms:
            # As if that much time had passed since.
            behind_ms = lease_ms * 0.9
            await client.zincrby(leases, -behind_ms, (await the_lease())[0])
            if lost:
                raise StoreUnavailable("the connection broke")
        return replies

    extend, away = store.extend, [lost]

    async def away_once(partition: int, lease_ids: Sequence[bytes], lease_ms: int) -> list[bytes]:
        if any(away):
            away.clear()
            raise StoreUnavailable("the connection broke again")
        return await extend(partition, lease_ids, lease_ms)

    monkeypatch.setattr(store, "extend", away_once)
    monkeypatch.setattr(store.runner, "run_many", held_up)
    if not lost:
        monkeypatch.setattr(due_tracker, "local_ms", lambda: local_ms() + behind_ms)
    task_id = await add(store, 0, NewTask(type=TaskType.SHELL_CMD))
    loop.start()
    try:
        await until(lambda: taker.got == [task_id])
        assert (await the_lease())[1] - await store.ping() > lease_ms / 2
    finally:
        await loop.stop()
        await tracker.finish(1.0)
        tracker.close()


@pytest.mark.parametrize("size", [10, 5_000], ids=["in place", "leased"])
async def test_a_message_that_its_stream_did_not_take_is_not_delivered(client: Redis, prefix: str, size: int) -> None:
    store = await Store.open(Servers(client), prefix=prefix, partitions=1)
    await client.set(keys.stream(store.tags[0]), "somebody else's")
    target = PubSubTarget(store, channel=f"{prefix}:out", stream=100)
    retry = RetryPolicy(max_attempts=2, initial_ms=1, max_ms=5)
    options: Any = {"channel": f"{prefix}:out", "stream": 100, "retry": retry, "poll_ms": 50}
    async with running(store, {TaskType.PUB_SUB: target}, **options):
        task_id = await add(store, 0, NewTask(payload=bytes(size)))

        async def dead() -> bool:
            return (await store.get(task_id)).place == "dead"

        await until(dead)
        died, reason, record = read_dead(task_id, (await store.get(task_id)).value)[:3]
        assert died and record.attempt == 2 and "WRONGTYPE" in reason
        # The stream is there again, and what comes now is fired in place.
        await client.delete(keys.stream(store.tags[0]))
        await add(store, 0, NewTask(payload=bytes(size)))

        async def streamed() -> bool:
            return bool(await client.xlen(keys.stream(store.tags[0])) == 1)

        await until(streamed)
