"""Workers keep what they run when their node ends: another node adopts it, or the same one restarted."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from delaybox.core import ids
from tests.engines import until
from tests.ports import free_port
from tests.rpc import Rpc
from tests.yard import PATIENT, Yard, yard

__all__ = ["yard"]  # the fixture

PLACES = 6


@pytest.fixture
def beats() -> Mapping[str, int]:
    return PATIENT


async def ran_once(yard: Yard, made: list[str]) -> None:
    """Each of these tasks began once and ended in that delivery.

    It need not be the first one: a node that stops hands back what it has claimed and no worker has begun.
    """
    await until(lambda: set(made) <= set(yard.oracle.ended()))
    await yard.sound()
    assert dict.fromkeys(made, 1) == {task: len(deliveries) for task, deliveries in yard.oracle.begun().items()}
    assert dict(yard.oracle.ended()) == dict(yard.oracle.begun())


async def killed(rpc: Rpc) -> None:
    rpc.process.kill()
    await rpc.process.died.wait()


async def test_another_node_adopts_what_ran_under_one_that_was_killed(yard: Yard) -> None:
    """The worker knows one address, behind which another node is then."""
    doomed = await yard.node()
    proxy = await yard.proxy(doomed)
    runner = await yard.worker(f"127.0.0.1:{proxy.port}", concurrency=PLACES)
    made = await yard.hold(3)
    await yard.begun(*made)
    before = {task: (await yard.store.get(ids.parse(task))).lease_id for task in made}
    await killed(doomed)
    proxy.lead_to(("127.0.0.1", yard.rpc.process.port))
    for task in made:
        # Under the other node's lease it runs in its first delivery, and nothing was charged.
        await until(lambda: _lease_changed(yard, task, before[task]))  # noqa: B023 - waited for at once
        info = await yard.info(task)
        assert (info.attempt, info.losses) == (0, 0)
    yard.gate.touch()
    await ran_once(yard, made)
    assert (runner.stats.done, runner.stats.lost) == (3, 0)


async def _lease_changed(yard: Yard, task: str, before: bytes) -> bool:
    found = await yard.store.get(ids.parse(task))
    assert found.place == "lease"
    return found.lease_id != before


async def test_a_worker_of_several_nodes_brings_its_tasks_to_one_that_is_left(yard: Yard) -> None:
    doomed = await yard.node()
    runner = await yard.worker(yard.rpc.address, doomed.address, concurrency=PLACES)
    made = await yard.call("naps", 4.0, count=PLACES) + await yard.call("sleeps", 4.0, count=2)
    await yard.begun(*made)
    await killed(doomed)
    await ran_once(yard, made)
    # A report that its node stored, and did not confirm before it ended, counts as lost too: the next node knows only
    # that the task has ended.
    assert runner.stats.done == len(made)


async def test_nodes_that_are_restarted_in_turn_hand_nothing_out_twice(yard: Yard) -> None:
    """Their grace is far shorter than the tasks are long."""
    nodes = await asyncio.gather(*(yard.node(port=free_port(), grace_s=1.0) for _ in range(2)))
    addresses = [node.address for node in nodes]
    runner = await yard.worker(*addresses, concurrency=20)
    made: list[str] = []
    loading = asyncio.Event()

    async def load() -> None:
        while not loading.is_set():
            made.extend(await yard.call("naps", 0.1, count=4))
            made.extend(await yard.call("naps", 3.0))
            await asyncio.sleep(0.2)

    under_load = asyncio.create_task(load())
    for node in nodes:
        await until(lambda: len(yard.oracle.begun()) >= 10)
        await node.process.stop()
        await yard.node(port=node.process.port, grace_s=1.0)
    loading.set()
    await under_load
    await ran_once(yard, made)
    # A report that its node stored, and did not confirm before it ended, counts as lost too: the next node knows only
    # that the task has ended.
    assert runner.stats.done == len(made)


async def test_a_worker_that_comes_back_too_late_is_told_and_stops(yard: Yard) -> None:
    """Its node lives and has given the tasks to another worker meanwhile."""
    proxy = await yard.proxy(yard.rpc)
    runner = await yard.worker(f"127.0.0.1:{proxy.port}", concurrency=PLACES)
    made = await yard.hold(2)
    await yard.begun(*made)
    other = await yard.worker(concurrency=PLACES)
    proxy.lead_to(("127.0.0.1", free_port()))
    proxy.reset_all()
    await until(lambda: all(yard.oracle.begun()[task] == [1, 2] for task in made))
    assert runner.stats.lost == 0, "it goes on until it is told"
    proxy.lead_to(("127.0.0.1", yard.rpc.process.port))
    await until(lambda: runner.stats.lost == 2)
    yard.gate.touch()
    await yard.sound()
    assert {task: [2] for task in made} == dict(yard.oracle.ended())
    assert other.stats.done == 2
