"""After an outage a backlog is taken at the configured rate, urgent tasks first, and fresh ones do not wait for it."""

from __future__ import annotations

import os
import time
from collections import Counter

import pytest
from msgspec.structs import replace
from redis.asyncio import Redis

from delaybox.config.load import load
from delaybox.config.specs import specs
from delaybox.core import ids
from delaybox.core.delivery import Target
from delaybox.core.queue import QueueRules
from delaybox.core.task import NewTask, Priority, TaskType
from delaybox.core.webhook import Webhook
from delaybox.engine.clock_estimate import RedisClock
from delaybox.engine.due_tracker import Tracker
from delaybox.engine.engine import Engine
from delaybox.engine.options import EngineOptions
from delaybox.processes.spec import ProcessKind
from delaybox.roles.settings import WebhookSettings
from delaybox.roles.webhook import engine_options
from delaybox.service import Service
from delaybox.service.rules import Rules
from delaybox.store import keys
from delaybox.store.fsck import fsck
from delaybox.store.loader import ScriptRunner
from delaybox.store.record import draft
from delaybox.store.servers import Servers
from delaybox.store.store import Batch, Store
from delaybox.targets.pubsub import PubSubTarget
from tests.engines import Recorder, running, until
from tests.lab import CLOCK, CLOCK_KEY, Lab, leased
from tests.takers import Collecting

WORKER = TaskType.WORKER


async def test_a_fresh_claim_leaves_the_backlog_alone(lab: Lab) -> None:
    old = await lab.add(*(NewTask(type=WORKER, priority=p) for p in Priority for _ in range(3)))
    await lab.move(10_000)
    new = await lab.add(*(NewTask(type=WORKER, priority=p) for p in Priority))
    assert set(await lab.lease(b"a", fresh_ms=5_000)) == set(new)
    assert (await lab.claim(fresh_ms=5_000)).leased == []
    assert set(await lab.lease(b"b")) == set(old)


async def test_a_fresh_claim_says_when_the_next_fresh_task_is_due(lab: Lab) -> None:
    await lab.add(NewTask(type=WORKER))
    await lab.move(10_000)
    await lab.add(NewTask(type=WORKER, delay_ms=700))
    claimed = await lab.claim(fresh_ms=5_000)
    assert claimed.leased == [] and claimed.next_due_ms == lab.now + 700 and not claimed.more
    assert (await lab.claim(items=1)).next_due_ms == lab.now + 700


async def test_the_bounds_of_a_fresh_claim(lab: Lab) -> None:
    at_limit, within = await lab.add(NewTask(), NewTask(delay_ms=1))
    await lab.move(5_000)
    assert len((await lab.claim(fresh_ms=5_000, channel="c")).lateness_ms) == 1
    assert (await lab.find(within)).place == "" and (await lab.find(at_limit)).place == "home"


async def test_a_fresh_claim_stays_within_its_items_and_the_rest_follows(lab: Lab) -> None:
    old = await lab.add(*(NewTask(type=WORKER) for _ in range(10)))
    await lab.move(10_000)
    new = await lab.add(*(NewTask(type=WORKER) for _ in range(10)))
    got: set[bytes] = set()
    for more in (True, True, False):
        claimed = await lab.claim(os.urandom(16), fresh_ms=5_000, items=4)
        got |= set(leased(claimed))
        assert claimed.more == more
    assert got == set(new) and set(await lab.lease(b"b")) == set(old)


async def overdue(
    store: Store, count: int, *, by_ms: int, task_type: TaskType, name: str = "", critical: bool = True
) -> None:
    """A backlog, one in ten critical, as an outage leaves it: scheduled in the past, by moving the server's clock."""
    now = await store.ping()
    key = f"{store.prefix}:{CLOCK_KEY}"
    runner, store.runner = store.runner, ScriptRunner(store.servers.send, clock=CLOCK.replace(CLOCK_KEY, key))
    await store.servers.ask("SET", key, now - by_ms)
    webhook = Webhook("https://example.com/hook") if task_type is TaskType.HTTP else None
    urgent = NewTask(payload=b"critical", type=task_type, name=name, priority=Priority.CRITICAL, webhook=webhook)
    try:
        for at in range(0, count, 100):
            drafts = [
                draft(
                    urgent if critical and not i % 10 else replace(urgent, payload=b"normal", priority=Priority.NORMAL)
                )
                for i in range(at, at + 100)
            ]
            (answer,) = await store.schedule([Batch(at // 100 % store.partitions, drafts)])
            assert not isinstance(answer, BaseException)
    finally:
        store.runner = runner
        await store.servers.ask("DEL", key)


@pytest.mark.parametrize("in_place", [True, False])
async def test_a_backlog_drains_at_the_rate_critical_first_while_fresh_tasks_fire_on_time(
    client: Redis, prefix: str, in_place: bool
) -> None:
    store = await Store.open(Servers(client), prefix=prefix, partitions=4)
    kind = TaskType.PUB_SUB if in_place else WORKER
    count, rate = 2_000, 1_000
    await overdue(store, count, by_ms=600_000, task_type=kind)
    recorder = Recorder()
    channel = f"{prefix}-out" if in_place else ""
    targets: dict[TaskType, Target] = {WORKER: recorder, TaskType.PUB_SUB: PubSubTarget(store, channel=f"{prefix}-out")}
    service = Service(store)
    started = time.monotonic()
    async with running(store, targets, channel=channel, catch_up_rate=rate):
        fresh = [NewTask(type=WORKER, payload=b"fresh", delay_ms=300 + 20 * n) for n in range(50)]
        await service.submit_many(fresh)
        waits: list[int] = []

        async def drained() -> bool:
            left, so_far_s = (await service.counts()).pending, time.monotonic() - started
            # The most that may have gone out by now; looks take a while on a busy machine.
            assert left >= count - rate * (so_far_s + 0.4), "faster than the rate"
            if sum(b"fresh" in d.body for _, d in recorder.got) >= 40:
                waits.append(left)
            return left == 0

        await until(drained)
        took = time.monotonic() - started
    assert took > 0.8 * count / rate
    came = sum(b"fresh" in d.body for _, d in recorder.got)
    # The last of these came due 1.1 s after the start, and the backlog takes two seconds at least.
    assert came == 50 and waits[0] > 50, "they did not wait for the backlog"
    if not in_place:
        backlog = [d for _, d in recorder.got if b"fresh" not in d.body]
        assert len(backlog) == count
        of_partition = [[d for d in backlog if d.partition == p] for p in range(store.partitions)]
        for tasks in (backlog, *of_partition):
            urgent = [i for i, d in enumerate(tasks) if b"critical" in d.body]
            assert urgent[len(urgent) * 9 // 10] < len(tasks) // 5, "critical ones come first"
    assert (await fsck(store)).problems == []


async def test_each_partition_gets_its_share_where_all_that_is_overdue_is_alike(client: Redis, prefix: str) -> None:
    """A claim took eight tasks of its share and left the others, so the four partitions that were looked at next passed
    for the only ones with a backlog, and got all the tokens there were."""
    store = await Store.open(Servers(client), prefix=prefix, partitions=16)
    await overdue(store, 3_200, by_ms=600_000, task_type=TaskType.SHELL_CMD, name="backup", critical=False)
    taker = Collecting()
    taker.free = 10_000
    tracker = Tracker(store, taker, EngineOptions(node_id="test", channel="", catch_up_rate=5_000), RedisClock())
    try:
        await tracker.step()
        # There are tokens for a tenth of a second.
        assert set(Counter(map(ids.partition, taker.got)).values()) == {500 // 16}
        await tracker.step()
        assert max(Counter(map(ids.partition, taker.got)).values()) <= 2 * (500 // 16)
    finally:
        tracker.close()


async def test_without_a_rate_it_drains_as_fast_as_it_goes(client: Redis, prefix: str) -> None:
    store = await Store.open(Servers(client), prefix=prefix, partitions=4)
    await overdue(store, 2_000, by_ms=60_000, task_type=WORKER)
    recorder = Recorder()
    async with running(store, {WORKER: recorder}, channel=""):
        await until(lambda: len(recorder.got) == 2_000)


async def test_webhooks_that_are_claimed_without_the_clock_keep_to_the_rate(client: Redis, prefix: str) -> None:
    store = await Store.open(Servers(client), prefix=prefix, partitions=4)
    environ = {"DELAYBOX_CATCH_UP_RATE": "200", "DELAYBOX_WEBHOOKS_ENABLED": "true"}
    of_node = specs(load(environ=environ).config, "test", lambda _: 1.0, {})
    (settings,) = [spec.settings for spec in of_node if spec.kind is ProcessKind.WEBHOOK]
    assert isinstance(settings, WebhookSettings)
    now = await store.ping()
    for tag in store.tags:
        await client.hset(keys.clock(tag), "wake:h", now)
    await overdue(store, 600, by_ms=600_000, task_type=TaskType.HTTP)
    assert sum([await client.zcard(keys.near(tag, n, "h")) for tag in store.tags for n in range(4)]) == 600
    recorder = Recorder()
    async with running(store, {}, channel="c", catch_up_rate=200):
        engine = Engine(store, {TaskType.HTTP: recorder}, engine_options(settings))
        await engine.start()
        try:
            await until(lambda: len(recorder.got) == 600)
        finally:
            await engine.stop(1.0)
    took_ms = recorder.got[-1][0] - recorder.got[0][0]
    assert took_ms > 0.8 * 600 / 200 * 1_000


async def test_a_backlog_is_taken_at_the_rate_where_queues_have_weights(client: Redis, prefix: str) -> None:
    store = await Store.open(Servers(client), prefix=prefix, partitions=4)
    await Rules(store).set("mail", QueueRules(weight=2.0))
    await overdue(store, 400, by_ms=60_000, task_type=WORKER)
    recorder = Recorder()
    async with running(store, {WORKER: recorder}, channel="", catch_up_rate=400, concurrency=10):
        await until(lambda: len(recorder.got) == 400)
