"""Workers as processes of their own: signals, kills, freezes, and the supervisor of several."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from pathlib import Path

from redis.asyncio import Redis

from delaybox.core.access import Token
from delaybox.store.servers import Servers
from delaybox.store.store import Store
from tests.engines import until
from tests.rpc import rpc_process
from tests.servers import RealServer
from tests.yard import Yard, both_ways, worker, yard

__all__ = ["yard"]  # the fixture


@both_ways
async def test_sigterm_lets_what_runs_end(yard: Yard, tmp_path: Path) -> None:
    async with worker(yard, tmp_path) as process:
        made = await yard.call("naps", 1.0, count=3) + await yard.call("sleeps", 1.0, count=2)
        await yard.begun(*made)
        process.signal(signal.SIGTERM)
        assert await process.end() == 0, process.output()
    assert {task: [1] for task in made} == dict(yard.oracle.ended())
    await yard.sound()


@both_ways
async def test_what_does_not_end_within_the_grace_is_handed_back_uncharged(yard: Yard, tmp_path: Path) -> None:
    async with worker(yard, tmp_path, "--grace", "300ms") as process:
        made = await yard.call("naps", 60.0, count=2)
        await yard.begun(*made)
        process.signal(signal.SIGTERM)
        assert await process.end() == 0, process.output()
    runner = await yard.worker()
    await until(lambda: all(yard.oracle.begun()[task] == [1, 2] for task in made))
    info = await yard.info(made[0])
    assert (info.attempt, info.losses) == (0, 0)
    await runner.stop(0.1)


@both_ways
async def test_a_second_signal_ends_it_at_once(yard: Yard, tmp_path: Path) -> None:
    async with worker(yard, tmp_path, "--grace", "60s") as process:
        (task,) = await yard.call("naps", 60.0)
        (thread,) = await yard.call("sleeps", 60.0)
        await yard.begun(task, thread)
        process.signal(signal.SIGTERM)
        await until(lambda: "draining" in process.output())
        process.signal(signal.SIGTERM)
        assert await process.end(15.0) == 0, process.output()
    runner = await yard.worker()
    await until(lambda: yard.oracle.begun()[task] == [1, 2] and yard.oracle.begun()[thread] == [1, 2])
    await runner.stop(0.1)


async def test_a_thread_that_never_returns_does_not_keep_the_process(yard: Yard, tmp_path: Path) -> None:
    async with worker(yard, tmp_path, "--grace", "200ms") as process:
        made = await yard.call("strays", 300.0) + await yard.call("sleeps", 300.0)
        await yard.begun(*made)
        process.signal(signal.SIGTERM)
        assert await process.end(30.0) == 0, process.output()


@both_ways
async def test_a_killed_workers_tasks_are_run_by_another(yard: Yard, tmp_path: Path) -> None:
    async with worker(yard, tmp_path) as process:
        made = await yard.call("naps", 1.0, count=5)
        await yard.begun(*made)
        process.signal(signal.SIGKILL)
        await process.end()
        await yard.worker()
        await until(lambda: len(yard.oracle.ended()) == 5)
    assert {task: [1, 2] for task in made} == dict(yard.oracle.begun())
    assert {task: [2] for task in made} == dict(yard.oracle.ended())
    await yard.sound()


@both_ways
async def test_a_frozen_workers_late_answers_count_for_nothing(yard: Yard, tmp_path: Path) -> None:
    """T3: it is stopped for more than three leases and goes on as if nothing had been."""
    async with worker(yard, tmp_path) as process:
        made = await yard.call("sleeps", 0.5, count=4)
        await yard.begun(*made)
        process.signal(signal.SIGSTOP)
        runner = await yard.worker()
        await until(lambda: all(2 in yard.oracle.ended()[task] for task in made))
        await yard.sound()
        process.signal(signal.SIGCONT)
        # Its threads end now, and it finds that its sessions are over.
        await until(lambda: all(sorted(yard.oracle.ended()[task]) == [1, 2] for task in made))
        (after,) = await yard.call("quick")
        await yard.begun(after)
        process.signal(signal.SIGTERM)
        assert await process.end() == 0, process.output()
        # Straight on Redis what comes too late is only counted, in delaybox_stale_acks_total.
        assert "4 lost with their session" in process.output() or yard.way == "redis"
    assert runner.stats.done >= 4
    await yard.sound()


async def test_a_worker_whose_supervisor_is_killed_ends(yard: Yard, tmp_path: Path) -> None:
    async with worker(yard, tmp_path, "--processes", "2", sessions=6) as process:
        made = await yard.call("naps", 0.2, count=20)
        await yard.begun(*made)
        children = yard.oracle.processes()
        assert len(children) == 2
        assert process.pid not in children
        process.signal(signal.SIGKILL)
        await until(lambda: not any(map(_lives, children)))
    await yard.sound()


@both_ways
async def test_a_process_that_dies_is_started_again_and_all_end_together(yard: Yard, tmp_path: Path) -> None:
    async with worker(yard, tmp_path, "--processes", "2", sessions=6) as process:
        made = await yard.call("naps", 0.1, count=10)
        await yard.begun(*made)
        killed = min(yard.oracle.processes())
        os.kill(killed, signal.SIGKILL)
        await until(lambda: process.output().count("session with") >= 9)
        assert f"(pid {killed}) was ended by SIGKILL after" in process.output()
        process.signal(signal.SIGINT)
        assert await process.end() == 0, process.output()
        assert len(re.findall(r"stopped: \d+ done, 0 failed", process.output())) == 2


async def test_processes_that_cannot_start_end_the_supervisor(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "delaybox.worker", "no_such_module", "--processes", "3", stderr=asyncio.subprocess.PIPE
    )
    _, output = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 2
    assert b"module 'no_such_module' is not found" in output


async def test_a_wrong_token_ends_it_with_code_4(server: RealServer, prefix: str, client: Redis) -> None:
    await Store.open(Servers(client), prefix=prefix)
    async with rpc_process(server=server.settings, prefix=prefix, tokens=(Token.of("right"),)) as rpc:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "delaybox.worker", "tests.worker_app", "--server", rpc.address, "--token", "wrong",
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        _, output = await asyncio.wait_for(process.communicate(), 30)
        assert process.returncode == 4
        assert b"will not have this worker: UNAUTHENTICATED" in output


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
