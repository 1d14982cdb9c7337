"""A process whose workers take nothing more hands its lanes over at once, however long they have work."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from delaybox.core.lane import lane_of
from delaybox.core.queue import RuleBook
from delaybox.core.task import NewTask, TaskType
from delaybox.engine import leftovers
from delaybox.engine.calls import WorkerCalls
from delaybox.engine.options import EngineOptions
from delaybox.roles.worker_host import WorkerHost
from delaybox.store.record import draft
from delaybox.store.servers import Servers
from delaybox.store.store import Batch, Store
from delaybox.targets.worker_profile import Profile
from delaybox.targets.worker_session import WorkerSession
from delaybox.wire.gen import worker_pb2
from tests.engines import running, until

PARTITIONS = 8
LANE = lane_of(TaskType.WORKER, "mail", "send")
PLACES = 100


class Side:
    """A process that serves workers, with one connected that ends nothing."""

    def __init__(self, store: Store, name: str) -> None:
        options = EngineOptions(node_id=name, node=name, kind="grpc", clock=False, channel="")
        facts = lambda gateway: gateway.activity()  # noqa: E731
        self.host = WorkerHost(store, options, queues=RuleBook(), max_output=1_000, facts=facts)

    async def connect(self) -> WorkerSession:
        self.session = self.host.gateway.open(Profile(lanes=frozenset([LANE]), concurrency=PLACES))
        self.session.receive(worker_pb2.FromWorker(number=1, credit=PLACES))
        self.host.gateway.received(self.session)
        return self.session

    def knows_both(self) -> bool:
        placement = self.host.engine._placement
        return placement.known and placement.count == 2


async def put(store: Store) -> None:
    """One task in each partition, due now."""
    for answer in await store.schedule(
        [Batch(p, [draft(NewTask(type=TaskType.WORKER, queue="mail", name="send"))]) for p in range(PARTITIONS)]
    ):
        assert not isinstance(answer, BaseException), answer


@pytest.fixture
async def sides(client: Redis, prefix: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Store, Side, Side]]:
    # Nobody helps: what a process does not claim from its share nobody claims.
    monkeypatch.setattr(leftovers, "LATE_MS", 10**9)
    monkeypatch.setattr(WorkerCalls, "ask", lambda *_: None)
    stores = [await Store.open(Servers(client), prefix=prefix, partitions=PARTITIONS) for _ in range(3)]
    async with running(stores[0], {}, node_id="keeper", node="keeper", kind="clock", roles=("clock",)):
        both = Side(stores[1], "one"), Side(stores[2], "two")
        async with contextlib.AsyncExitStack() as stack:
            for side in both:
                await side.host.start()
                stack.push_async_callback(side.host.stop)
                await side.connect()
            await until(lambda: all(side.knows_both() for side in both))
            yield stores[0], *both


async def test_what_comes_due_while_one_finishes_its_tasks_others_claim(sides: tuple[Store, Side, Side]) -> None:
    store, ending, other = sides
    await put(store)
    await until(lambda: ending.session.held + other.session.held == PARTITIONS)
    assert ending.session.held and other.session.held, "each has a share"
    held = ending.session.held
    emptying = asyncio.create_task(ending.host.empty(600.0))
    await until(lambda: ending.session.room == 0)
    await put(store)
    await until(lambda: other.session.held == 2 * PARTITIONS - held)
    assert not emptying.done() and ending.session.held == held
    ending.session.receive(worker_pb2.FromWorker(number=2, done=range(1, held + 1)))
    ending.host.gateway.received(ending.session)
    assert await emptying


async def test_one_that_ends_claims_where_it_did_until_its_guests_are_dismissed(
    sides: tuple[Store, Side, Side],
) -> None:
    _, ending, other = sides
    engine = ending.host.engine
    mine = {p for p in range(PARTITIONS) if engine._placement.among(p, [LANE])}
    assert 0 < len(mine) < PARTITIONS
    seen: list[set[int]] = []
    dismiss = engine.dismiss

    async def dismissed(guest: object) -> None:
        await until(lambda: other.host.engine._placement.count == 1)
        seen.append({p for p in range(PARTITIONS) if engine._placement.among(p, [LANE])})
        await dismiss(guest)  # type: ignore[arg-type]

    engine.dismiss = dismissed  # type: ignore[method-assign]
    await ending.host.stop()
    assert seen == [mine]
