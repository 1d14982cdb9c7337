"""Tasks that need something of their worker, on real nodes and workers: labels that it must have or that are preferred,
and several of its places."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from delaybox.wire.gen import scheduler_pb2 as pb
from tests.engines import until
from tests.yard import Yard, both_ways, worker, yard

__all__ = ["yard"]  # the fixture


def ran_by(yard: Yard) -> dict[str, set[int]]:
    """The processes that began each task."""
    found: dict[str, set[int]] = {}
    for line in yard.oracle.file.read_text().splitlines() if yard.oracle.file.exists() else ():
        sign, task_id, _, process = line.split()
        if sign == "+":
            found.setdefault(task_id, set()).add(int(process))
    return found


async def finished(yard: Yard, tasks: list[str]) -> dict[str, set[int]]:
    await until(lambda: set(tasks) <= yard.oracle.ended().keys())
    return ran_by(yard)


@both_ways
async def test_a_required_label_decides_where_a_task_runs(yard: Yard, tmp_path: Path) -> None:
    async with (
        worker(yard, tmp_path, "--label", "zone=a") as plain,
        worker(yard, tmp_path, "--label", "gpu", "--label", "zone=b") as gpu,
    ):
        anywhere = await yard.call("quick", count=30)
        on_gpu = await yard.call("quick", count=30, requires=["gpu"])
        by_value = await yard.call("quick", count=10, requires=["zone=a"])
        later = await yard.call("quick", count=10, requires=["gpu", "zone=b"], delay_ms=300)
        where = await finished(yard, [*anywhere, *on_gpu, *by_value, *later])
        assert {pid for task in [*on_gpu, *later] for pid in where[task]} == {gpu.pid}
        assert {pid for task in by_value for pid in where[task]} == {plain.pid}
        assert {pid for task in anywhere for pid in where[task]} <= {plain.pid, gpu.pid}
        await yard.sound()


async def test_a_task_waits_with_the_reason_until_a_worker_has_what_it_needs(yard: Yard, tmp_path: Path) -> None:
    """Killed with the task in its hands, the worker is replaced by the next one that has the label, and by no other."""
    async with worker(yard, tmp_path):
        (task,) = await yard.call("naps", 60.0, requires=["gpu"], delay_ms=1)
        why = "waits: no connected worker that serves function 'naps' of queue 'default' has label gpu"

        async def waits() -> bool:
            return (await yard.info(task)).reason == why

        await until(waits)
        async for page in yard.rpc.scheduler.List(pb.ListRequest(filter={"state": pb.TASK_STATE_READY})):
            assert [one.reason for one in page.tasks] == [why]

        async def in_queues() -> bool:
            (queue,) = (await yard.rpc.scheduler.Queues(pb.QueuesRequest(queue="default"))).queues
            return list(queue.unserved) == ["naps (needs label gpu)"]

        await until(in_queues)
        async with worker(yard, tmp_path, "--label", "gpu") as first:
            await yard.begun(task)
            os.killpg(first.pid, signal.SIGKILL)
            await first.end()
            await until(waits)
        async with worker(yard, tmp_path, "--label", "gpu") as second:
            await until(lambda: second.pid in ran_by(yard)[task])
            assert ran_by(yard)[task] == {first.pid, second.pid}
        found = await yard.info(task)
        assert (found.losses, list(found.requires)) == (1, ["gpu"])


async def test_a_preferred_worker_runs_it_while_it_has_room_and_else_another(yard: Yard, tmp_path: Path) -> None:
    likes: dict[str, Any] = {"prefers": ["zone=b"]}
    async with worker(yard, tmp_path, "--label", "zone=a") as other:
        # Nobody has the label: another worker runs it after a moment.
        assert set((await finished(yard, await yard.call("quick", **likes))).popitem()[1]) == {other.pid}
        async with worker(yard, tmp_path, "--label", "zone=b") as liked:

            async def go_there() -> bool:
                made = [(await yard.call("quick", **likes))[0] for _ in range(5)]
                where = await finished(yard, made)
                return all(where[task] == {liked.pid} for task in made)

            # The other members learn of the new one with its first heartbeats.
            await until(go_there)
            # All its places are taken.
            full = await yard.call("naps", 60.0, count=10, requires=["zone=b"])
            await yard.begun(*full)
            (beside,) = await yard.call("quick", **likes)
            assert (await finished(yard, [beside]))[beside] == {other.pid}


@both_ways
async def test_tasks_take_the_places_that_they_cost(yard: Yard, tmp_path: Path) -> None:
    """10 places: two of four run side by side, and two of one beside them, however many wait."""
    async with worker(yard, tmp_path):
        (toolarge,) = await yard.call("quick", cost=11)
        large = await yard.hold(4, cost=4)
        await until(lambda: len(yard.oracle.begun()) >= 2)
        small = await yard.hold(4)
        yard.gate.touch()
        await finished(yard, [*large, *small])
        at_once = most = 0
        for line in yard.oracle.file.read_text().splitlines():
            kind, task, *_ = line.split()
            at_once += (4 if task in large else 1) * (1 if kind == "+" else -1)
            most = max(most, at_once)
        assert 8 <= most <= 10

        async def why() -> bool:
            reason = (await yard.info(toolarge)).reason
            return reason == (
                "waits: no connected worker that serves function 'quick' of queue 'default' has 11 places"
            )

        await until(why)
        async with worker(yard, tmp_path, "--concurrency", "12"):
            await finished(yard, [toolarge])
            await yard.sound()


async def test_a_large_task_is_not_starved_by_small_ones(yard: Yard, tmp_path: Path) -> None:
    async with worker(yard, tmp_path, "--concurrency", "4"):
        small = await yard.hold(4) + await yard.call("naps", 0.05, count=240)
        await yard.begun(*small[:4])
        (large,) = await yard.call("quick", cost=4)
        yard.gate.touch()
        await finished(yard, [*small, large])
        # In the order in which they ended: whoever looks at it meanwhile may look too late.
        ended = [line.split()[1] for line in yard.oracle.file.read_text().splitlines() if line.startswith("-")]
        assert ended[-1] != large, "the large task ran after all small ones"
        await yard.sound()
