"""Workers as processes of their own: signals, kills, freezes, and the supervisor of several."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from pathlib import Path

import pytest
from redis.asyncio import Redis

from delaybox.core.scopes import Token
from delaybox.store.servers import Servers
from delaybox.store.store import Store
from tests.engines import until
from tests.ports import free_port
from tests.proc import lives
from tests.rpc import rpc_process
from tests.servers import RealServer
from tests.waiting import PATIENCE_S
from tests.web import called
from tests.yard import PATIENT, Yard, both_ways, worker, yard

__all__ = ["yard"]  # the fixture


@pytest.mark.parametrize("beats", [PATIENT], ids=["patient"])
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
        made = await yard.hold(5)
        await yard.begun(*made)
        process.signal(signal.SIGKILL)
        await process.end()
        yard.gate.touch()
        await yard.worker()
        await until(lambda: len(yard.oracle.ended()) == 5)
    assert {task: [1, 2] for task in made} == dict(yard.oracle.begun())
    assert {task: [2] for task in made} == dict(yard.oracle.ended())
    await yard.sound()


@both_ways
async def test_a_frozen_workers_late_answers_count_for_nothing(yard: Yard, tmp_path: Path) -> None:
    """T3: it is stopped for more than three leases and goes on as if nothing had been."""
    async with worker(yard, tmp_path) as process:
        made = await yard.hold(4, name="held")
        await yard.begun(*made)
        process.signal(signal.SIGSTOP)
        yard.gate.touch()
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
        made = await yard.hold(20)  # as many as both have places for
        await yard.begun(*made)
        children = yard.oracle.processes()
        assert len(children) == 2
        yard.gate.touch()
        assert process.pid not in children
        process.signal(signal.SIGKILL)
        await until(lambda: not any(map(lives, children)))
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


@both_ways
async def test_a_worker_shows_what_all_its_processes_do(yard: Yard, tmp_path: Path) -> None:
    port = free_port()
    more = ("--processes", "2", "--metrics-port", str(port), "--log-level", "info", "--log-format", "json")
    async with worker(yard, tmp_path, *more, sessions=6) as process:

        async def asked(path: str) -> tuple[int, str]:
            return await asyncio.to_thread(called, f"127.0.0.1:{port}", path)

        async def shows(*lines: str) -> None:
            text = ""

            async def all_are_there() -> bool:
                nonlocal text
                text = (await asked("/metrics"))[1]
                return all(line in text for line in lines)

            with contextlib.suppress(AssertionError):
                await until(all_are_there)
            assert [line for line in lines if line not in text] == [], text

        made = await yard.call("quick", count=20) + await yard.call("fails", 9, retry={"max_attempts": 1})
        # More than one process has places for.
        naps = await yard.call("naps", 60.0, count=11)
        await yard.begun(*made, *naps)
        await shows(
            'delaybox_worker_attempts_total{function="quick",outcome="succeeded"} 20.0',
            'delaybox_worker_attempts_total{function="fails",outcome="failed"} 1.0',
            'delaybox_worker_attempt_seconds_count{function="quick"} 20.0',
            'delaybox_worker_places{kind="async"} 20.0',
            'delaybox_worker_places_taken{kind="async"} 11.0',
            "delaybox_worker_processes 2.0",
            "delaybox_worker_ready 1.0",
            "delaybox_build_info{",
            'state="up"} 6.0',
        )
        _, text = await asked("/metrics")
        assert ("delaybox_store_up" in text) == (yard.way == "redis"), "a worker of nodes knows nothing of the store"
        assert [(await asked(path))[0] for path in ("/healthz", "/livez", "/readyz")] == [200, 200, 200]
        process.signal(signal.SIGTERM)
        await until(lambda: process.output().count("draining") == 2)

        async def drains() -> bool:
            return (await asked("/readyz")) == (503, "the worker drains: it takes no more tasks")

        await until(drains)
        assert (await asked("/healthz"))[0] == 200
        process.signal(signal.SIGTERM)
        assert await process.end() == 0, process.output()
        lines = [json.loads(line) for line in process.output().splitlines()]
        (failed,) = [line for line in lines if line.get("function") == "fails"]
        assert failed["task"] == made[-1]


async def test_a_worker_without_a_node_is_not_ready(tmp_path: Path) -> None:
    port, nobody = free_port(), free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "delaybox.worker", "tests.worker_app",
        "--server", f"127.0.0.1:{nobody}", "--metrics-port", str(port), stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:

        async def waits_for_its_node() -> bool:
            try:
                found = await asyncio.to_thread(called, f"127.0.0.1:{port}", "/readyz")
            except OSError:
                return False
            return found == (503, f"no session with 127.0.0.1:{nobody}")

        await until(waits_for_its_node)
        assert await asyncio.to_thread(called, f"127.0.0.1:{port}", "/healthz") == (200, "ok")
    finally:
        process.kill()
        await process.wait()


async def test_processes_that_cannot_start_end_the_supervisor(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "delaybox.worker", "no_such_module", "--processes", "3", stderr=asyncio.subprocess.PIPE
    )
    _, output = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    assert process.returncode == 2
    assert b"module 'no_such_module' is not found" in output


async def test_a_wrong_token_ends_it_with_code_4(server: RealServer, prefix: str, client: Redis) -> None:
    await Store.open(Servers(client), prefix=prefix)
    async with rpc_process(server=server.settings, prefix=prefix, tokens=(Token.of("right"),)) as rpc:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "delaybox.worker", "tests.worker_app", "--server", rpc.address, "--token", "wrong",
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        _, output = await asyncio.wait_for(process.communicate(), PATIENCE_S)
        assert process.returncode == 4
        assert b"will not have this worker: UNAUTHENTICATED" in output
