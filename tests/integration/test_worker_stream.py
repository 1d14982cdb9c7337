"""The Worker service over a real store: streams spoken by hand, as a worker in any language would."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import pytest
from redis.asyncio import Redis

from delaybox.core import ids
from delaybox.store.fsck import fsck
from delaybox.store.servers import Servers
from delaybox.store.store import Store
from delaybox.wire.gen import scheduler_pb2 as pb
from delaybox.wire.gen import worker_pb2 as wk
from tests.engines import running, until
from tests.rpc import Rpc, refused, rpc_process
from tests.servers import RealServer
from tests.waiting import PATIENCE_S


@pytest.fixture
async def store(client: Redis, prefix: str) -> Store:
    return await Store.open(Servers(client), prefix=prefix)


@pytest.fixture
async def rpc(server: RealServer, prefix: str, store: Store) -> AsyncIterator[Rpc]:
    async with rpc_process(server=server.settings, prefix=prefix, heartbeat_ms=1_500, lease_ms=5_000) as found:
        yield found


class Worker:
    """One worker; its streams are opened and cut by the test."""

    def __init__(self, rpc: Rpc, *functions: str, **hello: Any) -> None:
        self._rpc = rpc
        self._hello = {"functions": [wk.Function(name=name) for name in functions or ("f",)], **hello}
        self.session = ""
        self.seen = 0
        self.number = 0
        self.call: Any = None

    async def connect(self) -> wk.Welcome:
        self.call = self._rpc.worker.Work()
        hello = wk.Hello(session=self.session, seen=self.seen, **self._hello)
        await self.call.write(wk.FromWorker(hello=hello))
        first = await self.call.read()
        assert first is not grpc.aio.EOF, await self.call.details()
        welcome: wk.Welcome = first.welcome
        self.session = welcome.session
        return welcome

    async def send(self, **parts: Any) -> None:
        self.number += 1
        await self.call.write(wk.FromWorker(number=self.number, **parts))

    async def receive(self) -> wk.ToWorker:
        """The next message that says something."""
        while True:
            message: Any = await asyncio.wait_for(self.call.read(), PATIENCE_S)
            assert message is not grpc.aio.EOF
            self.seen = max(self.seen, message.number)
            if message.tasks or message.cancel or message.stale or message.drain:
                received: wk.ToWorker = message
                return received

    async def tasks(self, count: int) -> list[wk.Assignment]:
        got: list[wk.Assignment] = []
        while len(got) < count:
            got += (await self.receive()).tasks
        return got

    def cut(self) -> None:
        self.call.cancel()


async def call(rpc: Rpc, count: int = 1, name: str = "f", **fields: Any) -> list[str]:
    tasks = [pb.NewTask(type=pb.TASK_TYPE_WORKER, name=name, **fields)] * count
    answer = await rpc.scheduler.ScheduleBatch(pb.ScheduleBatchRequest(tasks=tasks))
    return [r.id for r in answer.results]


async def sound(store: Store, *, pending: int = 0) -> None:
    """Nothing is left but what is said, and all of it is sound."""

    async def settled() -> bool:
        counts = await store.counts()
        return sum(c.in_flight for c in counts) == 0 and sum(c.pending for c in counts) == pending

    await until(settled)
    assert (await fsck(store)).problems == []


async def test_tasks_come_to_a_worker_and_are_done(rpc: Rpc, store: Store) -> None:
    worker = Worker(rpc)
    welcome = await worker.connect()
    assert welcome.session and not welcome.resumed and welcome.heartbeat_ms == 1_500 and welcome.max_output > 0
    await worker.send(credit=10)
    made = await call(rpc, 3, payload=b"x", headers={"h": b"1"})
    got = await worker.tasks(3)
    assert {t.id for t in got} == set(made)
    assert {(t.name, t.queue, t.task.payload, t.token, t.attempt) for t in got} == {("f", "default", b"x", 1, 0)}
    assert (await rpc.scheduler.Get(pb.GetRequest(id=made[0]))).state == pb.TASK_STATE_RUNNING
    await worker.send(done=[t.sequence for t in got])
    await sound(store)


async def test_a_task_waits_for_who_serves_it_and_for_its_time(rpc: Rpc, store: Store) -> None:
    other = Worker(rpc, "g")
    await other.connect()
    await other.send(credit=10)
    (task_id,) = await call(rpc, delay_ms=50)
    (theirs,) = await call(rpc, name="g")
    assert [t.id for t in await other.tasks(1)] == [theirs]

    async def ready() -> bool:
        found = await rpc.scheduler.Get(pb.GetRequest(id=task_id))
        return bool(found.state == pb.TASK_STATE_READY and "no connected worker serves function 'f'" in found.reason)

    await until(ready)
    async with running(store, {}, channel="nobody"):

        async def shown() -> bool:
            (queue,) = (await rpc.scheduler.Queues(pb.QueuesRequest())).queues
            return list(queue.unserved) == ["f"]

        await until(shown)
    worker = Worker(rpc, "f")
    await worker.connect()
    await worker.send(credit=1)
    (got,) = await worker.tasks(1)
    assert got.id == task_id and got.token == 1, "nobody else had it"


async def test_a_task_that_its_worker_never_ends_is_ended_by_the_node(rpc: Rpc, store: Store) -> None:
    worker = Worker(rpc)
    await worker.connect()
    await worker.send(credit=2)
    (task_id,) = await call(rpc, timeout_ms=200)
    (stuck,) = await worker.tasks(1)
    await worker.send()  # it beats, and does nothing else
    assert list((await worker.receive()).cancel) == [stuck.sequence]
    (again,) = await worker.tasks(1)
    assert (again.id, again.attempt, again.token) == (task_id, 1, 2)
    await worker.send(done=[stuck.sequence, again.sequence])
    assert list((await worker.receive()).stale) == [stuck.sequence], "what it says of the first attempt is too late"
    await sound(store)


async def test_a_worker_is_sent_no_more_than_its_credit(rpc: Rpc, store: Store) -> None:
    worker = Worker(rpc)
    await worker.connect()
    await worker.send(credit=2)
    made = await call(rpc, 7)
    got: list[wk.Assignment] = []
    for credit in (2, 2, 2, 1):
        part = await worker.tasks(credit)
        assert len(part) == credit
        got += part
        await worker.send(done=[t.sequence for t in part], credit=min(2, 7 - len(got)))
    assert {t.id for t in got} == set(made)
    await sound(store)


async def test_a_result_is_kept_where_it_is_wanted(rpc: Rpc, store: Store) -> None:
    worker = Worker(rpc)
    await worker.connect()
    await worker.send(credit=10)
    (wanted,) = await call(rpc, keep_result_ms=60_000)
    (got,) = await worker.tasks(1)
    assert got.want_result
    await worker.send(succeeded=[wk.Succeeded(sequence=got.sequence, output=b"42", duration_ms=3)])

    async def there() -> bool:
        found = await rpc.scheduler.Get(pb.GetRequest(id=wanted))
        return bool(found.state == pb.TASK_STATE_SUCCEEDED and found.result.output == b"42")

    await until(there)


async def test_a_failure_is_tried_again_and_then_a_dead_letter(rpc: Rpc, store: Store) -> None:
    function = wk.Function(name="f")
    function.retry.max_attempts = 2
    function.retry.initial_ms = 1
    worker = Worker(rpc, functions=[function])
    await worker.connect()
    await worker.send(credit=10)
    (task_id,) = await call(rpc)
    for attempt in (0, 1):
        (got,) = await worker.tasks(1)
        assert (got.attempt, got.token) == (attempt, attempt + 1)
        await worker.send(failed=[wk.Failed(sequence=got.sequence, reason="boom")])

    async def dead() -> bool:
        found = await rpc.scheduler.Get(pb.GetRequest(id=task_id))
        return bool(found.state == pb.TASK_STATE_FAILED and found.reason == "boom")

    await until(dead)


async def test_a_broken_stream_is_resumed_and_nothing_is_handed_out_twice(rpc: Rpc, store: Store) -> None:
    worker = Worker(rpc)
    await worker.connect()
    await worker.send(credit=10)
    made = await call(rpc, 4)
    first = await worker.tasks(4)
    # Sent, and not known whether it arrived: said again below under its old number.
    worker.cut()
    welcome = await worker.connect()
    assert welcome.resumed
    worker.number -= 1
    await worker.send(credit=10)
    await worker.send(done=[t.sequence for t in first])
    await sound(store)
    more = await call(rpc, 2)
    again = await worker.tasks(2)
    assert {t.id for t in again} == set(more) and {t.id for t in first} == set(made)
    assert all(t.token == 1 for t in [*first, *again])


async def test_a_worker_that_does_not_come_back_loses_its_tasks_to_another(rpc: Rpc, store: Store) -> None:
    gone, other = Worker(rpc), Worker(rpc)
    await gone.connect()
    await gone.send(credit=3)
    made = await call(rpc, 3)
    held = await gone.tasks(3)
    gone.cut()
    await other.connect()
    await other.send(credit=3)
    got = await other.tasks(3)
    assert {t.id for t in got} == set(made) and {t.token for t in got} == {2}
    await other.send(done=[t.sequence for t in got])
    await sound(store)
    # Its late answers are refused: the session is over.
    assert not (await gone.connect()).resumed
    await gone.send(done=[t.sequence for t in held])
    assert sorted((await gone.receive()).stale) == sorted(t.sequence for t in held)


async def test_credit_that_a_worker_takes_back_is_confirmed_at_once(server: RealServer, prefix: str) -> None:
    """A worker with sessions at several nodes divides its places anew when one joins. It gives none before it knows
    that those which it took back are gone, and was told with the next heartbeat: it got no task for five seconds."""
    async with rpc_process(server=server.settings, prefix=prefix, heartbeat_ms=600_000, lease_ms=5_000) as rpc:
        worker = Worker(rpc)
        await worker.connect()
        for n in range(3):
            await worker.send(credit=10)
            await worker.send(drain=True)
            message: Any = await asyncio.wait_for(worker.call.read(), PATIENCE_S)
            assert message.seen == 2 * n + 2
        worker.cut()


async def test_a_silent_worker_is_given_up(server: RealServer, prefix: str, store: Store) -> None:
    async with rpc_process(server=server.settings, prefix=prefix, heartbeat_ms=500, lease_ms=2_000) as rpc:
        silent, other = Worker(rpc), Worker(rpc)
        await silent.connect()
        await silent.send(credit=1)
        (task_id,) = await call(rpc)
        await silent.tasks(1)
        await other.connect()
        await other.send(credit=1)

        async def beating() -> None:
            while True:
                await other.send()
                await asyncio.sleep(0.1)

        beats = asyncio.create_task(beating())
        try:
            (got,) = await other.tasks(1)
            assert got.id == task_id and got.token == 2
        finally:
            beats.cancel()


async def test_a_task_that_workers_die_of_is_dead_lettered_and_its_neighbours_are_not(rpc: Rpc, store: Store) -> None:
    poison = (await call(rpc, payload=b"poison"))[0]
    good = await call(rpc, 5)
    done: set[str] = set()
    for _ in range(8):
        worker = Worker(rpc)
        await worker.connect()
        await worker.send(credit=6)
        fatal = False
        while not fatal and len(done) < 5:
            got = (await worker.receive()).tasks
            fatal = any(t.id == poison for t in got)
            if not fatal:
                done |= {t.id for t in got}
                await worker.send(done=[t.sequence for t in got], credit=len(got))
        worker.cut()
        if len(done) == 5:
            break
        await until(lambda: _free(rpc, poison))
    assert done == set(good)

    async def dead() -> bool:
        found = await rpc.scheduler.Get(pb.GetRequest(id=poison))
        return bool(found.state == pb.TASK_STATE_FAILED and "lost with its worker 3 times" in found.reason)

    if not await dead():
        # It was alone on its third worker's hands only if that one took it.
        worker = Worker(rpc)
        await worker.connect()
        await worker.send(credit=1)
        await worker.tasks(1)
        worker.cut()
    await until(dead)
    await sound(store)


async def _free(rpc: Rpc, task_id: str) -> bool:
    return bool((await rpc.scheduler.Get(pb.GetRequest(id=task_id))).state != pb.TASK_STATE_RUNNING)


async def test_a_running_task_is_cancelled_by_its_worker(rpc: Rpc, store: Store) -> None:
    worker = Worker(rpc)
    await worker.connect()
    await worker.send(credit=1)
    task = pb.NewTask(type=pb.TASK_TYPE_WORKER, name="f", idempotency_key=f"{store.prefix}-key")
    task_id = (await rpc.scheduler.Schedule(pb.ScheduleRequest(task=task))).id
    (got,) = await worker.tasks(1)
    await store.servers.publish(store.control_channel, f"cancel {task_id}")
    assert list((await worker.receive()).cancel) == [got.sequence]
    await worker.send(failed=[wk.Failed(sequence=got.sequence, cancelled=True)])

    async def cancelled() -> bool:
        return bool((await rpc.scheduler.Get(pb.GetRequest(id=task_id))).state == pb.TASK_STATE_CANCELLED)

    await until(cancelled)
    again = await refused(rpc.scheduler.Schedule(pb.ScheduleRequest(task=task)))
    assert (again.code, again.metadata["task_id"]) == ("key_cancelled", task_id)
    await sound(store)


async def test_progress_is_kept_while_it_runs(rpc: Rpc, store: Store) -> None:
    worker = Worker(rpc)
    await worker.connect()
    await worker.send(credit=1)
    (task_id,) = await call(rpc)
    (got,) = await worker.tasks(1)
    received = wk.TaskProgress(sequence=got.sequence, progress=pb.Progress(fraction=0.5, message="half"))
    await worker.send(progress=[received])

    async def noted() -> bool:
        return bool((await rpc.scheduler.Get(pb.GetRequest(id=task_id))).progress == received.progress)

    await until(noted)


@pytest.mark.parametrize(
    ("first", "field", "words"),
    [
        (wk.FromWorker(), "hello", "has no hello"),
        (wk.FromWorker(hello=wk.Hello()), "hello.functions", "names no functions"),
        (wk.FromWorker(hello=wk.Hello(functions=[wk.Function(name="a:b")])), "name", "is not a name"),
        (
            wk.FromWorker(hello=wk.Hello(functions=[wk.Function(name="f")], queues=["Big"])),
            "hello.queues",
            "is not a queue name",
        ),
    ],
)
async def test_a_wrong_hello_is_refused_in_words(rpc: Rpc, first: wk.FromWorker, field: str, words: str) -> None:
    stream: Any = rpc.worker.Work()
    await stream.write(first)
    why = await refused(stream.read())
    assert (why.status, why.field) == (grpc.StatusCode.INVALID_ARGUMENT, field) and words in why.text


async def test_a_stream_that_ends_without_a_hello_is_not_told_of_a_wait(rpc: Rpc) -> None:
    stream: Any = rpc.worker.Work()
    await stream.done_writing()
    assert "the stream ended before a hello came" in (await refused(stream.read())).text


async def test_a_node_without_the_role_work_says_where_workers_go(server: RealServer, prefix: str) -> None:
    async with rpc_process(server=server.settings, prefix=prefix, workers=False) as rpc:
        why = await refused(rpc.worker.Work().read())
        assert why.status is grpc.StatusCode.UNAVAILABLE
        assert "its roles have no work" in why.text and "node with the roles api and work" in why.text


async def test_a_clock_and_a_gateway_share_a_herd(rpc: Rpc, store: Store) -> None:
    """A time keeper on the same store makes ready what the gateway does not take at once; each task comes once."""
    worker = Worker(rpc)
    await worker.connect()
    await worker.send(credit=200)
    async with running(store, {}, channel="nobody"):
        made: list[str] = []
        for _ in range(3):
            made += await call(rpc, 1_000, delay_ms=300)
        got: list[str] = []
        while len(got) < len(made):
            tasks: Sequence[wk.Assignment] = (await worker.receive()).tasks
            got += [t.id for t in tasks]
            assert {t.token for t in tasks} <= {1}
            await worker.send(done=[t.sequence for t in tasks], credit=len(tasks))
        assert sorted(got) == sorted(made)
        await sound(store)


async def test_a_process_that_stops_sends_its_workers_away(server: RealServer, prefix: str, store: Store) -> None:
    async with rpc_process(server=server.settings, prefix=prefix) as rpc:
        worker = Worker(rpc)
        await worker.connect()
        await worker.send(credit=2)
        await call(rpc, 2)
        first, second = await worker.tasks(2)
        stopping = asyncio.create_task(rpc.process.stop())
        while not (await worker.receive()).drain:
            pass
        await worker.send(done=[first.sequence])
        with contextlib.suppress(AssertionError, grpc.aio.AioRpcError):
            while True:
                await worker.receive()
        await stopping
    await sound(store, pending=1)
    found = await store.get(ids.parse(second.id))
    assert found.place == "home"
