"""By its name a function's task goes where the function's own options say, whichever way it is scheduled."""

from __future__ import annotations

import json
import warnings
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from delaybox.client import AsyncClient, AsyncHandle, NewTask
from delaybox.core.task import NewTask as CoreTask
from delaybox.core.task import TaskType
from delaybox.service import Service
from delaybox.store import functions, keys
from delaybox.store.servers import Servers
from delaybox.store.store import Store
from delaybox.wire.gen import scheduler_pb2 as pb
from delaybox.wire.gen import worker_pb2 as wk
from delaybox.wire.json import rendering
from delaybox.wire.json.tasks import TaskRules, parse_task
from delaybox.worker import Worker
from tests.engines import until
from tests.integration.test_worker_stream import Worker as Foreign
from tests.rpc import Rpc, rpc_process
from tests.servers import RealServer
from tests.waiting import PATIENCE_S


@pytest.fixture
async def store(client: Redis, prefix: str) -> Store:
    return await Store.open(Servers(client), prefix=prefix)


@pytest.fixture
async def rpc(server: RealServer, prefix: str, store: Store) -> AsyncIterator[Rpc]:
    async with rpc_process(server=server.settings, prefix=prefix, heartbeat_ms=300, lease_ms=3_000) as found:
        yield found


def mailer(rpc: Rpc) -> Worker:
    worker = Worker("mailer", servers=rpc.address, grace="1s")

    @worker.task(queue="mail", keep_result="10m", retries=0)
    async def remind(order: int) -> int:
        if order < 0:
            raise ValueError("no such order")
        return order

    return worker


async def test_every_way_of_scheduling_by_name_finds_the_functions_queue_and_retention(rpc: Rpc, store: Store) -> None:
    """No caller names a queue; all of them get the result, which no configuration keeps."""
    async with mailer(rpc).running() as runner, AsyncClient(rpc.address) as client:
        await runner.connected()
        by_name = await client.schedule("remind", [1])
        assert await by_name.result(timeout=PATIENCE_S) == 1
        many = [stored async for stored in client.schedule_each([NewTask.call("remind", [n]) for n in (2, 3)])]
        assert [await client.result(one.id, timeout=20) for one in many if isinstance(one, AsyncHandle)] == [2, 3]
        # REST's body, parsed and stored as its process does.
        service = Service(store)
        asked = parse_task(json.dumps({"type": "worker", "name": "remind", "payload_json": [4]}).encode(), TaskRules())
        stored = await service.submit(asked)
        answer = rendering.scheduled(asked, stored, 0)
        assert (answer.queue, answer.warning) == ("mail", "")
        assert await client.result(stored.task_id, timeout=20) == 4
        (item,) = await service.submit_many([asked])
        assert await client.result(item.task_id, timeout=20) == 4  # type: ignore[union-attr]
        unary = await rpc.scheduler.Schedule(pb.ScheduleRequest(task=_task()))
        assert unary.queue == "mail"
        # Its own number of attempts as before.
        failing = await client.schedule("remind", [-1])

        async def dead() -> bool:
            found = await client.get(failing.id)
            return found.state == "failed" and found.reason == "ValueError: no such order"

        await until(dead)
        await service.close()


async def test_what_was_announced_outlives_the_worker(rpc: Rpc, store: Store) -> None:
    async with mailer(rpc).running() as runner:
        await runner.connected()
    service = Service(store)
    stored = await service.submit(_new())
    assert stored.queue == "mail"
    assert (await service.get(stored.task_id)).queue == "mail"


async def test_a_caller_who_names_a_queue_gets_it_and_is_warned(rpc: Rpc, store: Store) -> None:
    async with mailer(rpc).running() as runner, AsyncClient(rpc.address) as client:
        await runner.connected()

        async def seen() -> bool:
            answer = await rpc.scheduler.Schedule(pb.ScheduleRequest(task=_task(queue="default")))
            assert answer.queue == "default"
            return "serve function 'remind' from queue mail, none from 'default'" in answer.warning

        await until(seen)
        with pytest.warns(RuntimeWarning, match="waits until one does"):
            await client.schedule("remind", [1], queue="elsewhere", delay="1h")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            await client.schedule("nobody.has.it", [1], delay="1h")
            await client.schedule("remind", [1], delay="1h")


async def test_the_same_key_is_the_same_task_whatever_was_announced_meanwhile(store: Store) -> None:
    service = Service(store)
    first = await service.submit(_new(idempotency_key="k"))
    await functions.announce(store, {"remind": "mail"})
    later = Service(store)
    again = await later.submit(_new(idempotency_key="k"))
    assert (again.task_id, again.created, first.queue) == (first.task_id, False, "default")
    assert (await later.submit(_new())).queue == "mail"


async def test_who_said_it_last_counts_and_who_says_nothing_changes_nothing(rpc: Rpc, store: Store) -> None:
    for stated, kept in (("a", "a"), (None, "a"), ("b", "b"), ("", None)):
        function = wk.Function(name="f") if stated is None else wk.Function(name="f", queue=stated)
        worker = Foreign(rpc, functions=[function])
        await worker.connect()
        assert (await functions.own_queues(store))[1].get("f") == kept
        worker.cut()


async def test_a_batch_follows_what_is_announced(rpc: Rpc, store: Store) -> None:
    """What is kept of kinds of tasks, so that batches are fast, is forgotten then."""

    async def where() -> str:
        answer = await rpc.scheduler.ScheduleBatch(pb.ScheduleBatchRequest(tasks=[_task(delay_ms=3_600_000)] * 3))
        return str((await rpc.scheduler.Get(pb.GetRequest(id=answer.results[2].id))).queue)

    assert await where() == "default"
    await functions.announce(store, {"remind": "mail"})

    async def mail() -> bool:
        return await where() == "mail"

    await until(mail)


async def test_no_more_are_kept_than_there_is_room_for(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functions, "MOST", 3)
    assert await functions.announce(store, {"a": "x", "b": "x", "c": ""}) == []
    assert await functions.announce(store, {"a": "y", "d": "x", "e": "x"}) == ["e"]
    version, found = await functions.own_queues(store)
    assert found == {"a": "y", "b": "x", "d": "x"}
    assert await functions.announce(store, {"a": "y"}) == [] and (await functions.version(store)) == version
    await store.servers.ask("DEL", keys.functions(store.prefix))
    assert await functions.own_queues(store) == (0, {})


def _new(**changes: object) -> CoreTask:
    settings = {
        "type": TaskType.WORKER,
        "name": "remind",
        "payload": b"[1]",
        "delay_ms": 3_600_000,
        "queue_unstated": True,
    }
    return CoreTask(**{**settings, **changes})  # type: ignore[arg-type]


def _task(**fields: object) -> pb.NewTask:
    return pb.NewTask(type=pb.TASK_TYPE_WORKER, name="remind", payload=b"[5]", **fields)  # type: ignore[arg-type]
