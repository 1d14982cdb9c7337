"""Messages that would be too large, from real workers through a real node: none breaks a stream, none comes back."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from redis.asyncio import Redis

from delaybox.store.servers import Servers
from delaybox.store.store import Store
from delaybox.wire.gen import scheduler_pb2 as pb
from delaybox.wire.gen import worker_pb2 as wk
from tests.engines import until
from tests.integration.test_worker_stream import Worker, call
from tests.rpc import rpc_process
from tests.servers import RealServer
from tests.yard import PATIENT, Yard, yard

__all__ = ["yard"]  # the fixture


@pytest.fixture
def beats() -> Mapping[str, int]:
    """A worker that is well is given up by nobody, whatever the machine does."""
    return PATIENT


async def test_progress_of_any_size_breaks_no_stream(yard: Yard) -> None:
    """20 MB at once, and 250 times 100 KB in one flush: the node takes messages of 16 MiB."""
    runner = await yard.worker(concurrency=300)
    streams = runner.stats.streams
    (largest,) = await yard.call("shouts", 20_000_000, 60.0)
    made = await yard.call("shouts", 100_000, 0.2, count=250)

    async def seen() -> bool:
        return len((await yard.info(largest)).progress.message) == 2_000

    await until(seen)
    await until(lambda: all(yard.oracle.ended().get(task) for task in made))
    await yard.store.servers.publish(yard.store.control_channel, f"cancel {largest}")
    await yard.sound()
    assert {task: [1] for task in [largest, *made]} == dict(yard.oracle.begun())
    assert (runner.stats.streams, runner.stats.lost) == (streams, 0)


async def test_a_foreign_worker_gets_what_it_takes_and_says_what_is_kept(
    server: RealServer, prefix: str, client: Redis
) -> None:
    await Store.open(Servers(client), prefix=prefix)
    async with rpc_process(server=server.settings, prefix=prefix, payload_limit=8 << 20) as rpc:
        worker = Worker(rpc)
        await worker.connect()
        await worker.send(credit=10)
        (large,) = await call(rpc, payload=b"x" * 3_900_000)
        (small,) = await call(rpc, payload=b"y")

        async def dead() -> bool:
            found = await rpc.scheduler.Get(pb.GetRequest(id=large))
            return bool(found.state == pb.TASK_STATE_FAILED and "takes messages of 4194304 bytes" in found.reason)

        await until(dead)
        (got,) = await worker.tasks(1)
        assert got.id == small
        report = pb.Progress(fraction=float("nan"), message="x" * 5_000_000)
        await worker.send(progress=[wk.TaskProgress(sequence=got.sequence, progress=report)])

        async def cut() -> bool:
            found = await rpc.scheduler.Get(pb.GetRequest(id=small))
            return bool(len(found.progress.message) == 2_000 and found.progress.fraction == -1)

        await until(cut)
        await worker.send(done=[got.sequence])
