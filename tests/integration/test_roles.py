"""Nodes for one job each: a clock that runs no work, workers that keep no time, and what each leaves alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from redis.asyncio import Redis

from delaybox.core.delivery import Delivery, Report
from delaybox.core.task import NewTask, TaskType
from delaybox.service import Service
from delaybox.store import nodes
from delaybox.store.servers import Servers
from delaybox.store.store import Store
from delaybox.targets.pubsub import PubSubTarget
from tests.engines import Recorder, running, until
from tests.nodes import Node, node
from tests.servers import RealServer

pytestmark = pytest.mark.fresh


@pytest.fixture
async def store(client: Redis, prefix: str) -> AsyncIterator[Store]:
    opened = await Store.open(Servers(client), prefix=prefix, partitions=2, bucket_ms=1_000)
    yield opened
    await client.unlink(*(await client.keys(f"*{prefix}*")))


def command(delay_ms: int = 0) -> NewTask:
    return NewTask(payload=b"date", type=TaskType.SHELL_CMD, delay_ms=delay_ms)


async def test_a_clock_and_a_worker_share_what_is_due(store: Store, client: Redis, prefix: str):
    channel = f"{prefix}:out"
    published: list[bytes] = []
    pubsub = client.pubsub()
    await pubsub.subscribe(channel)

    async def listen() -> None:
        async for message in pubsub.listen():
            if message["type"] == "message":
                published.append(message["data"])

    listening = asyncio.create_task(listen())
    service = Service(store)
    worker = Recorder()
    clock = running(store, {TaskType.PUB_SUB: PubSubTarget(store, channel=channel)}, node_id="clock", channel=channel)
    work = running(store, {TaskType.SHELL_CMD: worker}, node_id="work", clock=False, channel="", poll_ms=100)
    async with clock, work:
        for delay in (0, 300, 1_500):
            await service.submit(command(delay))
            await service.submit(NewTask(payload=b"hello", delay_ms=delay))
        await until(lambda: len(worker.got) == 3 and len(published) == 3)
    assert all(d.due_ms for _, d in worker.got)
    listening.cancel()
    await pubsub.aclose()


async def test_a_clock_alone_leases_no_work_and_a_worker_that_comes_gets_it(store: Store, client: Redis, prefix: str):
    service = Service(store)
    clock = running(store, {TaskType.PUB_SUB: PubSubTarget(store, channel=prefix)}, node_id="clock", channel=prefix)
    async with clock:
        await service.submit(command())

        async def is_ready() -> bool:
            counts = await service.counts()
            return counts.ready == 1 and counts.in_flight == 0

        await until(is_ready)
        worker = Recorder()
        async with running(store, {TaskType.SHELL_CMD: worker}, node_id="work", clock=False, channel=""):
            await until(lambda: len(worker.got) == 1)


async def test_a_worker_alone_publishes_nothing_and_reaps_nothing(store: Store, client: Redis, prefix: str):
    service = Service(store)
    worker = Recorder()
    async with running(
        store, {TaskType.SHELL_CMD: worker}, node_id="work", clock=False, channel="", poll_ms=50, reap_ms=10
    ):
        await service.submit(NewTask(payload=b"hello"))
        await service.submit(command())
        far = NewTask(payload=b"later", type=TaskType.SHELL_CMD, delay_ms=60_000_000)
        await service.submit(far)
        await asyncio.sleep(0.2)
        counts = await service.counts()
        assert (counts.pending, counts.in_flight) == (3, 0), "nothing becomes due without a clock"
        async with running(store, {}, node_id="clock", channel=prefix, poll_ms=50):
            await until(lambda: len(worker.got) == 1)


async def test_what_a_dead_worker_held_comes_back_through_the_clock(store: Store, client: Redis, prefix: str):
    class Stuck:
        async def deliver(self, batch: list[Delivery], report: Report) -> None:
            await asyncio.Event().wait()

    service = Service(store)
    await service.submit(command())
    # With one place it takes nothing more while it is about this one.
    short = {"clock": False, "channel": "", "lease_ms": 300, "heartbeat_ms": 60_000, "concurrency": 1}
    worker = Recorder()
    async with running(store, {TaskType.SHELL_CMD: Stuck()}, node_id="dead", **short):  # type: ignore[dict-item]

        async def is_leased() -> bool:
            return (await service.counts()).in_flight == 1

        await until(is_leased)
        async with (
            running(store, {}, node_id="clock", channel=prefix, reap_ms=50, lease_ms=300),
            running(store, {TaskType.SHELL_CMD: worker}, node_id="other", clock=False, channel="", poll_ms=50),
        ):
            await until(lambda: len(worker.got) == 1)
    assert worker.got[0][1].losses == 1


async def test_a_node_without_work_and_clock_only_says_that_it_lives(store: Store, client: Redis, prefix: str):
    async with running(store, {}, node_id="front", clock=False, channel="", roles=("api",)):
        await Service(store).submit(command())

        async def is_listed() -> bool:
            return await nodes.find(store, "front") is not None

        await until(is_listed)
        (member,) = await nodes.live(store)
        assert member.id == "front" and member.roles == ("api",) and member.version
        assert 0 < member.started_ms <= member.seen_ms
        counts = await Service(store).counts()
        assert (counts.pending, counts.in_flight) == (1, 0)


def test_three_nodes_with_a_role_each(make_server: Callable[..., RealServer], tmp_path: Path):
    server = make_server()
    common = ("--redis", server.url, "--http-port", "0", "--enable-shell")
    apart = [Node(*common, "--roles", role, folder=tmp_path) for role in ("clock", "work")]
    try:
        with node(*common, "--roles", "api", folder=tmp_path) as front:
            for one, role in zip(apart, ("clock", "work"), strict=True):
                one.wait_for(f"roles: {role}")
                assert "listening" not in one.output()
            # A node is listed from its first heartbeat on, which comes after it has said that it runs.
            front.until(lambda: len(front.call("GET", "/v1/nodes")[2]["nodes"]) >= 3)
            listed = front.call("GET", "/v1/nodes")[2]["nodes"]
            assert sorted(found["roles"] for found in listed) == [["api"], ["clock"], ["work"]]
            assert len({found["version"] for found in listed}) == 1
            pubsub = front.call("POST", "/v1/tasks", {"payload": "a", "delay": "100ms"})[2]["id"]
            shell = {"type": "shell", "payload": "echo ran", "delay": "100ms", "keep_result": "1h"}
            command = front.call("POST", "/v1/tasks", shell)[2]["id"]
            front.until(lambda: front.call("GET", f"/v1/tasks/{command}")[2].get("state") == "succeeded")
            assert "ran" in str(front.call("GET", f"/v1/tasks/{command}")[2]["result"])
            front.until(lambda: front.call("GET", f"/v1/tasks/{pubsub}")[2].get("state") == "succeeded")
            assert front.call("GET", "/task")[2] == []
            assert [one.stop() for one in apart] == [0, 0]
            # A task that is due waits, and nothing is lost, until there is a clock again.
            waits = front.call("POST", "/v1/tasks", {"payload": "b"})[2]["id"]
            front.until(lambda: front.call("GET", f"/v1/tasks/{waits}")[2]["state"] == "ready")
            with node(*common, "--roles", "clock,api", folder=tmp_path):
                front.until(lambda: front.call("GET", f"/v1/tasks/{waits}")[2].get("state") == "succeeded")
    finally:
        for one in apart:
            one.stop()
