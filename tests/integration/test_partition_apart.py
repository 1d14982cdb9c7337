"""A partition in which nothing can be done, such as one on its way to another server: all others go on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from delaybox.core.delivery import Delivery
from delaybox.core.errors import PartAway, StoreUnavailable
from delaybox.core.queue import LiveRules, QueueRules
from delaybox.core.task import DeliveryMode, NewTask, TaskType
from delaybox.core.webhook import Webhook
from delaybox.engine.clock_estimate import Clocks, RedisClock
from delaybox.engine.expander import Expander
from delaybox.engine.leftovers import Leftovers
from delaybox.engine.options import EngineOptions
from delaybox.engine.ownership import Ownership
from delaybox.engine.permit_dealer import PermitDealer
from delaybox.engine.reaper import Reaper
from delaybox.engine.retention import Retention
from delaybox.engine.scrubber import Scrubber
from delaybox.service.rules import Rules
from delaybox.store import keys, rules
from delaybox.store.leases import new_lease
from delaybox.store.loader import ScriptCall
from delaybox.store.record import draft
from delaybox.store.replies import NONE
from delaybox.store.resuming import resume
from delaybox.store.servers import Command, Servers
from delaybox.store.store import Batch, ClaimLimits, Store
from tests.engines import running, until

PARTITIONS = 8
OPTIONS = EngineOptions(node_id="test", lease_ms=300, reap_ms=20, lead_ms=600_000)
AWAY = PartAway("a part of the store moves to another server")


class Broken:
    """A store of which the first partition takes no scripts of some names, and no reads."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store = store
        self.error: BaseException = AWAY
        self.scripts: set[str] = set()
        run_many, replies = store.runner.run_many, store.servers.replies

        async def some_run(calls: Sequence[ScriptCall]) -> list[Any]:
            wrong = [call.tag == store.tags[0] and call.script in self.scripts for call in calls]
            found = iter(await run_many([call for call, is_wrong in zip(calls, wrong, strict=True) if not is_wrong]))
            return [self.error if is_wrong else next(found) for is_wrong in wrong]

        async def some_read(commands: Sequence[Command]) -> list[Any]:
            wrong = [bool(self.scripts) and store.tags[0] in str(command[1:2]) for command in commands]
            found = iter(await replies([one for one, is_wrong in zip(commands, wrong, strict=True) if not is_wrong]))
            return [self.error if is_wrong else next(found) for is_wrong in wrong]

        monkeypatch.setattr(store.runner, "run_many", some_run)
        monkeypatch.setattr(store.servers, "replies", some_read)

    async def add(self, p: int, *tasks: NewTask) -> list[bytes]:
        (answers,) = await self.store.schedule([Batch(p, [draft(task) for task in tasks])])
        assert not isinstance(answers, BaseException), answers
        return [one.task_id for one in answers]


@pytest.fixture
async def broken(client: Redis, prefix: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Broken]:
    yield Broken(await Store.open(Servers(client), prefix=prefix, partitions=PARTITIONS), monkeypatch)


async def steps(step: Callable[[], Any], holds: Callable[[], Any]) -> None:
    """Steps as a loop makes them, whatever they raise, until it holds."""

    async def one() -> bool:
        with contextlib.suppress(StoreUnavailable, ResponseError):
            await step()
        return bool(await holds())

    await until(one)


async def test_leases_of_dead_nodes_are_reaped_elsewhere(broken: Broken) -> None:
    store, last = broken.store, PARTITIONS - 1
    for p in (0, last):
        await broken.add(p, NewTask(type=TaskType.SHELL_CMD))
        claimed = await store.claim(p, new_lease(300), ClaimLimits(slots=1, types="s", lease_ms=300))
        assert claimed.leased
    broken.scripts = {"reap"}
    reaper = Reaper(store, OPTIONS)

    async def back() -> bool:
        return (await store.counts())[last].in_flight == 0

    await steps(reaper.step, back)
    assert (await store.counts())[0].in_flight == 1
    broken.scripts = set()
    await steps(reaper.step, lambda: store.servers.ask("HEXISTS", keys.clock(store.tags[0]), "reaped"))


async def test_what_was_put_off_is_brought_back_elsewhere(broken: Broken) -> None:
    store, moments = broken.store, dict[int, list[tuple[bytes, int]]]()
    for p in (0, 1):
        (task_id,) = await broken.add(p, NewTask(type=TaskType.HTTP, webhook=Webhook("https://example.com/hook")))
        lease_id = new_lease(10_000)
        claimed = await store.claim(p, lease_id, ClaimLimits(slots=1, types="h", lease_ms=10_000))
        moments[p] = [(task_id, claimed.now_ms + 60_000)]
        assert await store.release(p, lease_id, [task_id], until_ms=moments[p][0][1]) == []
    broken.scripts = {"resume"}
    assert await resume(store, moments) == 1
    with pytest.raises(PartAway):
        await resume(store, {0: moments[0]})
    broken.scripts = set()
    assert await resume(store, moments) == 1, "that of the other one is due already"


async def test_permits_that_cannot_be_kept_cost_no_lease(broken: Broken) -> None:
    store = broken.store
    over, running_now = asyncio.Event(), set[int]()

    class Long:
        async def deliver(self, batch: Sequence[Delivery], report: Any) -> None:
            running_now.update(d.partition for d in batch)
            await over.wait()

    await Rules(store).set("few", QueueRules(concurrency=5))
    async with running(store, {TaskType.SHELL_CMD: Long()}, channel="", heartbeat_ms=3_600_000) as engine:
        await broken.add(0, NewTask(type=TaskType.SHELL_CMD, queue="few", delivery=DeliveryMode.AT_MOST_ONCE))
        await broken.add(1, NewTask(type=TaskType.SHELL_CMD))
        await until(lambda: running_now == {0, 1})
        leases = keys.leases(store.tags[1])
        ((lease_id, ends_ms),) = await store.servers.ask("ZRANGE", leases, 0, -1, "WITHSCORES")
        await store.servers.ask("ZINCRBY", leases, -5_000, lease_id)
        broken.scripts = {"keep"}
        with pytest.raises(PartAway):
            await engine.extend()
        assert float(await store.servers.ask("ZSCORE", leases, lease_id)) >= float(ends_ms)
        broken.scripts = set()
        over.set()


@pytest.mark.parametrize("what", ["permits", "ledger"])
async def test_permits_are_dealt_elsewhere(broken: Broken, what: str) -> None:
    """Also where it is the home of a pool: those of other pools are dealt."""
    store, live = broken.store, LiveRules()
    dealer = PermitDealer(store, live, Ownership(PARTITIONS), Clocks(lambda: store.shards.of), keeps=True)
    # The home of one of them is the broken partition.
    queues = [name for name in map(str, range(1_000)) if store.partition_of(b"c" + name.encode()) in (0, 1)]
    here = next(name for name in queues if store.partition_of(b"c" + name.encode()) == 0)
    there = next(name for name in queues if store.partition_of(b"c" + name.encode()) == 1)
    for name in (here, there):
        await Rules(store).set(name, QueueRules(concurrency=2))
        await broken.add(0, NewTask(type=TaskType.SHELL_CMD, queue=name))
        await broken.add(1, NewTask(type=TaskType.SHELL_CMD, queue=name))
    number, found = await rules.every(store, {})
    live.take(number, {queue: one.rules for queue, one in found.items()})
    claims = ClaimLimits(slots=5, types="s")
    for p in (0, 1):
        dealer.waits(p, (await store.claim(p, new_lease(15_000), claims)).waits)
    broken.scripts = {what}

    async def took() -> bool:
        return bool((await store.claim(1, new_lease(15_000), claims)).leased)

    await steps(dealer.step, took)


@pytest.mark.parametrize("error", [AWAY, ResponseError("WRONGTYPE")], ids=["away", "broken"])
async def test_buckets_are_indexed_elsewhere(broken: Broken, error: BaseException) -> None:
    """Without hints nothing of these buckets would ever fire."""
    await broken.add(0, NewTask(delay_ms=300_000))
    many = 600
    await broken.add(1, *[NewTask(delay_ms=300_000)] * 500)
    await broken.add(1, *[NewTask(delay_ms=300_000)] * (many - 500))
    broken.scripts, broken.error = {"expand"}, error
    expander = Expander(broken.store, OPTIONS, RedisClock())

    async def indexed() -> bool:
        return int(await broken.store.servers.ask("ZCARD", keys.near(broken.store.tags[1], 2))) == many

    await steps(expander.step, indexed)


async def test_lost_hints_come_back_elsewhere(broken: Broken) -> None:
    store = broken.store
    for p in range(PARTITIONS):
        await broken.add(p, NewTask(delay_ms=30_000))
    await store.servers.ask("DEL", keys.near(store.tags[-1], 2))
    broken.scripts, broken.error = {"index"}, ResponseError("WRONGTYPE")
    scrubber = Scrubber(store)
    await steps(scrubber.step, lambda: store.servers.ask("EXISTS", keys.near(store.tags[-1], 2)))


async def test_what_nobody_claimed_becomes_ready_elsewhere(broken: Broken) -> None:
    store = broken.store
    for p in (0, 1):
        await broken.add(p, NewTask(type=TaskType.WORKER, name="f"))
    broken.scripts = {"leftovers"}
    ownership = Ownership(PARTITIONS)
    leftovers = Leftovers(store, ownership, RedisClock())
    await steps(leftovers.step, lambda: store.servers.ask("EXISTS", keys.active(store.tags[1], "w", critical=False)))


async def test_the_dealer_does_not_pause_for_a_partition_that_is_away(broken: Broken) -> None:
    """A step that fails is followed by a pause, in which nobody got permits."""
    store, live = broken.store, LiveRules()
    dealer = PermitDealer(store, live, Ownership(PARTITIONS), Clocks(lambda: store.shards.of), keeps=False)
    await Rules(store).set("few", QueueRules(concurrency=2))
    number, found = await rules.every(store, {})
    live.take(number, {queue: one.rules for queue, one in found.items()})
    broken.scripts = {"permits"}
    dealer.waits(0, {b"few": NONE})
    assert await dealer.step() == 0.0
    broken.error = ResponseError("WRONGTYPE")
    dealer.waits(0, {b"few": NONE})
    with pytest.raises(ResponseError):
        await dealer.step()


async def test_what_is_kept_for_a_time_is_deleted_elsewhere(broken: Broken) -> None:
    store = broken.store
    for p in (0, 1):
        (task_id,) = await broken.add(p, NewTask(type=TaskType.SHELL_CMD))
        lease_id = new_lease(15_000)
        assert (await store.claim(p, lease_id, ClaimLimits(slots=1, types="s"))).leased
        await store.fail(p, lease_id, [(task_id, None, "no")])
    broken.scripts = {"discard"}
    retention = Retention(store, replace(OPTIONS, dead_age_ms=1))

    async def gone() -> bool:
        return not (await store.counts())[1].dead

    await steps(retention.step, gone)
    assert (await store.counts())[0].dead == 1
