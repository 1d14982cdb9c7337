"""Calls for members whose workers have room: who answers, and what happens when nobody does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from redis.asyncio import Redis

from delaybox.core.lane import lane_of
from delaybox.core.membership import Activity, ConnectedWorker, Member
from delaybox.core.placement import Server
from delaybox.core.task import NewTask, TaskType
from delaybox.engine import calls, stays
from delaybox.engine.calls import WorkerCalls
from delaybox.engine.clock_estimate import local_ms
from delaybox.engine.guest import Guest
from delaybox.engine.listener import Wakeups
from delaybox.engine.placement import Placement
from delaybox.store import keys, nodes
from delaybox.store.leases import new_lease
from delaybox.store.leftovers import Unclaimed, unclaimed
from delaybox.store.listening import Listening
from delaybox.store.record import draft
from delaybox.store.servers import Servers
from delaybox.store.store import Batch, ClaimLimits, Store
from tests.engines import until

SENDS, PRINTS = lane_of(TaskType.WORKER, "mail", "send"), lane_of(TaskType.WORKER, "mail", "print")


class Caller:
    """One member's part in calls. ``free``: the room of its workers, which run ``lanes``."""

    def __init__(self, store: Store, name: str, lanes: frozenset[bytes], free: int) -> None:
        self.name, self.lanes, self.room = name, lanes, free
        self.claimed: list[int] = []
        self.now_ms = 0
        self.placement = Placement(name, store.partitions)
        self.calls = WorkerCalls(
            store,
            self.placement,
            name,
            lambda: self.now_ms,
            self.claim,
            lambda lane: self.free(lane),
            room=lambda: self.room > 0,
        )
        self.wakeups = Wakeups(store, self)
        self.wakeups.want(left=[0])

    def claim(self, partition: int) -> bool:
        self.claimed.append(partition)
        return self.room > 0

    def free(self, lane: bytes) -> int:
        return self.room if lane in self.lanes else 0

    def asked(self, seed: int, partitions: Sequence[int]) -> None:
        self.calls.asked(seed, partitions)

    def all_asked(self, waiting: Sequence[tuple[int, bytes]]) -> None:
        self.calls.all_asked(waiting)

    def left(self, seed: int, waiting: int, partitions: Sequence[int]) -> None:
        self.calls.left(seed, waiting, partitions)

    def due(self, partition: int | None, due_ms: float, *, for_workers: bool) -> None: ...

    def hook_due(self, partition: int, due_ms: float) -> None: ...

    def ready(self, partition: int) -> None: ...

    def met(self, lanes: Sequence[bytes]) -> None: ...


class Hearing(Caller):
    """Counts the calls that came to it."""

    heard = 0

    def asked(self, seed: int, partitions: Sequence[int]) -> None:
        super().asked(seed, partitions)
        self.heard += 1


class Callers:
    """``a`` and ``b`` are full, ``c`` has room; ``d`` has room for other work, and so has ``e``."""

    def __init__(self, store: Store) -> None:
        self.store = store
        both = frozenset((SENDS, PRINTS))
        rooms = {"a": (frozenset((SENDS,)), 0), "b": (both, 0), "c": (both, 3), "d": (frozenset((PRINTS,)), 9)}
        rooms["e"] = rooms["d"]
        self.all = {name: Caller(store, name, *found) for name, found in rooms.items()}
        servers = [Server(one.name, 1, one.lanes) for one in self.all.values()]
        for one in self.all.values():
            one.placement.assign(servers)

    async def begin(self) -> None:
        now_ms = await self.store.ping()
        for one in self.all.values():
            workers = (ConnectedWorker(concurrency=max(one.room, 1)),)
            activity = Activity(workers=workers, worker_count=1, in_flight=0 if one.room else 1)
            await nodes.beat(self.store, Member(id=one.name, kind="grpc", seen_ms=now_ms, activity=activity))
            await one.wakeups.start()
        for answer in await self.store.schedule(
            [Batch(0, [draft(NewTask(type=TaskType.WORKER, queue="mail", name="send"))])]
        ):
            assert not isinstance(answer, BaseException), answer
        for one in self.all.values():
            one.now_ms = await self.store.ping()

    async def call(self, *pair: str) -> None:
        """Calls for help so that these two are drawn."""
        placement = self.all[pair[0]].placement
        seed = next(seed for seed in range(10**12, 10**12 + 1_000) if set(placement.drawn(seed, 0)) == set(pair))
        await self.store.servers.publish(keys.help_channel(self.store.prefix), f"{seed} 0")

    async def over(self) -> None:
        """When every call was answered."""
        await until(lambda: not any(one.calls._tasks for one in self.all.values()))


@pytest.fixture
async def callers(client: Redis, prefix: str) -> AsyncIterator[Callers]:
    made = Callers(await Store.open(Servers(client), prefix=prefix, partitions=1))
    await made.begin()
    yield made
    for one in made.all.values():
        one.calls.stop()
        await one.wakeups.stop()


@pytest.mark.parametrize("pair", ["ab", "de", "ad"], ids=["full", "of other work", "nothing in common"])
async def test_what_neither_of_two_takes_all_are_called_to_that_run_it(
    callers: Callers, pair: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Who stays does so until this test has looked.
    monkeypatch.setattr(stays, "STAY_MS", 3_600_000.0)
    found = callers.all
    await callers.call(*pair)
    await until(lambda: bool(found["c"].claimed))
    await callers.over()
    # Those that were called look by themselves, and the others have no room, or run something else.
    assert {name for name, one in found.items() if one.claimed} == {*pair, "c"}
    # Who has no room does not stay: it would call others to what it hears of.
    staying = {name for name, one in found.items() if one.calls.helping.partitions}
    assert staying == {name for name in (*pair, "c") if found[name].room}


async def test_all_are_called_to_a_lane_in_a_partition_once_in_a_while(
    callers: Callers, monkeypatch: pytest.MonkeyPatch
) -> None:
    published: list[str] = []
    publish = calls.publish

    async def noted(store: Store, channel: str, message: str) -> None:
        published.append(message)
        await publish(store, channel, message)

    monkeypatch.setattr(calls, "publish", noted)
    monkeypatch.setattr(calls, "ALL_AGAIN_MS", 60_000.0)
    await callers.call("a", "b")
    await until(lambda: bool(callers.all["c"].claimed))
    await callers.over()
    # By another one as well, because all receive the call.
    await callers.all["d"].calls._call_all([(0, SENDS), (0, PRINTS)])
    assert published == [f"0={SENDS.decode()}", f"0={PRINTS.decode()}"]


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The partitions that members called others to; nobody hears of them."""
    found: list[str] = []

    async def noted(_: Store, channel: str, message: str) -> None:
        found.append(message.partition(" ")[2])

    monkeypatch.setattr(calls, "publish", noted)
    return found


async def test_what_a_member_has_no_room_for_a_moment_after_its_last_call_it_calls_others_to_as_well(
    callers: Callers, published: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call came and was left out: the task waited until the owner of its partition called, 100 ms later."""
    full = callers.all["a"].calls
    for _ in range(3):
        full.ask([0])
    await until(lambda: not full._tasks)
    assert published == ["0", "0"]
    # What was taken meanwhile nobody is called to. However slow the machine is, it is taken before the look for it.
    is_taken = asyncio.Event()

    async def afterwards(store: Store, partitions: Sequence[int]) -> Any:
        await is_taken.wait()
        return await unclaimed(store, partitions)

    monkeypatch.setattr(calls, "unclaimed", afterwards)
    full._asked = local_ms()
    full.ask([0])
    limits = ClaimLimits(slots=1, types="w", lanes=(SENDS,), guest=True)
    taken = await callers.store.claim(0, new_lease(15_000), limits)
    assert len(taken.leased) == 2
    is_taken.set()
    await until(lambda: not full._tasks)
    assert published == ["0", "0"]


async def test_while_nobody_comes_others_are_called_less_and_less_often(callers: Callers) -> None:
    """Where all were full each called all others 20 times a second, after a look at all that waits."""
    full = callers.all["a"].calls

    async def called() -> int:
        full._unasked = {0: None}
        await full._ask_later(0.0)
        return full._slower

    full._asked_ms = await callers.store.ping()
    assert [await called() for _ in range(4)] == [2, 4, calls.SLOWEST, calls.SLOWEST]
    # What was due at the last call was taken, and what waits now is due since.
    full._asked_ms = 0
    assert await called() == 1
    assert await called() == 2
    full._asked = local_ms() - 5 * calls.ASK_AGAIN_MS
    full.ask([0])
    assert full._slower == 1, "there was room for a while"
    await callers.over()


async def test_that_a_few_partitions_are_empty_does_not_say_that_somebody_came(
    callers: Callers, published: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two nodes that both worked off a backlog called one another every 50 ms: each empties partitions itself."""
    full = callers.all["a"].calls

    async def called(*waits: bool) -> int:
        async def found(*_: Any) -> Any:
            return 0, [Unclaimed((SENDS,) if one else (), ()) for one in waits]

        monkeypatch.setattr(calls, "unclaimed", found)
        full._unasked = dict.fromkeys(range(len(waits)))
        await full._ask_later(0.0)
        return full._slower

    assert await called(True, True) == 2
    assert await called(True, False, True) == 4
    assert published.pop() == "0 2"
    assert await called(True, False) == 1


async def test_a_partition_is_lent_at_once_and_only_where_others_run_the_same(
    callers: Callers, published: list[str]
) -> None:
    full = callers.all["a"].calls
    full.ask([0])
    # Others are called to it right after a call for help, too: nobody else claims there from now on.
    assert full.lend(0, [SENDS]) and not full.lend(0, [SENDS]), "one in a while"
    await until(lambda: not full._tasks)
    assert published == ["0", "0"]
    full._lent = -1e9
    assert not full.lend(0, [SENDS, lane_of(TaskType.WORKER, "mail", "only_here")])


async def test_while_nobody_comes_partitions_are_lent_more_seldom_as_well(
    callers: Callers, published: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where all were full two of three calls were for a partition that was lent, to members without room."""
    hour = 3_600_000.0
    monkeypatch.setattr(calls, "ASK_AGAIN_MS", hour)
    full = callers.all["a"].calls
    full._slower, full._lent = calls.SLOWEST, local_ms() - 2 * hour
    assert not full.lend(0, [SENDS])
    full._slower = 1
    assert full.lend(0, [SENDS])
    full._slower, full._lent = calls.SLOWEST, local_ms() - calls.SLOWEST * hour
    assert full.lend(1, [SENDS])
    await until(lambda: not full._tasks)
    assert published == ["0", "1"]


async def test_who_takes_something_where_it_was_called_goes_on_to_listen_there(callers: Callers) -> None:
    """It did for a second after the call, though it goes on to look for as long as it finds something."""
    helps = callers.all["c"].calls
    helps.stays(0)
    until_s = helps.helping._until[0]
    assert helps.helping.partitions == {0}
    await asyncio.sleep(0)
    helps.stays(0)
    assert helps.helping._until[0] > until_s


async def test_of_very_many_partitions_without_room_each_is_named_in_the_end(
    client: Redis, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call named the lowest 64: the others waited until their owners called."""
    store = await Store.open(Servers(client), prefix=prefix, partitions=256)
    made = Callers(store)
    for answer in await store.schedule(
        [Batch(p, [draft(NewTask(type=TaskType.WORKER, queue="mail", name="send"))]) for p in range(256)]
    ):
        assert not isinstance(answer, BaseException), answer
    published: list[list[int]] = []

    async def noted(_: Store, channel: str, message: str) -> None:
        published.append([int(p) for p in message.split()[1:]])

    monkeypatch.setattr(calls, "publish", noted)
    full = made.all["a"].calls
    full.ask(list(range(240)))
    # These are as many again, and come while others wait to be named.
    full.ask(list(range(256)))
    await until(lambda: not full._tasks)
    assert sorted(p for named in published[1:] for p in named) == list(range(256))
    assert max(map(len, published)) == calls.MOST_NAMED


async def test_of_very_many_partitions_that_are_answered_later_none_is_left_out(
    client: Redis, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Callers(await Store.open(Servers(client), prefix=prefix, partitions=256))
    b = made.all["b"]
    seed = next(n for n in range(10**12, 10**12 + 1_000) if set(b.placement.drawn(n, 0)) == set("bc"))
    for at in range(0, 256, 64):
        b.calls.asked(seed, range(at, at + 64))
    b.room = 3
    await until(lambda: not b.calls._tasks)
    assert sorted(set(b.claimed)) == list(range(256))
    b.calls.stop()


async def test_one_without_room_answers_no_more_often_than_once_in_a_while(
    callers: Callers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a fleet that is full all call one another, 20 times a second each, and each answer read what waits."""
    looks: list[str] = []
    look = nodes.some

    async def noted(store: Store, pair: Sequence[str]) -> Any:
        looks.append(" ".join(pair))
        return await look(store, pair)

    monkeypatch.setattr(nodes, "some", noted)
    monkeypatch.setattr(calls, "FULL_AGAIN_MS", 60_000.0)
    b, c = callers.all["b"].calls, callers.all["c"].calls
    seed = next(n for n in range(10**12, 10**12 + 1_000) if set(callers.all["b"].placement.drawn(n, 0)) == set("bc"))
    for _ in range(5):
        b.asked(seed, [0])
        c.asked(seed, [0])
    await until(lambda: len(b._tasks | c._tasks) == 1)
    assert len(looks) == 1 + 5, "it answered once, and who has room each time"
    assert len(callers.all["b"].claimed) <= 1
    monkeypatch.setattr(calls, "FULL_AGAIN_MS", 0.0)
    b.asked(seed, [0])
    await until(lambda: len(b._tasks) == 1)
    assert len(looks) == 1 + 5 + 1


async def test_what_a_member_without_room_does_not_answer_at_once_it_answers_later(
    callers: Callers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a call was left out: a place that came free a moment later stayed empty until the next one."""
    monkeypatch.setattr(calls, "FULL_AGAIN_MS", 500.0)
    # What is seen again is not called to again, which would be another claim.
    monkeypatch.setattr(calls, "ALL_AGAIN_MS", 3_600_000.0)
    b, c = callers.all["b"], callers.all["c"]
    seed = next(n for n in range(10**12, 10**12 + 1_000) if set(b.placement.drawn(n, 0)) == set("bc"))
    b.calls.asked(seed, [0])
    await until(lambda: bool(c.claimed))
    await callers.over()
    before = len(b.claimed)
    b.calls._answered_full = local_ms()
    for _ in range(3):
        b.calls.asked(seed, [0])
    b.room = 3
    await until(lambda: len(b.claimed) > before)
    await callers.over()
    assert len(b.claimed) == before + 1, "once for all of them"


async def test_what_a_member_listens_to_already_is_not_subscribed_to_again(
    callers: Callers, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: list[int] = []

    async def noted(_: Listening, channels: Sequence[str]) -> None:
        changes.append(len(channels))

    monkeypatch.setattr(Listening, "change", noted)
    wakeups = callers.all["a"].wakeups
    for _ in range(3):
        wakeups.want(left=[0])
    wakeups.want(left=[0], for_workers={0})
    wakeups.want(left=[0], for_workers=frozenset((0,)))
    wakeups.want(left=[0])
    await until(lambda: len(changes) == 2)
    assert changes == [5, 4]


async def test_what_waits_is_read_with_its_lanes(callers: Callers) -> None:
    now_ms, (found,) = await unclaimed(callers.store, [0])
    ((due_ms, lane),) = found.near
    assert not found.ready and lane == SENDS and found.lanes(now_ms) == {SENDS}
    assert not found.lanes(due_ms - 1), "it came after the call"
    await callers.store.servers.ask("ZADD", keys.active(callers.store.tags[0], "w", critical=False), 1, PRINTS)
    _, (found,) = await unclaimed(callers.store, [0])
    assert found == Unclaimed((PRINTS,), ((due_ms, SENDS),)) and found.lanes(0) == {PRINTS}


@pytest.mark.parametrize(
    ("lane", "runs"),
    [(b"wmail:send", True), (b"wmail:send!1", True), (b"w:print", True), (b"wmail:print", True), (b"w:send", False)],
)
def test_a_guest_runs_its_lanes_whatever_a_task_needs(lane: bytes, runs: bool) -> None:
    guest: Any = SimpleNamespace(lanes=(b"wmail:send", b"w*:print"))
    assert Guest.runs(guest, lane) is runs


async def test_of_two_members_the_one_that_calls_does_not_answer(client: Redis, prefix: str):
    """Its call comes to itself as well. With a place that had just come free it took back what it had lent."""
    store = await Store.open(Servers(client), prefix=prefix, partitions=1)
    one, other = (Hearing(store, name, frozenset((SENDS,)), 3) for name in "ab")
    servers = [Server(member.name, 1, member.lanes) for member in (one, other)]
    for member in (one, other):
        member.placement.assign(servers)
        await member.wakeups.start()
    try:
        assert one.calls.lend(0, [SENDS])
        await until(lambda: one.heard == other.heard == 1)
        assert other.claimed == [0] and one.claimed == []
        # A call of the other one in the same words would be answered.
        assert other.calls.lend(0, [SENDS])
        await until(lambda: one.heard == other.heard == 2)
        assert other.claimed == [0] and one.claimed == [0]
        assert one.calls._sent == other.calls._sent == {}
    finally:
        for member in (one, other):
            member.calls.stop()
            await member.wakeups.stop()
