"""Workers that came to one node, because it was the first, spread over the others when these are there."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Mapping

import pytest

from delaybox.store import nodes
from delaybox.worker import Runner, Worker
from tests import worker_app
from tests.balancer import Balancer
from tests.engines import until
from tests.yard import PATIENT, Yard, yard

__all__ = ["yard"]  # the fixture

WORKERS = 6
ROLES = ("api", "work")


@pytest.fixture
def beats() -> Mapping[str, int]:
    return PATIENT


def _worker(address: str) -> Worker:
    made = Worker("spread", servers=[address], concurrency=4, grace="5s")
    made.task(name="naps")(worker_app.naps.function)
    return made


async def _connected(yard: Yard) -> list[int]:
    return sorted(m.activity.worker_count for m in await nodes.live(yard.store) if m.kind == "grpc" and m.node)


async def test_workers_spread_over_nodes_that_start_later_and_what_they_run_runs_once(yard: Yard) -> None:
    balancer = Balancer()
    await balancer.listen()
    runners: list[Runner] = []

    async def node(name: str) -> None:
        started = await yard.node(node_id=name, roles=ROLES)
        balancer.to.append(started.process.port)

    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(balancer.close)
        await node("n1")
        for _ in range(WORKERS):
            runners.append(await stack.enter_async_context(_worker(f"127.0.0.1:{balancer.port}").running()))
        await until(lambda: _is(yard, [WORKERS]))
        long = await yard.call("naps", 3.0, count=WORKERS)
        await yard.begun(*long)
        made = [*long]
        even = asyncio.Event()

        async def load() -> None:
            while not even.is_set():
                made.extend(await yard.call("naps", 0.05, count=4))
                await asyncio.sleep(0.1)

        under_load = asyncio.create_task(load())
        await node("n2")
        await node("n3")
        began = asyncio.get_running_loop().time()
        await until(lambda: _is(yard, [2, 2, 2]))
        took_s = asyncio.get_running_loop().time() - began
        even.set()
        await under_load
        await until(lambda: set(made) <= set(yard.oracle.ended()))
        await yard.sound()
    ran = Counter({task: len(tokens) for task, tokens in yard.oracle.begun().items()})
    assert ran == Counter(made), "each ran once"
    assert sum(runner.stats.lost + runner.stats.stale for runner in runners) == 0
    assert sum(runner.stats.streams for runner in runners) > WORKERS, f"they moved, within {took_s:.1f} s"


async def _is(yard: Yard, counts: list[int]) -> bool:
    return await _connected(yard) == counts
