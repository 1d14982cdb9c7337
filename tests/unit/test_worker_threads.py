"""Plain functions in threads: what is said of each, and what happens to code that cannot be stopped."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from delaybox.worker import Context, Worker, current
from delaybox.worker.functions import FunctionKind
from tests.crews import shift
from tests.waiting import PATIENCE_S

WORKER = Worker("test")
go: threading.Event
started: threading.Semaphore


@pytest.fixture(autouse=True)
def _signals() -> Any:
    global started, go
    started, go = threading.Semaphore(0), threading.Event()
    yield
    go.set()


@WORKER.task
def add(a: int, b: int = 0) -> int:
    return a + b


@WORKER.task(timeout="500ms")
def waits() -> str:
    """Begins long before its time is over: one whose thread comes too late leaves at once."""
    started.release()
    assert go.wait(30)
    return "waited"


@WORKER.task
def looks(ctx: Context) -> None:
    started.release()
    assert ctx.cancelled.wait_blocking(30)
    ctx.heartbeat()


@WORKER.task
def ignores() -> str:
    started.release()
    assert go.wait(30)
    return "all the same"


@WORKER.task
def reports() -> str:
    current().progress(0.25, "a quarter")
    return threading.current_thread().name


@WORKER.task
def leaves() -> None:
    raise SystemExit(1)


def crew(size: int = 4) -> Any:
    return shift(WORKER, FunctionKind.THREAD, size=size)


async def test_results_failures_and_misfits() -> None:
    async with crew() as s:
        calls: tuple[tuple[str, Any], ...] = ("add", [1, 2]), ("add", ["x", 1]), ("add", [1, 2, 3]), ("leaves", [])
        ok, bad, misfit, left = s.give(*calls, want_result=True)
        reported = await s.until(ok, bad, misfit, left)
        assert reported.succeeded[ok].output == b"3"
        assert reported.failed[bad].reason.startswith("TypeError: can only concatenate")
        assert not reported.failed[bad].final
        assert "the arguments do not fit add(" in reported.failed[misfit].reason
        assert reported.failed[misfit].final
        assert reported.failed[left].reason == "SystemExit: 1"


async def test_progress_from_a_thread_reaches_the_session() -> None:
    async with crew() as s:
        (given,) = s.give(("reports", []), want_result=True)
        reported = await s.until(given)
        assert reported.succeeded[given].output.startswith(b'"delaybox-')
        await s.when(lambda: True)
        assert reported.progress.get(given, [(0.25, "a quarter")]) == [(0.25, "a quarter")]


async def test_out_of_time_fails_at_once_and_keeps_the_place_until_the_thread_is_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with crew(size=1) as s:
        (given,) = s.give(("waits", []))
        reported = await s.until(given)
        assert reported.failed[given].reason == "timed out after 0.5 s"
        assert s.crew.slots.room(s.session) == 0
        assert s.common.stats.overran == 1
        assert "keeps its place until it ends" in caplog.text
        go.set()
        await s.when(lambda: s.crew.slots.room(s.session) == 1)
        assert s.reported.done == []


async def test_a_cancelled_one_sees_the_signal() -> None:
    async with crew() as s:
        given = s.give(("looks", []), ("ignores", []))
        assert all(started.acquire(timeout=PATIENCE_S) for _ in given)
        s.cancel(*given)
        go.set()
        reported = await s.until(*given)
        assert (reported.failed[given[0]].cancelled, reported.failed[given[0]].reason) == (True, "cancelled")
        assert reported.done == [given[1]]


async def test_nothing_is_said_of_what_a_lost_session_held() -> None:
    async with crew(size=2) as s:
        s.give(("looks", []), ("ignores", []))
        assert all(started.acquire(timeout=PATIENCE_S) for _ in range(2))
        s.forgotten()
        go.set()
        await s.when(lambda: s.crew.slots.room(s.session) == 2)
        assert s.reported.ended == set()


async def test_there_are_no_more_threads_than_places() -> None:
    async with crew(size=3) as s:
        for _ in range(5):
            await s.until(*s.give(*[("add", [1, 1])] * 3))
        assert len(s.crew._threads) <= 3
