"""Queues with limits in which tasks wait that nobody serves: these take no permits from the others."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from redis.asyncio import Redis

from delaybox.core.lane import lane_of
from delaybox.core.limit_keys import KeyLimit
from delaybox.core.membership import Activity, ConnectedWorker, Member
from delaybox.core.needs import NO_NEEDS, WorkerNeeds
from delaybox.core.query import TaskQuery
from delaybox.core.queue import LiveRules, QueueRules
from delaybox.core.queue_limits import rate_of
from delaybox.core.task import NewTask, TaskType
from delaybox.engine.clock_estimate import Clocks
from delaybox.engine.engine import Engine
from delaybox.engine.options import EngineOptions
from delaybox.engine.ownership import Ownership
from delaybox.engine.permit_dealer import _MOST_ABLE, PermitDealer
from delaybox.service import Selection, Service
from delaybox.service.rules import Rules
from delaybox.service.served import Served
from delaybox.store import rules
from delaybox.store.leases import new_lease
from delaybox.store.permits import MOST_UNABLE
from delaybox.store.record import draft
from delaybox.store.servers import Servers
from delaybox.store.store import Batch, ClaimLimits, Store
from tests.engines import Recorder, until

PARTITIONS = 4


def lane(name: str, needs: WorkerNeeds = NO_NEEDS) -> bytes:
    return lane_of(TaskType.WORKER, "mail", name + needs.text())


async def add(store: Store, name: str, count: int, needs: WorkerNeeds = NO_NEEDS) -> None:
    """So many in each partition."""
    new = NewTask(type=TaskType.WORKER, queue="mail", name=name, labels={"customer": "42"}, needs=needs)
    for answer in await store.schedule([Batch(p, [draft(new)] * count) for p in range(PARTITIONS)]):
        assert not isinstance(answer, BaseException), answer


@asynccontextmanager
async def serving(store: Store, *names: str, needs: WorkerNeeds = NO_NEEDS, **labels: str) -> AsyncIterator[Recorder]:
    """A member with one worker, which has these functions and labels. ``needs``: it has met tasks with these."""
    lanes = (*map(lane, names), *(lane(name, needs) for name in names if needs != NO_NEEDS))
    worker = ConnectedWorker(concurrency=9, labels=labels)
    activity = Activity(types="w", lanes=lanes, lane_count=len(lanes), workers=(worker,), worker_count=1)
    target = Recorder()
    engine = Engine(store, {}, EngineOptions(node_id="-".join([*names, *labels])), hosts=True, facts=lambda: activity)
    await engine.start()
    try:
        engine.admit(lanes=lanes, target=target, room=lambda: 9)
        yield target
    finally:
        await engine.stop(0.0)


LIMITS = [
    QueueRules(concurrency=1),
    QueueRules(rate=rate_of("20/s"), burst=1),
    QueueRules(keys=(KeyLimit(by="label:customer", concurrency=1),)),
]


@pytest.mark.parametrize("limits", LIMITS, ids=["concurrency", "rate", "key"])
async def test_what_nobody_serves_holds_up_nothing(client: Redis, prefix: str, limits: QueueRules) -> None:
    """The permits went to the partitions whose tasks had waited longest, and stayed there: nobody used them."""
    store = await Store.open(Servers(client), prefix=prefix, partitions=PARTITIONS)
    await Rules(store).set("mail", limits)
    await add(store, "nobodys", 3)
    await add(store, "send", 2)
    async with AsyncExitStack() as members:
        mine = await members.enter_async_context(serving(store, "send"))
        await until(lambda: len(mine.got) == 2 * PARTITIONS)
        # Now somebody does.
        others = await members.enter_async_context(serving(store, "nobodys"))
        await add(store, "send", 2)
        await until(lambda: len(others.got) == 3 * PARTITIONS and len(mine.got) == 4 * PARTITIONS)


LACKING = [WorkerNeeds(requires=("gpu",)), WorkerNeeds(cost=10)]


@pytest.mark.parametrize("needs", LACKING, ids=["label", "places"])
@pytest.mark.parametrize("limits", LIMITS, ids=["concurrency", "rate", "key"])
async def test_what_no_worker_can_run_holds_up_nothing(
    client: Redis, prefix: str, limits: QueueRules, needs: WorkerNeeds
) -> None:
    """A label that no worker has, misspelt perhaps: the limit's permits went to the partitions in which such tasks of a
    function that is served had waited longest, and the queue stood still."""
    store = await Store.open(Servers(client), prefix=prefix, partitions=PARTITIONS)
    await Rules(store).set("mail", limits)
    await add(store, "send", 3, needs)
    await add(store, "send", 2)
    async with AsyncExitStack() as members:
        mine = await members.enter_async_context(serving(store, "send"))
        await until(lambda: len(mine.got) == 2 * PARTITIONS)
        if not needs.requires:
            return
        # Now somebody can.
        able = await members.enter_async_context(serving(store, "send", needs=needs, gpu="1"))
        await until(lambda: len(able.got) == 3 * PARTITIONS)
        assert len(mine.got) == 2 * PARTITIONS


async def test_lanes_that_nobody_can_run_are_bounded_and_looked_at_again(client: Redis, prefix: str) -> None:
    store = await Store.open(Servers(client), prefix=prefix, partitions=PARTITIONS)
    dealer = PermitDealer(store, LiveRules(), Ownership(PARTITIONS), Clocks(lambda: store.shards.of), keeps=False)
    many = [lane("send", WorkerNeeds(requires=(f"host={n}",))) for n in range(MOST_UNABLE + 1)]
    # As long as nobody has said what is served, all is.
    assert not dealer._note_unable(many)
    worker = ConnectedWorker(concurrency=9, labels={"host": "3"})
    activity = Activity(types="w", lanes=(lane("send"),), lane_count=1, workers=(worker,), worker_count=1)
    dealer.listed([Member(id="a", seen_ms=1, activity=activity)])
    assert dealer._note_unable([many[3], lane("send") + b"!1!of!a!newer!version"]) == set()
    assert dealer._note_unable(many) == {b"mail"}
    assert len(dealer._unable) == MOST_UNABLE and many[3] not in dealer._unable
    able = [lane("send", WorkerNeeds(requires=("host=3",), prefers=(f"zone={n}",))) for n in range(_MOST_ABLE + 1)]
    assert dealer._note_unable(able[:_MOST_ABLE]) == dealer._note_unable(able[_MOST_ABLE:]) == set()
    assert len(dealer._able) == _MOST_ABLE and able[-1] not in dealer._able
    assert dealer._note_unable(many) == set()
    # What is known has an end.
    dealer._unable |= dict.fromkeys(many[:100], 0.0)
    dealer.listed([Member(id="a", seen_ms=1, activity=activity)])
    assert dealer._unable.keys() == set(many[100:])
    # Commands need places alone.
    dealer.listed([Member(id="a", seen_ms=1, activity=Activity(types="s", places={"s": 2}))])
    two, three = (lane_of(TaskType.SHELL_CMD, "shop", f"backup!{cost}") for cost in (2, 3))
    assert dealer._note_unable([two]) == set() and dealer._note_unable([three]) == {b"shop"}


async def test_what_comes_back_where_nobodys_tasks_wait_goes_to_others_at_once(client: Redis, prefix: str) -> None:
    """It waited for the sweep, up to a second later: the store takes what waits there for what uses it next."""
    store = await Store.open(Servers(client), prefix=prefix, partitions=PARTITIONS)
    await Rules(store).set("mail", QueueRules(concurrency=1))
    await add(store, "nobodys", 1)
    live = LiveRules()
    number, found = await rules.every(store, {})
    live.take(number, {queue: one.rules for queue, one in found.items()})
    dealer = PermitDealer(store, live, Ownership(PARTITIONS), Clocks(lambda: store.shards.of), keeps=False)
    mine: Any = SimpleNamespace(lane=lane("send"), limit_keys=())
    other: Any = SimpleNamespace(lane=lane_of(TaskType.WORKER, "other", "send"), limit_keys=())
    dealer.came_back_of(0, [mine])
    assert not dealer._due
    dealer.listed([Member(id="a", seen_ms=1, activity=Activity(types="w", lanes=(lane("send"),), lane_count=1))])
    for p in range(PARTITIONS):
        await store.claim(p, new_lease(15_000), ClaimLimits(slots=0, types="w"))
    await dealer._settle({1: {b"cmail": None}}, [])
    dealer.came_back_of(0, [other])
    assert not dealer._due
    dealer.came_back_of(0, [mine])
    assert set(dealer._due) == {0}
    # The last one of these is gone.
    dealer._due.clear()
    await Service(store).bulk.cancel(Selection(wanted=TaskQuery(queue="mail")))
    await dealer._settle({1: {b"cmail": None}}, [])
    dealer.came_back_of(0, [mine])
    assert not dealer._due


async def test_lists_say_that_nobody_serves_a_task(client: Redis, prefix: str) -> None:
    """They said that the queue has limits, or nothing; the task alone said why it waits."""
    store = await Store.open(Servers(client), prefix=prefix, partitions=PARTITIONS)
    await add(store, "nobodys", 1)
    for limits in (QueueRules(), QueueRules(concurrency=1)):
        await Rules(store).set("mail", limits)
        found = (await Service(store).list_tasks(TaskQuery(queue="mail"), limit=10)).items
        reasons = {one.reason for one in found}
        assert reasons == {"waits: no connected worker serves function 'nobodys' of queue 'mail'"}
    assert {(await Service(store).get(one.task_id)).reason for one in found} == reasons


def served(*activities: Activity) -> Sequence[bytes]:
    members: list[Any] = [Member(id=str(n), seen_ms=1, activity=activity) for n, activity in enumerate(activities)]
    return Served.by(members).lanes()


def test_which_lanes_are_served() -> None:
    assert served() == [b"h!", b"s!", b"w!"]
    commands = Activity(types="sh", limits=(b"s*:backup",))
    assert served(commands) == [b"s!", b"s*:backup", b"w!"]
    worker = Activity(types="w", lanes=(lane("send"),), lane_count=1)
    assert served(commands, worker) == [b"s!", b"s*:backup", b"w!", lane("send")]
    # Some of its lanes are not known, or it takes all.
    for unknown in (Activity(types="w", lanes=(lane("a"),), lane_count=2), Activity(types="w")):
        assert served(commands, worker, unknown) == [b"s!", b"s*:backup"]
