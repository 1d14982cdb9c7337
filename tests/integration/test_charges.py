"""Who is charged when a holder is killed: a worker is blamed for what it ran, a node is not; no attempt is spent. What
node and worker die with is tried ever less often."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from delaybox.core import ids
from delaybox.store.record import Record, read
from tests.engines import until
from tests.yard import Yard, both_ways, worker, yard

__all__ = ["yard"]  # the fixture
LEASE_MS = 2_000
"""Of nodes that are killed: what they held is waited for, and one that the machine holds up must not lose it before."""


async def _given_back(yard: Yard, task: str) -> Record:
    """The record, once the task has left its lease."""
    task_id = ids.parse(task)

    async def back() -> bool:
        return (await yard.store.get(task_id)).place != "lease"

    await until(back)
    return read(task_id, (await yard.store.get(task_id)).value)


@both_ways
async def test_a_worker_that_is_killed_is_blamed_for_what_it_ran(yard: Yard, tmp_path: Path) -> None:
    """The task may have killed it: a few such losses make a dead letter. Straight on Redis the lease says so."""
    async with worker(yard, tmp_path) as process:
        made = await yard.call("naps", 60.0, count=2)
        await yard.begun(*made)
        process.signal(signal.SIGKILL)
        for task in made:
            r = await _given_back(yard, task)
            assert (r.attempt, r.losses, r.blamed) == (0, 1, 1)


async def test_a_node_that_is_killed_is_not_held_against_the_tasks_that_its_workers_ran(yard: Yard) -> None:
    """The worker finds no node that adopts them before their lease ends."""
    doomed = await yard.node(lease_ms=LEASE_MS)
    runner = await yard.worker(doomed.address)
    made = await yard.call("naps", 60.0, count=2)
    await yard.begun(*made)
    doomed.process.kill()
    await doomed.process.died.wait()
    for task in made:
        r = await _given_back(yard, task)
        assert (r.attempt, r.losses, r.blamed) == (0, 1, 0)
    await until(lambda: runner.stats.lost == len(made))


def _begun_times(yard: Yard, tasks: Sequence[str], times: int) -> bool:
    begun = yard.oracle.begun()
    return all(len(begun.get(task, ())) == times for task in tasks)


async def test_a_call_that_takes_its_node_and_its_worker_along_waits_the_third_time(yard: Yard, tmp_path: Path) -> None:
    """Nothing tells it from the one that ran beside it, so both wait; each so long that they come back apart."""
    pid_file = tmp_path / "doomed"
    killer = await yard.call("takes_along", str(pid_file))
    made = killer + await yard.call("naps", 60.0)
    for losses in (1, 2, 3):
        doomed = await yard.node(lease_ms=LEASE_MS)
        async with worker(yard, tmp_path, server=doomed.address):
            await until(partial(_begun_times, yard, made, losses))
            killed_ms = await yard.store.ping()
            pid_file.with_suffix(".new").write_text(str(doomed.process.pid))
            pid_file.with_suffix(".new").rename(pid_file)
            await doomed.process.died.wait()
            pid_file.unlink()
            records = [await _given_back(yard, task) for task in made]
        assert [(r.attempt, r.losses, r.blamed) for r in records] == [(0, losses, 0)] * 2
        waits_ms = [r.due_ms - killed_ms for r in records]
        if losses < 3:
            assert max(waits_ms) <= 0, "they are due again at once"
    # By how much they come apart test_store_leases shows, where nothing is left to chance.
    assert min(waits_ms) > 1_000
