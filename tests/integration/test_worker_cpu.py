"""Cpu functions in processes of their own: results, deaths, time-outs, cancels; nobody else suffers."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from delaybox.worker import Worker, cpu_processes
from delaybox.worker.ahead import RunPace
from delaybox.worker.functions import FunctionKind
from tests.crews import Shift, shift
from tests.unit import slow_import
from tests.unit.cpu_tasks import WORKER
from tests.waiting import until_async


def crew(size: int = 2) -> Any:
    return shift(WORKER, FunctionKind.CPU, size=size)


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


async def spinning(s: Shift, file: Path, **task: Any) -> tuple[int, int]:
    """Its sequence, and the process that computes."""
    (given,) = s.give(("spins", [str(file)]), **task)
    await until_async(lambda: file.exists() and bool(file.read_text()))
    return given, int(file.read_text())


async def test_results_failures_and_context() -> None:
    async with crew() as s:
        ok, refused = s.give(("square", [12]), ("refuses", []), want_result=True)
        await s.until(ok, refused)
        bad, reporting = s.give(("unencodable", []), ("reports", []), want_result=True, header={"h": b"v"})
        await s.until(bad, reporting)
        broken, misfit = s.give(("square", b"{"), ("square", []), want_result=True)
        reported = await s.until(broken, misfit)
        assert reported.succeeded[ok].output == b"144"
        assert (reported.failed[refused].reason, reported.failed[refused].final) == ("no use", True)
        assert b"in refuses" in reported.failed[refused].output
        assert "the result cannot be sent" in reported.failed[bad].reason
        assert b'"headers":{"h":"v"}' in reported.succeeded[reporting].output
        assert "not application/json" in reported.failed[broken].reason
        assert "the arguments do not fit square(" in reported.failed[misfit].reason
        assert all(reported.failed[n].final for n in (bad, broken, misfit))


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("exit", "exit code 7"),
        ("segv", "SIGSEGV"),
        ("kill", "SIGKILL, which is also what"),
        ("sys.exit", "SystemExit: 1"),
    ],
)
async def test_a_process_that_dies_fails_its_own_attempt_alone(how: str, words: str) -> None:
    async with crew() as s:
        given = s.give(("dies", [how]), ("square", [3]), want_result=True)
        reported = await s.until(*given)
        assert words in reported.failed[given[0]].reason
        assert not reported.failed[given[0]].final
        assert reported.succeeded[given[1]].output == b"9"
        # The next ones find processes that work.
        more = s.give(("square", [4]), ("square", [5]), want_result=True)
        reported = await s.until(*more)
        assert [reported.succeeded[n].output for n in more] == [b"16", b"25"]


async def test_out_of_time_and_cancelled_ones_are_killed_and_replaced(tmp_path: Path) -> None:
    async with crew() as s:
        late, first = await spinning(s, tmp_path / "a", timeout_ms=1_500)
        cancelled, second = await spinning(s, tmp_path / "b")
        s.cancel(cancelled)
        reported = await s.until(late, cancelled)
        assert reported.failed[late].reason == "timed out after 1.5 s"
        assert (reported.failed[cancelled].reason, reported.failed[cancelled].cancelled) == ("cancelled", True)
        assert gone(first)
        assert gone(second)
        (more,) = s.give(("square", [4]), want_result=True)
        assert (await s.until(more)).succeeded[more].output == b"16"


async def test_what_waits_for_a_process_can_be_cancelled(tmp_path: Path) -> None:
    async with crew(size=1) as s:
        # More than there are processes: only a session that lost its places could do this, and it must not hang.
        s.session.credit += 1
        busy, _ = await spinning(s, tmp_path / "a")
        s.session.credit += 1
        (waits,) = s.give(("square", [1]))
        s.cancel(waits)
        assert (await s.until(waits)).failed[waits].cancelled
        s.cancel(busy)
        await s.until(busy)


@pytest.fixture
def short_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs pass for short, however long they take on this machine."""
    monkeypatch.setattr(RunPace, "ahead", property(lambda _: 4))


@pytest.mark.usefixtures("short_runs")
async def test_while_functions_are_short_the_next_ones_are_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_processes, "HOLD_S", 60.0)
    async with crew(size=1) as s:
        (given,) = s.give(("square", [1]))
        await s.until(given)
        assert s.crew.slots.ahead == 4
        given = s.give(*(("square", [number]) for number in range(4)), want_result=True)
        reported = await s.until(*given)
        assert [reported.succeeded[one].output for one in given] == [b"0", b"1", b"4", b"9"]
        assert s.session.taken <= 1, "they take no places"


@pytest.mark.usefixtures("short_runs")
async def test_what_waits_behind_a_long_one_is_handed_back(tmp_path: Path) -> None:
    async with crew(size=1) as s:
        (given,) = s.give(("square", [1]))
        await s.until(given)
        busy, _ = await spinning(s, tmp_path / "a")
        waits = s.give(("square", [1]), ("square", [2]))
        reported = await s.until(*waits)
        assert reported.handed_back == waits and busy not in reported.ended
        assert s.crew.slots.ahead == 0
        s.cancel(busy)
        await s.until(busy)


@pytest.mark.usefixtures("short_runs")
async def test_what_waits_outlives_the_process_that_dies_before_it() -> None:
    async with crew(size=1) as s:
        (given,) = s.give(("square", [1]))
        await s.until(given)
        dies, waits = s.give(("dies", ["kill"]), ("square", [3]), want_result=True)
        reported = await s.until(dies, waits)
        assert "SIGKILL" in reported.failed[dies].reason
        # Its process starts anew, which may take longer than it is to wait.
        assert waits in reported.handed_back or reported.succeeded[waits].output == b"9"


async def test_a_start_that_is_cancelled_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that stops cancels starts, wherever they are: the process was lost where its socket was awaited."""
    real, made = asyncio.create_subprocess_exec, list[asyncio.subprocess.Process]()

    async def create(*words: Any, **how: Any) -> asyncio.subprocess.Process:
        made.append(await real(*words, **how))
        return made[-1]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", create)
    # Each step of the loop at which it can be cancelled, up to the one at which it has ended.
    for steps in itertools.count():
        start = asyncio.create_task(cpu_processes._spawned())
        for _ in range(steps):
            await asyncio.sleep(0)
        ended = start.done()
        start.cancel()
        await asyncio.wait({start})
        if not start.cancelled():
            started = start.result()
            made.remove(started.process)
            started.writer.close()
            started.process.kill()
            await started.process.wait()
        lost, made[:] = [process.pid for process in made], []
        assert lost == [], f"cancelled after {steps} steps"
        if ended:
            break


async def test_an_idle_process_that_dies_is_replaced() -> None:
    async with crew(size=1) as s:
        (given,) = s.give(("pid", []), want_result=True)
        first = int((await s.until(given)).succeeded[given].output)
        os.kill(first, signal.SIGKILL)
        await s.when(lambda: True)
        while True:
            (given,) = s.give(("pid", []), want_result=True)
            reported = await s.until(given)
            if given in reported.succeeded:
                break
            # It was handed its job in the moment it died.
            assert "its process died" in reported.failed[given].reason
        assert int(reported.succeeded[given].output) != first


async def test_processes_end_with_their_worker(tmp_path: Path) -> None:
    async with crew() as s:
        _, process = await spinning(s, tmp_path / "a")
    assert gone(process)


async def test_a_task_inside_a_function_cannot_go_to_another_process() -> None:
    worker = Worker("inside")

    @worker.task(cpu=True)
    def inner() -> None:
        raise AssertionError

    with pytest.raises(ValueError, match="move it to the top of a module"):
        async with shift(worker, FunctionKind.CPU):
            pass


async def test_a_nested_name_is_found() -> None:
    async with crew(size=1) as s:
        (given,) = s.give(("held", []), want_result=True)
        assert (await s.until(given)).succeeded[given].output == b'"held"'


async def test_what_the_import_takes_is_not_the_tasks_time() -> None:
    """Its module takes 1.5 s to import, the function may take 1 s."""
    async with shift(slow_import.WORKER, FunctionKind.CPU, size=1) as s:
        for _ in range(2):
            (given,) = s.give(("quick", []), want_result=True)
            reported = await s.until(given)
            assert given in reported.succeeded, reported.failed[given].reason
            assert float(reported.succeeded[given].output) > 0.5
            assert reported.succeeded[given].duration_ms < 1_000


async def test_an_import_that_never_ends_fails_the_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_processes, "IMPORT_MS", 300)
    async with shift(slow_import.WORKER, FunctionKind.CPU, size=1) as s:
        (given,) = s.give(("quick", []), want_result=True)
        reported = await s.until(given)
        assert reported.failed[given].reason == "its module was not imported within 0.3 s"


async def test_what_a_cpu_function_starts_can_be_told_to_end() -> None:
    """It does not inherit that its parent leaves SIGTERM to the worker."""
    async with crew(1) as s:
        (given,) = s.give(("starts", []), want_result=True)
        reported = await s.until(given)
        assert given in reported.succeeded, reported.failed[given].reason
        assert reported.succeeded[given].output == b"[-15,-15]"
