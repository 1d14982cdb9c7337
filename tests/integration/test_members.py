"""Several engines on one store: they share the partitions, and do each other's work where one does not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from redis.asyncio import Redis

from delaybox.core.delivery import DONE
from delaybox.core.lane import lane_of
from delaybox.core.membership import Activity, ConnectedWorker, Member
from delaybox.core.task import NewTask, TaskType
from delaybox.engine import handover, leftovers, lost_owners, stays
from delaybox.engine.calls import WorkerCalls
from delaybox.engine.engine import Engine
from delaybox.engine.lag import Lag
from delaybox.engine.loops import Loop
from delaybox.engine.options import EngineOptions
from delaybox.store import keys, nodes
from delaybox.store.record import draft
from delaybox.store.servers import Servers
from delaybox.store.store import Batch, Store
from delaybox.wire import body as wire_body
from tests.engines import Recorder, running, until
from tests.waiting import PATIENCE_S

PARTITIONS = 8
LANE = lane_of(TaskType.WORKER, "mail", "send")


async def opened(client: Redis, prefix: str, calls: list[str] | None = None) -> Store:
    observe: Callable[[str, float], None] | None = None
    if calls is not None:
        observe = lambda script, _: calls.append(script)  # noqa: E731
    return await Store.open(Servers(client), prefix=prefix, partitions=PARTITIONS, observe=observe)


def keeper(name: str) -> dict[str, Any]:
    return {"node_id": name, "node": name, "kind": "clock", "channel": "", "roles": ("clock",)}


async def put(store: Store, *tasks: NewTask) -> None:
    """One task each into every partition, in turn."""
    batches = [Batch(p, [draft(task) for task in tasks]) for p in range(store.partitions)]
    for answer in await store.schedule(batches):
        assert not isinstance(answer, BaseException), answer


def kept(*engines: Engine) -> list[frozenset[int]]:
    return [engine._ownership.kept for engine in engines]


async def test_engines_share_the_partitions_and_each_task_is_asked_for_once(
    client: Redis, prefix: str, monkeypatch: pytest.MonkeyPatch
):
    # On a slow machine a stand-in must not help.
    monkeypatch.setattr(lost_owners, "PATIENCE_MS", 60_000.0)
    store = await opened(client, prefix)
    one, two = Recorder(), Recorder()
    async with (
        running(store, {TaskType.PUB_SUB: one}, **keeper("a")) as a,
        running(store, {TaskType.PUB_SUB: two}, **keeper("b")) as b,
    ):
        await until(lambda: sorted(p for mine in kept(a, b) for p in mine) == list(range(PARTITIONS)))
        assert [len(mine) for mine in kept(a, b)] == [PARTITIONS // 2] * 2
        await put(store, NewTask(delay_ms=50))
        await until(lambda: len(one.got) + len(two.got) == PARTITIONS)
        assert {d.partition for _, d in one.got} == kept(a)[0]
        assert {d.partition for _, d in two.got} == kept(b)[0]


async def test_who_ends_hands_over_at_once(client: Redis, prefix: str):
    store = await opened(client, prefix)
    target = Recorder()
    async with running(store, {TaskType.PUB_SUB: target}, **keeper("a")) as a:
        async with running(store, {TaskType.PUB_SUB: target}, **keeper("b")) as b:
            await until(lambda: len(kept(a)[0]) == PARTITIONS // 2)
            ending = asyncio.create_task(b.stop(1.0))
            await until(lambda: len(kept(a)[0]) == PARTITIONS)
            silent = await client.zrange(f"{{{prefix}:nodes}}:silent", 0, -1)
            assert silent == [], "it is told by the list, and does not wait until the other one looks dead"
            await ending
        await put(store, NewTask())
        await until(lambda: len(target.got) == PARTITIONS)


async def test_a_stand_in_looks_where_the_owner_does_not(client: Redis, prefix: str):
    """The ghost is on the list, as one is that was killed a moment ago, and never claims."""
    store = await opened(client, prefix)
    target = Recorder()
    ghost = Member(id="ghost.clock0", node="ghost", kind="clock", host="elsewhere", seen_ms=await store.ping())

    async def haunts() -> None:
        while True:
            await nodes.beat(store, ghost)
            await asyncio.sleep(0.3)

    haunting = asyncio.create_task(haunts())
    async with running(store, {TaskType.PUB_SUB: target}, **keeper("a")) as a:
        await until(lambda: len(a._ownership.owned) == PARTITIONS // 2)
        await put(store, NewTask(delay_ms=100))
        await until(lambda: len(target.got) == PARTITIONS)
        assert len(a._ownership.stands_in) == PARTITIONS // 2
        haunting.cancel()
        # Once the list says that the ghost is silent its partitions have another owner.
        await until(lambda: len(a._ownership.owned) == PARTITIONS)


async def test_one_who_was_frozen_owns_nothing_before_it_is_punctual_again(client: Redis, prefix: str):
    store = await opened(client, prefix)
    async with running(store, {}, **keeper("a")) as a, running(store, {}, **keeper("b")) as b:
        await until(lambda: len(kept(a)[0]) == PARTITIONS // 2)
        await b._membership._loop.stop()  # as a process that stands still
        await until(lambda: len(a._ownership.owned) == PARTITIONS)
        b._membership._loop = Loop("heartbeat", b._membership._step)
        b._membership._loop.start()
        await until(lambda: len(b._ownership.owned) == 0)
        await until(lambda: len(b._ownership.owned) == PARTITIONS // 2)


class Sending:
    """Sends messages when it may; the partition and the payload of those that are sent."""

    def __init__(self, sent: list[tuple[int, bytes]]) -> None:
        self.sent = sent
        self.begun = asyncio.Event()
        self.may = asyncio.Event()
        self.may.set()
        self._turn = asyncio.Lock()

    async def deliver(self, batch: Sequence[Any], report: Any) -> None:
        self.begun.set()
        # One after the other, as a producer sends: a task that comes when it may begin would overtake those that wait.
        async with self._turn:
            await self.may.wait()
            for d in batch:
                self.sent.append((d.partition, wire_body.decode(d.body).payload))
                report([d], DONE)


@pytest.mark.parametrize("how", ["joins", "leaves"])
async def test_a_new_owner_sends_when_the_former_one_has_sent_all(
    client: Redis, prefix: str, how: str, monkeypatch: pytest.MonkeyPatch
):
    """Messages of one key, which lie in one partition, stay in order while it changes hands."""
    # On a slow machine the former owner must not look dead, nor an owner so late that its stand-in sends beside it.
    monkeypatch.setattr(handover, "SILENT_MS", 60_000)
    monkeypatch.setattr(handover, "STANDS_IN_MS", 60_000)
    store = await opened(client, prefix)
    sent: list[tuple[int, bytes]] = []
    one, two = Sending(sent), Sending(sent)
    number = 0

    async def put_everywhere(count: int) -> None:
        nonlocal number
        for _ in range(count):
            await put(store, NewTask(payload=b"%03d" % number))
            number += 1
            await asyncio.sleep(0.002)  # of tasks that are due in one millisecond none is the first

    async with running(store, {TaskType.PUB_SUB: one}, **keeper("a")) as a:
        if how == "joins":
            one.may.clear()
            await put_everywhere(1)
            await one.begun.wait()
            async with running(store, {TaskType.PUB_SUB: two}, **keeper("b")) as b:
                await until(lambda: len(kept(a)[0]) == PARTITIONS // 2)
                await put_everywhere(3)
                assert not two.begun.is_set()
                one.may.set()
                await until(lambda: len(sent) == 4 * PARTITIONS)
                assert two.begun.is_set() and kept(b)[0]
        else:
            async with running(store, {TaskType.PUB_SUB: two}, **keeper("b")) as b:
                await until(lambda: len(kept(a)[0]) == PARTITIONS // 2)
                await put_everywhere(1)
                await until(lambda: len(sent) == PARTITIONS)
                two.may.clear()
                two.begun.clear()
                await put_everywhere(1)
                await two.begun.wait()
                ending = asyncio.create_task(b.stop(5.0))
                await until(lambda: len(kept(a)[0]) == PARTITIONS)
                await put_everywhere(2)
                two.may.set()
                await until(lambda: len(sent) == 4 * PARTITIONS)
                await ending
    for p in range(PARTITIONS):
        of_one = [payload for partition, payload in sent if partition == p]
        assert of_one == sorted(of_one), p


async def test_if_nobody_else_is_left_one_that_just_returned_keeps_time(client: Redis, prefix: str):
    store = await opened(client, prefix)
    async with running(store, {}, **keeper("a")) as a:
        me = Member(id="a", kind="clock")
        await a.listed([Member(id="b", kind="clock")], [me])
        assert a._ownership.owned == frozenset()
        await a.listed([], [me])
        assert a._ownership.owned == frozenset(range(PARTITIONS))


async def test_who_carries_out_commands_asks_only_when_some_are_ready(client: Redis, prefix: str):
    """Tasks of others, which lie in the same indexes, cost it no claim."""
    calls: list[str] = []
    store, own = await opened(client, prefix), await opened(client, prefix, calls)
    others, commands = Recorder(), Recorder()
    aside: dict[str, Any] = {"node_id": "b", "node": "b", "kind": "work", "clock": False, "channel": ""}
    aside["poll_ms"] = 600_000
    async with (
        running(own, {TaskType.SHELL_CMD: commands}, **aside),
        running(store, {TaskType.PUB_SUB: others}, **keeper("a")),
    ):
        await put(store, NewTask(delay_ms=50), NewTask(delay_ms=100))
        await until(lambda: len(others.got) == 2 * PARTITIONS)
        assert calls.count("claim") <= PARTITIONS, "one each, when it began to listen"
        await put(store, NewTask(type=TaskType.SHELL_CMD, payload=b"true", delay_ms=50))
        await until(lambda: len(commands.got) == PARTITIONS)


async def test_ready_commands_are_announced_again(client: Redis, prefix: str):
    store = await opened(client, prefix)
    listener = client.pubsub()
    await listener.subscribe(keys.ready_channel(store.tags[0]))
    async with running(store, {}, **keeper("a")):
        await store.schedule([Batch(0, [draft(NewTask(type=TaskType.SHELL_CMD, payload=b"true"))])])
        announced = 0
        while announced < 2:
            message = await asyncio.wait_for(listener.get_message(timeout=None), PATIENCE_S)
            announced += message["type"] == "message"
    await listener.aclose()


class Pool:
    """Connected workers with so many places, that end what they got when they are told."""

    def __init__(self, places: int) -> None:
        self.places = places
        self.got: list[bytes] = []
        self.hold = False

    async def deliver(self, batch: Sequence[Any], report: Any) -> None:
        self.got += [d.task_id for d in batch]
        if not self.hold:
            report(batch, DONE)
        else:
            await asyncio.Event().wait()

    def has(self, count: int) -> Callable[[], bool]:
        return lambda: len(self.got) == count

    def room(self) -> int:
        return max(0, self.places - len(self.got)) if self.hold else self.places


@pytest.fixture
async def fleet(client: Redis, prefix: str):
    """A time keeper, and two gateways with a pool each that serve one lane; the scripts that the gateways run."""
    serving = Activity(
        types="w", lanes=(LANE,), lane_count=1, workers=(ConnectedWorker(concurrency=100),), worker_count=1
    )
    calls: list[str] = []
    store = await opened(client, prefix)
    gateways, pools = [], [Pool(100), Pool(100)]
    async with running(store, {}, **keeper("a")):
        for n, pool in enumerate(pools):
            options = EngineOptions(node_id=f"g{n}", node=f"g{n}", kind="grpc", clock=False, channel="")
            own = await opened(client, prefix, calls)
            engine = Engine(own, {}, options, hosts=True, facts=lambda: serving)
            await engine.start()
            engine.admit(lanes=[LANE], target=pool, room=pool.room)
            gateways.append(engine)
        await until(lambda: all(engine._placement.known and not engine._placement.alone for engine in gateways))
        yield store, calls, gateways, pools
        for engine in gateways:
            await engine.stop(0.0)


async def test_a_task_for_workers_is_asked_for_by_one_of_those_that_serve_it(
    fleet: Any, monkeypatch: pytest.MonkeyPatch
):
    store, calls, _, pools = fleet
    # On a slow machine nobody may be called to help.
    monkeypatch.setattr(WorkerCalls, "ask", lambda *_: None)
    monkeypatch.setattr(leftovers, "LATE_MS", 10**9)
    worker = NewTask(type=TaskType.WORKER, queue="mail", name="send", delay_ms=100)
    # A poll that was set before the list was known comes once more, and may come just now.
    for turn in range(1, 4):
        calls.clear()
        await put(store, worker)
        await until(lambda: sum(len(pool.got) for pool in pools) == turn * PARTITIONS)  # noqa: B023 - waited for at once
        if calls.count("claim") <= 2 * PARTITIONS:
            break
    assert all(pool.got for pool in pools), "both have their share"
    assert calls.count("claim") <= 2 * PARTITIONS, "of its placer"


async def test_what_a_busy_placer_has_no_room_for_goes_to_others(fleet: Any):
    store, _, _, (busy, idle) = fleet
    busy.hold, busy.places = True, 0
    await put(store, *[NewTask(type=TaskType.WORKER, queue="mail", name="send")] * 5)
    await until(lambda: len(idle.got) == 5 * PARTITIONS)
    assert not busy.got


async def test_who_was_called_stays_for_what_comes_due_next(fleet: Any, client: Redis, monkeypatch: pytest.MonkeyPatch):
    """Between two calls of a member without room nothing waits that was known before."""
    store, _, (full, _), (busy, idle) = fleet
    # There is one call alone, and no time keeper helps.
    monkeypatch.setattr(WorkerCalls, "ask", lambda *_: None)
    monkeypatch.setattr(leftovers, "LATE_MS", 10**9)
    monkeypatch.setattr(stays, "STAY_MS", 600_000.0)
    busy.hold, busy.places = True, 0
    p = next(p for p in range(PARTITIONS) if full._placement.among(p, [LANE]))
    tasks = [NewTask(type=TaskType.WORKER, queue="mail", name="send", delay_ms=100 * n) for n in range(4)]
    for answer in await store.schedule([Batch(p, [draft(task) for task in tasks])]):
        assert not isinstance(answer, BaseException), answer
    channel = keys.help_channel(store.prefix)

    async def both_listen() -> bool:
        ((_, count),) = await client.pubsub_numsub(channel)
        return int(count) == 2

    # The call is not repeated, so nobody may miss it.
    await until(both_listen)
    await store.servers.publish(channel, f"{await store.ping()} {p}")
    await until(lambda: len(idle.got) == 4)
    # Nor what is stored from now on, and due at once.
    for count in range(5, 8):
        (answers,) = await store.schedule([Batch(p, [draft(NewTask(type=TaskType.WORKER, queue="mail", name="send"))])])
        assert not isinstance(answers, BaseException), answers
        await until(idle.has(count))
    assert not busy.got


async def test_of_two_that_are_called_the_one_with_more_room_claims(fleet: Any, monkeypatch: pytest.MonkeyPatch):
    # On a busy machine both wake late, and one of them later.
    monkeypatch.setattr(Lag, "p99_ms", 0.0)
    store, _, (full, idle), (busy, other) = fleet
    busy.hold = True
    await put(store, *[NewTask(type=TaskType.WORKER, queue="mail", name="send")] * 3)
    await until(lambda: len(busy.got) + len(other.got) == 3 * PARTITIONS)

    async def shown() -> bool:
        found = await nodes.some(store, ["g0", "g1"])
        seen = [member and (member.activity.in_flight, member.lag_ms) for member in found]
        return seen == [(full.in_flight, 0.0), (0, 0.0)]

    await until(shown)
    called: list[str] = []
    for name, engine in (("full", full), ("idle", idle)):
        monkeypatch.setattr(engine._calls, "_claim", lambda _, name=name: called.append(name))
    seed = await store.ping()
    await store.servers.notify(keys.ready_workers(store.tags[0]), f"{seed} 0")
    # One claims at once. The other one looks a little later, and nothing waits there any more.
    await until(lambda: called == ["idle"])
    await until(lambda: not full._calls._tasks and not idle._calls._tasks)
    assert called == ["idle"]
    # If the first one does not claim, the second one finds what waits. Nobody claims here without being called.
    for engine in (full, idle):
        for guest in engine._guests:
            await guest.stop()
    called.clear()
    await put(store, NewTask(type=TaskType.WORKER, queue="mail", name="send"))
    await until(lambda: "full" in called)
    assert called[0] == "idle"


async def test_an_idle_pool_costs_no_claim(fleet: Any):
    store, calls, _, _ = fleet
    # A poll that was set before the list was known comes once more.
    for _ in range(3):
        calls.clear()
        before = await store.ping()
        while await store.ping() - before < 1_500:
            await asyncio.sleep(0.1)
        if "claim" not in calls:
            break
    assert set(calls) <= {"beat", "roster"}


async def test_a_placer_that_no_list_has_claims_everywhere(fleet: Any):
    """It was silent for a while, and may be the only one that is left."""
    _, _, gateways, _ = fleet
    (guest,) = gateways[0]._guests
    assert len(guest.partitions) < PARTITIONS
    gateways[0]._placement.assign([])
    assert guest.partitions == frozenset(range(PARTITIONS))


async def test_a_placer_that_is_gone_leaves_nothing(fleet: Any, client: Redis):
    """Its partitions are looked after by whoever is called."""
    store, _, gateways, (_, two) = fleet
    (guest,) = gateways[0]._guests
    await guest.stop()  # it is still on the list, and claims nothing
    worker = NewTask(type=TaskType.WORKER, queue="mail", name="send")
    await put(store, worker)
    await until(lambda: len(two.got) == PARTITIONS)
