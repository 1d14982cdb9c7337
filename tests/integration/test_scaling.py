"""What is needed, read from a real store: what the forecast shows, what nobody took, and what members report."""

from __future__ import annotations

import os

import pytest
from redis.asyncio import Redis

from delaybox.core.limit_keys import KeyLimit
from delaybox.core.membership import Activity, ConnectedWorker, Member
from delaybox.core.needs import WorkerNeeds
from delaybox.core.queue import QueueRules
from delaybox.core.scaling import ScalingQuery
from delaybox.core.task import NewTask, TaskType
from delaybox.core.webhook import Webhook
from delaybox.service import Service
from delaybox.store import nodes
from delaybox.store.lanes import all_waiting
from delaybox.store.servers import Servers
from delaybox.store.store import ClaimLimits, Store
from delaybox.store.upcoming import upcoming

TO = Webhook("https://example.com/hook")


async def _open(client: Redis, prefix: str) -> tuple[Store, Service, int]:
    store = await Store.open(Servers(client), prefix=prefix, partitions=2)
    for partition in range(2):
        await store.expand(partition, lead_ms=60_000)
    return store, Service(store), await store.ping()


def _worker(name: str, queue: str, due_ms: int) -> NewTask:
    return NewTask(type=TaskType.WORKER, name=name, queue=queue, due_ms=due_ms)


async def test_the_coming_steps_are_counted_exactly(client: Redis, prefix: str) -> None:
    store, service, now = await _open(client, prefix)
    tasks = [NewTask(due_ms=now + 15_000) for _ in range(30)]
    tasks += [_worker("send", "mail", now + 25_000) for _ in range(20)]
    tasks += [NewTask(due_ms=now + 45_000 + i) for i in range(7)]
    # Without a process that sends webhooks their tasks would lie among those of time keepers.
    await store.claim(0, os.urandom(16), ClaimLimits(types="h", guest=True, slots=1))
    await store.claim(1, os.urandom(16), ClaimLimits(types="h", guest=True, slots=1))
    tasks += [NewTask(type=TaskType.HTTP, webhook=TO, due_ms=now + 35_000) for _ in range(9)]
    await service.submit_many(tasks)
    found = await upcoming(store, 10_000, 6)
    assert found.steps == (0, 30, 20, 9, 7, 0)
    assert found.workers == (0, 0, 20, 0, 0, 0)
    assert found.hooks == (0, 0, 0, 9, 0, 0)


async def test_what_lies_behind_the_horizon_is_counted_by_buckets(client: Redis, prefix: str) -> None:
    store, service, now = await _open(client, prefix)
    # Over a minute, so that some are due within ten minutes and some later, wherever the minutes of the buckets begin.
    await service.submit_many([NewTask(due_ms=now + 570_000 + 120 * i) for i in range(500)])
    found = await upcoming(store, 60_000, 20)
    assert sum(found.steps) == 500
    # A minute's bucket reaches over two steps at most.
    assert sum(found.steps[8:12]) == 500
    soon = await service.due_soon()
    assert soon["10s"] == soon["1m"] == 0 < soon["10m"] < 500


async def test_workers_of_a_queue_are_needed_for_what_is_due_for_them(client: Redis, prefix: str) -> None:
    store, service, now = await _open(client, prefix)
    member = Member(
        id="n1.grpc1",
        node="n1",
        kind="grpc",
        seen_ms=now,
        started_ms=now,
        activity=Activity(
            types="w",
            lanes=(b"wmail:send",),
            lane_count=1,
            # One worker with functions of two kinds has two sessions.
            workers=(ConnectedWorker(identity="a", concurrency=6), ConnectedWorker(identity="a", concurrency=2)),
            worker_count=2,
            service_ms={"wmail:send": 200.0},
        ),
    )
    await nodes.beat(store, member)
    tasks = [_worker("send", "mail", now + 22_500 + i) for i in range(300)]
    tasks += [_worker("other", "reports", now + 22_500 + i) for i in range(100)]
    await service.submit_many(tasks)
    (need,) = (await service.scaling(ScalingQuery(queue="mail"))).needs
    (load,) = need.loads
    assert (load.name, load.due, load.service_ms, load.measured) == ("mail:send", 300, 200.0, True)
    # All within one step of 5 s (or two, on a busy machine): up to 60 a second of 0.2 s each, at 0.7 use.
    assert 30.0 <= load.busiest_per_s <= 60.0
    assert need.places >= 30 * 0.2 / 0.7
    assert (need.running, need.places_each) == (1, 8.0)
    assert need.members == -(-need.places // 8)
    (asked,) = (await service.scaling(ScalingQuery(function="send", places=1))).needs
    assert asked.members >= 9
    (none,) = (await service.scaling(ScalingQuery(queue="nothing"))).needs
    assert (none.members, none.places, none.loads) == (0, 0.0, ())


async def test_a_task_that_costs_several_places_counts_as_so_many(client: Redis, prefix: str) -> None:
    store, service, now = await _open(client, prefix)
    measured = {"wfilm:render": 200.0, "wfilm:render!4!gpu": 1_000.0}
    worker = ConnectedWorker(identity="a", concurrency=8)
    activity = Activity(types="w", lanes=(b"wfilm:render",), workers=(worker,), service_ms=measured)
    member = Member(id="n1.grpc1", node="n1", kind="grpc", seen_ms=now, started_ms=now, activity=activity)
    await nodes.beat(store, member)
    large = NewTask(type=TaskType.WORKER, name="render", queue="film", needs=WorkerNeeds(4, ("gpu",)))
    unknown = NewTask(type=TaskType.WORKER, name="cut", queue="film", needs=WorkerNeeds(2))
    await service.submit_many([large] * 30 + [unknown] * 30 + [_worker("render", "film", 0)] * 30)
    (need,) = (await service.scaling(ScalingQuery(queue="film"))).needs
    # A lane of which nothing was measured costs what its like cost: here (200 + 1,000) / 2 ms.
    assert {load.name: (load.backlog, load.service_ms, load.measured) for load in need.loads} == {
        "film:render": (30, 200.0, True),
        "film:render (needs label gpu and 4 places)": (30, 4_000.0, True),
        "film:cut (needs 2 places)": (30, 1_200.0, False),
    }
    # 90 due tasks are to be gone within 30 s: one a second of each sort.
    assert need.places == pytest.approx((0.2 + 4.0 + 1.2) / 0.7, abs=0.01)
    assert need.members == 1


async def test_a_backlog_and_tasks_at_once_count_before_any_forecast(client: Redis, prefix: str) -> None:
    store, service, _ = await _open(client, prefix)
    await service.submit_many([_worker("send", "mail", 0) for _ in range(90)])
    # Some 90 in the second since the store was opened, or in several on a busy machine; shown by the heartbeat of the
    # process that stored them.
    assert store.unforeseen.per_second(10)["wmail:send"] > 4
    (need,) = (await service.scaling(ScalingQuery(queue="mail", places=1))).needs
    (load,) = need.loads
    assert load.backlog == 90 and not load.measured
    # 90 within 30 s, of 0.1 s each as assumed.
    assert need.places == round(3 * 0.1 / 0.7, 3)


async def test_processes_are_needed_by_what_a_task_costs_them(client: Redis, prefix: str) -> None:
    store, service, now = await _open(client, prefix)
    clock = Member(
        id="n1.clock1", node="n1", kind="clock", seen_ms=now, started_ms=now, cores=0.54, start_ms=45_000,
        activity=Activity(types="p", fired_per_s={"p": 1_000.0}, unforeseen_per_s={"p": 1_000.0}),
    )  # fmt: skip
    await nodes.beat(store, clock)
    found = await service.scaling(ScalingQuery())
    # The lead is at least what a process takes to start.
    assert found.lead_ms == 45_000
    assert [need.kind for need in found.needs] == ["clock", "grpc", "rest"]
    load = found.needs[0].loads[0]
    assert (load.service_ms, load.measured, load.unforeseen_per_s) == (0.5, True, 1_000.0)
    assert (found.needs[0].running, found.needs[0].places, found.needs[0].members) == (1, 0.714, 1)


async def test_what_limits_hold_up_counts_as_far_as_they_let_it_run(client: Redis, prefix: str) -> None:
    store, service, _ = await _open(client, prefix)
    await service.rules.set("mail", QueueRules(concurrency=1))
    await service.rules.set("later", QueueRules(paused=True))
    await service.submit_many([_worker("send", queue, 0) for queue in ("mail", "later") for _ in range(100)])
    for partition in range(2):
        # Nobody deals permits, so all is held up.
        claimed = await store.claim(partition, os.urandom(16), ClaimLimits(types="w", guest=True, slots=50))
        assert not claimed.leased
    (mail,) = (await service.scaling(ScalingQuery(queue="mail", places=1, clear_ms=5_000))).needs
    assert [(load.name, load.backlog, load.most) for load in mail.loads] == [("mail:send", 100, 1.0)]
    # Without the limit 100 in 5 s, of 0.1 s each as assumed, would need 2.857.
    assert (mail.places, mail.members) == (1.0, 1)
    (later,) = (await service.scaling(ScalingQuery(queue="later", places=1))).needs
    assert [(load.name, load.backlog, load.most) for load in later.loads] == [("later:send", 100, 0.0)]
    assert (later.places, later.members) == (0.0, 0)


async def test_tasks_that_wait_for_their_limit_key_need_no_workers(client: Redis, prefix: str) -> None:
    """A backlog of one customer asked for as many workers as if all of it could begin."""
    store, service, _ = await _open(client, prefix)
    await service.rules.set("mail", QueueRules(keys=(KeyLimit(by="label:customer", concurrency=1),)))
    for name in ("a", "b"):
        task = NewTask(type=TaskType.WORKER, name="send", queue="mail", due_ms=0, labels={"customer": name})
        await service.submit_many([task] * 300)
    for partition in range(2):
        # Nobody deals permits, so both keys have none.
        claimed = await store.claim(partition, os.urandom(16), ClaimLimits(types="w", guest=True, slots=500))
        assert not claimed.leased
    found = await all_waiting(store, await store.ping())
    lane = b"wmail:send"
    assert (found.apart[lane], found.waiting_keys[lane], found.held[lane]) == (600, 2, 0)
    await service.submit_many([_worker("send", "mail", 0)])
    (need,) = (await service.scaling(ScalingQuery(queue="mail", places=1, clear_ms=5_000))).needs
    # One of each key, and the one without a key. 601 in 5 s, of 0.1 s each as assumed, would need 17.2.
    assert [load.backlog for load in need.loads] == [3] and (need.places, need.members) == (0.086, 1)


async def test_what_workers_run_needs_its_places(client: Redis, prefix: str) -> None:
    store, service, now = await _open(client, prefix)
    worker = ConnectedWorker(identity="a", concurrency=8, running=5)
    activity = Activity(
        types="w", lanes=(b"wfilm:render",), workers=(worker,), running={"wfilm:render": 3, "wfilm:cut!2": 2}
    )
    await nodes.beat(store, Member(id="g", node="n", kind="grpc", seen_ms=now, started_ms=now, activity=activity))
    (need,) = (await service.scaling(ScalingQuery(queue="film", places=2))).needs
    assert {load.name: load.occupied for load in need.loads} == {"film:render": 3.0, "film:cut (needs 2 places)": 4.0}
    assert (need.places, need.members) == (7.0, 4)


async def test_what_waits_for_others_or_for_a_limit_needs_no_time_keeper(client: Redis, prefix: str) -> None:
    store, service, now = await _open(client, prefix)
    await service.rules.set("slow", QueueRules(paused=True))
    clock = Member(id="c", node="n", kind="clock", seen_ms=now, started_ms=now, activity=Activity(types="p"))
    hooks = Activity(types="h", claims_due="h", fired_per_s={"h": 500.0})
    sends = Member(id="h", node="n", kind="webhook", seen_ms=now, started_ms=now, cores=0.29, activity=hooks)
    for member in (clock, sends):
        await nodes.beat(store, member)
    await store.claim(0, os.urandom(16), ClaimLimits(types="h", guest=True, slots=1))
    await store.claim(1, os.urandom(16), ClaimLimits(types="h", guest=True, slots=1))
    due = [NewTask(type=TaskType.HTTP, webhook=TO)] * 40 + [NewTask(type=TaskType.SHELL_CMD, payload=b"true")] * 30
    due += [NewTask(queue="slow")] * 20 + [NewTask()] * 7
    soon = [NewTask(type=TaskType.HTTP, webhook=TO, due_ms=now + 20_000)] * 60
    await service.submit_many([*due, *soon])
    for partition in range(2):
        # Makes ready what others carry out, and parks what is paused; without a channel it fires nothing.
        await store.claim(partition, os.urandom(16), ClaimLimits(types="", slots=0, items=100))
    by_kind = {need.kind: need.loads[0] for need in (await service.scaling(ScalingQuery())).needs}
    assert (by_kind["clock"].backlog, by_kind["clock"].due) == (7, 0)
    webhook = by_kind["webhook"]
    assert (webhook.name, webhook.backlog, webhook.due) == ("webhooks", 40, 60)
    assert (webhook.service_ms, webhook.measured) == (0.5, True)
