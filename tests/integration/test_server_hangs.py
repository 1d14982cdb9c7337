"""One of several servers hangs: it is silent, and no time-out has passed yet. What concerns the others goes on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from redis.asyncio import Redis

from delaybox.core.errors import PartAway, StoreUnavailable
from delaybox.core.queue import LiveRules, QueueRules
from delaybox.core.task import NewTask, OnConflict, Submitted, TaskType
from delaybox.engine.clock_estimate import Clocks
from delaybox.engine.ownership import Ownership
from delaybox.engine.permit_dealer import PermitDealer
from delaybox.service import Service
from delaybox.service.arrivals import Arrivals
from delaybox.service.rules import Rules
from delaybox.service.turns import BEHIND
from delaybox.store import knowledge, rules
from delaybox.store.address import ServerSettings
from delaybox.store.knowledge import Knowledge
from delaybox.store.leases import new_lease
from delaybox.store.loader import ScriptCall
from delaybox.store.record import draft
from delaybox.store.servers import Command, Servers
from delaybox.store.store import Batch, ClaimLimits, Store
from tests.faults.harness.proxy import Proxy
from tests.servers import RealServer
from tests.waiting import until_async

PARTITIONS = 4


class TwoServers:
    """A store whose partitions lie by turns at two servers, of which the first one may hang."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store = store
        self.answers = asyncio.Event()
        self.answers.set()
        self.asked = 0
        """Round trips that reached the first server while it hung."""
        store.shards.of = [p % 2 for p in range(PARTITIONS)]
        store.shards.several = True
        first = [tag for p, tag in enumerate(store.tags) if p % 2 == 0]
        run_many, replies = store.runner.run_many, store.servers.replies

        async def at_first(tags: Sequence[str]) -> None:
            if not self.answers.is_set() and any(tag in text for text in tags for tag in first):
                self.asked += 1
                await self.answers.wait()

        async def some_run(calls: Sequence[ScriptCall]) -> list[Any]:
            await at_first([call.tag for call in calls])
            return await run_many(calls)

        async def some_read(commands: Sequence[Command]) -> list[Any]:
            await at_first([str(command[1:2]) for command in commands])
            return await replies(commands)

        monkeypatch.setattr(store.runner, "run_many", some_run)
        monkeypatch.setattr(store.servers, "replies", some_read)

    def key(self, partition: int, n: int) -> str:
        return next(k for i in range(1_000) if self.store.partition_of((k := f"{n}-{i}").encode()) == partition)


@pytest.fixture
async def two(client: Redis, prefix: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[TwoServers]:
    made = TwoServers(await Store.open(Servers(client), prefix=prefix, partitions=PARTITIONS), monkeypatch)
    yield made
    made.answers.set()


async def test_tasks_for_other_servers_are_stored(two: TwoServers) -> None:
    service = Service(two.store)
    await service.submit(NewTask())
    two.answers.clear()
    waiting = [asyncio.create_task(service.submit(NewTask(idempotency_key=two.key(0, n)))) for n in range(3)]
    await until_async(lambda: two.asked)
    waiting += [asyncio.create_task(service.submit(NewTask(idempotency_key=two.key(2, n)))) for n in range(3)]
    for n in range(6):
        assert (await service.submit(NewTask(idempotency_key=two.key(1 + n % 2 * 2, n)))).created
        assert (await service.submit(NewTask())).created, "one that may lie anywhere goes where it is taken"
    assert two.asked == 1, "nothing more is sent to a server before it has answered"
    assert not any(one.done() for one in waiting)
    two.answers.set()
    assert all(one.created for one in await asyncio.gather(*waiting))


async def test_what_waits_for_a_server_that_hangs_is_bounded(two: TwoServers) -> None:
    from delaybox.core.errors import Overloaded
    from delaybox.service.submit import Submitter

    submitter = Submitter(two.store, max_waiting=5)
    two.answers.clear()
    waiting = [asyncio.create_task(submitter.submit(NewTask(idempotency_key=two.key(0, 0))))]
    await until_async(lambda: two.asked)
    waiting += [asyncio.create_task(submitter.submit(NewTask(idempotency_key=two.key(0, n)))) for n in range(1, 6)]
    await until_async(lambda: submitter._held_count == 5)
    with pytest.raises(Overloaded):
        await submitter.submit(NewTask(idempotency_key=two.key(0, 6)))
    two.answers.set()
    assert all(one.created for one in await asyncio.gather(*waiting))
    assert submitter._held_count == 0


async def test_what_waited_for_a_server_is_stored_before_what_came_later(two: TwoServers) -> None:
    """It was put behind that: of two tasks that replace one another the former one stayed."""
    from delaybox.service.submit import Submitter

    class Held(Arrivals):
        """Callers that the store waits for, while it is told to."""

        over = asyncio.Event()

        async def wait(self) -> None:
            await self.over.wait()

    Held.over.set()
    submitter = Submitter(two.store, arriving=Held())
    two.answers.clear()
    waiting = [asyncio.create_task(submitter.submit(NewTask(idempotency_key=two.key(0, 0))))]
    await until_async(lambda: two.asked)

    def replacing(payload: bytes) -> asyncio.Task[Submitted]:
        new = NewTask(payload=payload, delay_ms=60_000, idempotency_key=two.key(0, 1), on_conflict=OnConflict.REPLACE)
        return asyncio.create_task(submitter.submit(new))

    waiting.append(replacing(b"former"))
    await until_async(lambda: submitter._held_count == 1)
    Held.over.clear()
    waiting.append(replacing(b"later"))
    await until_async(lambda: len(submitter._waiting) == 1)
    two.answers.set()
    await until_async(lambda: len(submitter._waiting) == 2)
    Held.over.set()
    _, former, later = await asyncio.gather(*waiting)
    assert former.task_id == later.task_id
    assert (await Service(two.store).get(later.task_id)).payload == b"later"


async def test_bulk_goes_to_the_other_after_some_batches(two: TwoServers) -> None:
    service = Service(two.store)
    two.answers.clear()
    calls = []
    for _ in range(12):
        asked = two.asked
        calls.append(call := asyncio.create_task(service.submit_many([NewTask() for _ in range(3)])))
        await until_async(lambda call=call, asked=asked: call.done() or two.asked > asked)  # type: ignore[misc]
    assert two.asked == BEHIND and sum(call.done() for call in calls) == 12 - BEHIND
    two.answers.set()
    answers = [answer for call in calls for answer in await call]
    assert len(answers) == 36 and all(isinstance(answer, Submitted) for answer in answers)


async def test_permits_are_dealt_at_the_others(two: TwoServers) -> None:
    store, live = two.store, LiveRules()
    dealer = PermitDealer(store, live, Ownership(PARTITIONS), Clocks(lambda: store.shards.of), keeps=True)
    # The record of its permits lies at the second server.
    name = next(name for name in map(str, range(1_000)) if store.partition_of(b"c" + name.encode()) == 1)
    await Rules(store).set(name, QueueRules(concurrency=2))
    for p in (0, 1):
        (answers,) = await store.schedule([Batch(p, [draft(NewTask(type=TaskType.SHELL_CMD, queue=name))])])
        assert not isinstance(answers, BaseException)
    number, found = await rules.every(store, {})
    live.take(number, {queue: one.rules for queue, one in found.items()})
    claims = ClaimLimits(slots=5, types="s")
    for p in (0, 1):
        dealer.waits(p, (await store.claim(p, new_lease(15_000), claims)).waits)
    two.answers.clear()

    async def took() -> bool:
        await dealer.step()
        return bool((await store.claim(1, new_lease(15_000), claims)).leased)

    await until_async(took)
    two.answers.set()

    async def took_here() -> bool:
        await dealer.step()
        return bool((await store.claim(0, new_lease(15_000), claims)).leased)

    await until_async(took_here)


async def test_what_the_others_hold_is_counted(two: TwoServers) -> None:
    service = Service(two.store)
    for p in range(PARTITIONS):
        await service.submit(NewTask(delay_ms=3_600_000, idempotency_key=two.key(p, 0)))
    counts = await service.counts_there()
    assert (counts.pending, counts.away) == (4, ())
    two.answers.clear()

    async def the_others_are() -> bool:
        # Also the other one may take longer to answer, once, than it is waited for.
        with contextlib.suppress(StoreUnavailable):
            counts = await service.counts_there()
            return (counts.pending, counts.away) == (2, (0, 2))
        return False

    await until_async(the_others_are)
    two.answers.set()
    await until_async(lambda: _all_counted(service))


async def _all_counted(service: Service) -> bool:
    return (await service.counts_there()).away == ()


class Read(Knowledge):
    """``error``: what a reading answers; None: it succeeds."""

    def __init__(self) -> None:
        super().__init__()
        self.readings = 0
        self.error: Exception | None = None
        self.answers = asyncio.Event()
        self.answers.set()

    async def _read(self) -> None:
        self.readings += 1
        await self.answers.wait()
        if self.error is not None:
            raise self.error

    def grow_old(self) -> None:
        self._until = 0.0


async def test_another_program_that_answers_in_the_servers_place_is_no_defect(server: RealServer, prefix: str) -> None:
    """Such as a proxy that takes calls for an address that is gone. It speaks no Redis."""

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    stranger = await asyncio.start_server(speak, "127.0.0.1", 0)
    door = Proxy(server.unix_path, seed=1)
    await door.listen_tcp()
    servers = Servers.connect(ServerSettings.from_url(f"redis://127.0.0.1:{door.port}"))
    service = Service(await Store.open(servers, prefix=prefix, partitions=2))
    try:
        await service.submit(NewTask(payload=b"before", idempotency_key="a"))
        door.lead_to(stranger.sockets[0].getsockname()[:2])
        door.reset_all()
        with pytest.raises(StoreUnavailable):
            await service.submit(NewTask(payload=b"there", idempotency_key="b"))
        door.lead_to(server.unix_path)
        await service.submit(NewTask(payload=b"there", idempotency_key="b"))
    finally:
        await servers.close()
        await door.close()
        stranger.close()


async def test_what_is_known_is_used_while_its_server_is_away() -> None:
    known = Read()
    known.error = PartAway("away")
    with pytest.raises(PartAway):
        await known.fresh()
    known.error = None
    await known.fresh()
    known.error = PartAway("away")
    known.grow_old()
    await known.fresh()
    readings = known.readings
    await known.fresh()
    assert known.readings == readings, "not for every task"
    known.grow_old()
    known._read_at -= knowledge.AWAY_S
    with pytest.raises(StoreUnavailable):
        await known.fresh()


async def test_a_reading_that_hangs_is_waited_for_once() -> None:
    known = Read()
    await known.fresh()
    known.grow_old()
    known.answers.clear()
    await asyncio.gather(*(known.fresh() for _ in range(5)))
    for _ in range(1_000):
        await known.fresh()
    assert known.readings == 2
    known.answers.set()
    await until_async(lambda: not known.stale)


async def test_who_knows_nothing_yet_waits() -> None:
    known = Read()
    known.answers.clear()
    waiting = [asyncio.create_task(known.fresh()) for _ in range(3)]
    await until_async(lambda: known.readings)
    waiting[0].cancel()
    for _ in range(20):
        await asyncio.sleep(0)
    assert not any(one.done() for one in waiting[1:])
    known.answers.set()
    await asyncio.gather(*waiting[1:])
    assert known.readings == 1
