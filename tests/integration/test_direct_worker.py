"""Workers straight on Redis, where they differ from those of a node: a whole system of a server and a worker, fleets of
both, and who publishes.

That both kinds do the same is shown by test_worker_node.py and test_worker_process.py, which run over both.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from delaybox import Client
from delaybox.processes.spawn import ChildProcess
from delaybox.processes.spec import ProcessKind
from delaybox.roles.settings import ClockSettings
from delaybox.store import firing
from delaybox.store.nodes import MemberList
from delaybox.store.servers import Servers
from delaybox.store.store import Store
from delaybox.wire.gen import task_pb2
from delaybox.worker import Worker
from tests.collector import Collector, collector
from tests.engines import until
from tests.ports import free_port
from tests.servers import RealServer
from tests.waiting import PATIENCE_S
from tests.yard import PATIENT, Yard, yard

__all__ = ["yard"]  # the fixture


@pytest.fixture
def seen() -> Iterator[Collector]:
    with collector() as found:
        yield found


async def test_a_server_and_a_worker_are_a_whole_system(tmp_path: Path, seen: Collector) -> None:
    """No node anywhere: the worker's child keeps time, publishes, and shows how late everything was."""
    (tmp_path / "app.py").write_text(
        "from delaybox import Worker\n"
        "worker = Worker('shop', servers='file:data')\n"
        "@worker.task(keep_result='1m')\n"
        "async def add(a, b=1): return a + b\n"
    )
    log, port = tmp_path / "log", free_port()
    sent = {"OTEL_EXPORTER_OTLP_ENDPOINT": seen.http_url, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "delaybox.worker", "app", "--metrics-port", str(port),
            cwd=tmp_path, stdout=out, stderr=out, start_new_session=True,
            # On a busy machine the collector is slow, and what it does not take in time is dropped.
            env=os.environ | sent | {"OTEL_LOGS_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_TIMEOUT": "60"},
        )  # fmt: skip
    try:
        await until(lambda: "session with the embedded server" in log.read_text())

        def use() -> None:
            with Client(f"file:{tmp_path / 'data'}") as client:
                client.publish("news", delay=0.2)
                assert client.schedule("add", [1, 2], delay=0.2).result(PATIENCE_S) == 3
                assert list(client.map("add", range(5))) == [1, 2, 3, 4, 5]
                (node,) = client.nodes()
                assert (node["roles"], node["id"].startswith("shop-")) == (["work", "clock"], True)

        await asyncio.to_thread(use)

        wanted = (
            'delaybox_fired_tasks_total{mode="leased",type="WORKER"} 6.0',
            'delaybox_fired_tasks_total{mode="in_place",type="PUB_SUB"} 1.0',
            "delaybox_store_up 1.0",
        )

        def shown() -> bool:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
                text = answer.read().decode()
            return all(line in text for line in wanted)

        # What the child counts is added a moment later.
        await until(lambda: asyncio.to_thread(shown))

        # What the worker and its children send, as the environment says.
        def spans() -> set[str]:
            return {s.name + (" in place" if "delaybox.in_place" in s.attributes else "") for s in list(seen.spans)}

        await until(lambda: spans() >= {"process add", "deliver default", "deliver default in place"})
        await until(lambda: {r.process for r in list(seen.logs.records)} >= {"worker"})
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), PATIENCE_S) == 0, log.read_text()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


@pytest.mark.parametrize("beats", [PATIENT], ids=["patient"])
async def test_workers_of_both_kinds_share_the_tasks_of_one_store(yard: Yard) -> None:
    of_node = await yard.worker()
    straight = await yard.worker(yard.url)
    made = await yard.hold(200)
    await until(lambda: len(yard.oracle.begun()) == 20)
    assert (of_node.held, straight.held) == (10, 10)
    yard.gate.touch()
    await yard.begun(*made)
    await yard.sound()
    assert {task: [1] for task in made} == dict(yard.oracle.ended()), "each ran once"
    assert of_node.stats.done >= 10 and straight.stats.done >= 10
    assert of_node.stats.done + straight.stats.done == 200
    await straight.stop(1)
    (after,) = await yard.call("quick")
    await yard.begun(after)


async def test_a_workers_node_has_the_id_of_its_own_process(yard: Yard) -> None:
    await yard.worker(yard.url)

    async def told() -> bool:
        members = (await MemberList(yard.store).read()).members
        return {member.node_pid for member in members if member.kind == "worker"} == {os.getpid()}

    await until(told)


async def test_a_worker_that_finishes_its_tasks_ranks_no_more(yard: Yard) -> None:
    straight = await yard.worker(yard.url)
    (task,) = await yard.call("reports")
    await yard.begun(task)
    ending = asyncio.create_task(straight.stop(60))

    async def ranks_no_more() -> bool:
        return any(member.kind == "worker" for member in (await MemberList(yard.store).read()).ending)

    await until(ranks_no_more)
    assert not ending.done()
    await yard.store.servers.publish(yard.store.control_channel, f"cancel {task}")
    await ending


async def test_a_worker_waits_for_its_server(make_server: Callable[..., RealServer], prefix: str) -> None:
    server = make_server()
    server.kill()
    worker = Worker("late", servers=f"{server.url}?prefix={prefix}", clock=False)

    @worker.task(keep_result="1m")
    async def one() -> int:
        return 1

    async with worker.running() as runner:
        await asyncio.sleep(0.2)
        server.start()
        await asyncio.wait_for(runner.connected(), PATIENCE_S)


async def test_a_workers_clock_publishes_as_the_nodes_do(server: RealServer, client: Redis, prefix: str) -> None:
    store = await Store.open(Servers(client), prefix=prefix)
    await firing.note(store, firing.Firing(kafka=True))
    settings = ClockSettings(
        server=server.settings, prefix=prefix, store_id=store.store_id, node_id="w", follows_nodes=True, grace_s=1.0
    )
    clock = await ChildProcess.start(ProcessKind.CLOCK)
    received = store.subscribe(f"{prefix}-channel")
    try:
        await clock.begin(settings)
        await received.open()
        with Client(f"{server.url}?prefix={prefix}") as caller:
            handle = await asyncio.to_thread(caller.publish, "x")
            await asyncio.sleep(0.3)
            assert (await asyncio.to_thread(caller.get, handle.id)).id == handle.id, "only a node can send it to Kafka"
            await firing.note(store, firing.Firing(channel=f"{prefix}-channel"))
            async with asyncio.timeout(PATIENCE_S):
                while (message := await received.next(1)) is None or message.opened:
                    pass
            assert task_pb2.Task.FromString(message.data).payload == b"x"
    finally:
        await received.close()
        await clock.stop()
