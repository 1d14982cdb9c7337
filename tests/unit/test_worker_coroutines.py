"""Async functions: what is said of each, and what they see of the loop and of each other."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Any

import pytest

from delaybox.worker import Context, Reject, RetryLater, Stopped, Worker, current, timeouts
from delaybox.worker.functions import FunctionKind
from tests.crews import shift
from tests.waiting import PATIENCE_S

WORKER = Worker("test")
started: asyncio.Queue[str]
go: asyncio.Event
variable: ContextVar[str] = ContextVar("variable", default="unset")


@pytest.fixture(autouse=True)
async def _signals() -> None:
    global started, go
    started, go = asyncio.Queue(), asyncio.Event()


@WORKER.task
async def at_once(*args: int, **kwargs: int) -> int:
    return sum(args) + sum(kwargs.values())


@WORKER.task
async def waits(name: str = "") -> str:
    started.put_nowait(name)
    await go.wait()
    return name


@WORKER.task
async def fails(how: str) -> None:
    match how:
        case "raise":
            raise ValueError("no such order: 7")
        case "reject":
            raise Reject("not worth it")
        case "later":
            raise RetryLater("busy", after=2.5)
        case "exit":
            raise SystemExit(3)
        case "cancelled":
            raise asyncio.CancelledError
        case "self":
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(0)


@WORKER.task
async def unencodable() -> object:
    return object()


@WORKER.task
async def big(count: int) -> str:
    return "x" * count


@WORKER.task
async def reports(ctx: Context) -> dict[str, Any]:
    assert current() is ctx
    ctx.progress(0.5, "half")
    return {"attempt": ctx.attempt, "token": ctx.token, "queue": ctx.queue, "labels": dict(ctx.labels), "id": ctx.id}


@WORKER.task(timeout="50ms")
async def slow() -> None:
    await asyncio.sleep(60)


@WORKER.task(timeout="50ms")
async def stubborn() -> None:
    while not go.is_set():
        try:
            await go.wait()
        except asyncio.CancelledError:
            started.put_nowait("cancelled")


@WORKER.task
async def swallows() -> str:
    started.put_nowait("")
    try:
        await go.wait()
    except asyncio.CancelledError:
        assert current().cancelled.is_set()
        assert current().cancelled.reason == "cancelled"
        return "done all the same"
    return ""


@WORKER.task
async def sets_a_variable() -> str:
    before = variable.get()
    variable.set("mine")
    await asyncio.sleep(0)
    assert variable.get() == "mine"
    return before


@WORKER.task
async def uses_its_task() -> bool:
    mine = asyncio.current_task()
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
        child = group.create_task(asyncio.sleep(0, current().id))
    assert child.result() == current().id
    return asyncio.current_task() is mine


def crew(size: int = 10) -> Any:
    return shift(WORKER, FunctionKind.ASYNC, size=size)


async def test_without_a_wanted_result_only_the_end_is_said() -> None:
    async with crew() as s:
        given = s.give(("at_once", [1, 2]), ("at_once", b""), ("waits", []), ("at_once", {"a": 1}))
        assert await started.get() == ""
        go.set()
        reported = await s.until(*given)
        assert sorted(reported.done) == given
        assert s.common.stats.done == 4


async def test_a_wanted_result_is_encoded() -> None:
    async with crew() as s:
        go.set()
        calls = ("at_once", [1, 2]), ("waits", ["x"]), ("big", [3])
        reported = await s.until(*s.give(*calls, want_result=True))
        assert [reported.succeeded[n].output for n in (1, 2, 3)] == [b"3", b'"x"', b'"xxx"']


async def test_one_that_waits_holds_up_nobody() -> None:
    async with crew(size=100) as s:
        many = s.give(*([("waits", ["w"]), ("at_once", [1])] * 40))
        reported = await s.until(*many[1::2])
        assert sorted(reported.done) == many[1::2]
        go.set()
        assert sorted((await s.until(*many)).done) == many


@pytest.mark.parametrize(
    ("how", "reason", "final"),
    [
        ("raise", "ValueError: no such order: 7", False),
        ("reject", "not worth it", True),
        ("later", "busy", False),
        ("exit", "SystemExit: 3", False),
        ("cancelled", "CancelledError", False),
        ("self", "CancelledError", False),
    ],
)
async def test_failures_say_why(how: str, reason: str, final: bool) -> None:
    async with crew() as s:
        (given, well) = s.give(("fails", [how]), ("at_once", [1]))
        reported = await s.until(given, well)
        failed = reported.failed[given]
        assert (failed.reason, failed.final, failed.cancelled) == (reason, final, False)
        assert (failed.retry_after_ms if failed.HasField("retry_after_ms") else None) == (
            2500 if how == "later" else None
        )
        assert b"in fails" in failed.output
        if how != "self":  # thrown in from the loop: its first frame is ours
            assert b"delaybox/worker" not in failed.output
        assert reported.done == [well]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (("unencodable", []), "the result cannot be sent as application/json"),
        (("big", [200_000]), "the result has 200002 bytes, at most 100000 are kept"),
        (("at_once", b"{"), "the payload is not application/json"),
        (("big", []), "the arguments do not fit big(count: 'int') -> 'str': missing a required argument: 'count'"),
        (("big", [1, 2]), "too many positional arguments"),
    ],
)
async def test_what_no_other_attempt_would_mend_is_final(call: tuple[str, Any], words: str) -> None:
    async with crew() as s:
        (given,) = s.give(call, want_result=True)
        failed = (await s.until(given)).failed[given]
        assert words in failed.reason
        assert failed.final


async def test_a_type_error_of_the_functions_own_is_no_misfit() -> None:
    async with crew() as s:
        (given,) = s.give(("at_once", ["not a number"]))
        failed = (await s.until(given)).failed[given]
        assert failed.reason.startswith("TypeError: unsupported operand")
        assert not failed.final


async def test_an_unknown_function_is_handed_back() -> None:
    async with crew() as s:
        (given,) = s.give(("nobody", []))
        assert (await s.until(given)).handed_back == [given]


async def test_a_context_tells_of_the_task_and_takes_progress() -> None:
    async with crew() as s:
        (given,) = s.give(("reports", []), want_result=True, labels={"customer": "c-17"})
        reported = await s.until(given)
        assert reported.succeeded[given].output == (
            b'{"attempt":1,"token":2,"queue":"default","labels":{"customer":"c-17"},'
            b'"id":"01a2b3c4-d5e6-8001-9f00-112233445566"}'
        )


async def test_outside_of_a_task_there_is_no_current_one() -> None:
    with pytest.raises(LookupError, match="no task runs here"):
        current()


async def test_out_of_time_is_cancelled_and_fails() -> None:
    async with crew() as s:
        own, brought = s.give(("slow", [])), s.give(("waits", []), timeout_ms=30)
        reported = await s.until(*own, *brought)
        assert reported.failed[own[0]].reason == "timed out after 0.05 s"
        assert reported.failed[brought[0]].reason == "timed out after 0.03 s"


async def test_code_that_goes_on_past_its_time_fails_and_keeps_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeouts, "STOP_S", 0.05)
    async with crew(size=1) as s:
        (given,) = s.give(("stubborn", []))
        assert (await s.until(given)).failed[given].reason == "timed out after 0.05 s"
        assert s.crew.slots.room(s.session) == 0
        assert s.common.stats.overran == 1
        go.set()
        await s.when(lambda: s.crew.slots.room(s.session) == 1)


async def test_a_cancelled_task_is_stopped_and_says_so() -> None:
    async with crew() as s:
        given = s.give(("waits", []), ("swallows", []))
        for _ in given:
            await started.get()
        s.cancel(*given)
        reported = await s.until(*given)
        assert reported.failed[given[0]].cancelled
        assert reported.done == [given[1]]


async def test_what_a_lost_session_held_is_stopped_and_nothing_is_said() -> None:
    async with crew(size=2) as s:
        s.give(("waits", []), ("waits", []))
        await started.get()
        await started.get()
        s.forgotten()
        await s.when(lambda: s.crew.slots.room(s.session) == 2)
        assert s.reported.ended == set()
        assert s.common.stats.lost == 2


async def test_variables_of_one_task_are_not_seen_by_the_next() -> None:
    async with crew() as s:
        reported = await s.until(*s.give(("sets_a_variable", []), ("sets_a_variable", []), want_result=True))
        assert {r.output for r in reported.succeeded.values()} == {b'"unset"'}


async def test_each_has_a_real_asyncio_task_that_stays_the_same() -> None:
    async with crew() as s:
        reported = await s.until(*s.give(*([("uses_its_task", [])] * 5), want_result=True))
        assert {r.output for r in reported.succeeded.values()} == {b"true"}


async def test_a_stop_error_raised_by_the_code_itself_is_a_failure() -> None:
    worker = Worker("own")

    @worker.task
    async def stops() -> None:
        raise Stopped("by itself")

    async with shift(worker, FunctionKind.ASYNC) as s:
        (given,) = s.give(("stops", []))
        failed = (await s.until(given)).failed[given]
        assert (failed.reason, failed.cancelled) == ("by itself", False)
