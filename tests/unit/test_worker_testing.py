"""`Inline`: a user's tasks in a test, with a clock that the test moves."""

from __future__ import annotations

import asyncio

import pytest

from delaybox.client.models import Retry
from delaybox.client.new_tasks import NewTask
from delaybox.core.errors import InvalidTask, NotEncodable
from delaybox.wire.call import Call
from delaybox.worker import Context, Reject, RetryLater, Worker, current
from delaybox.worker.testing import START_MS, Inline, run_inline

WORKER = Worker("shop")
SENT: list[tuple[str, int]] = []


@WORKER.task
async def send(to: str, *, copies: int = 1) -> int:
    SENT.append((to, copies))
    return copies


@WORKER.task(retries=Retry(3, initial="10s", factor=2, jitter=0))
def fails(until: int, ctx: Context) -> int:
    ctx.progress(0.5, "trying")
    if ctx.attempt < until:
        raise ConnectionError("no answer")
    return ctx.attempt


@WORKER.task
def rejects() -> None:
    raise Reject("never")


@WORKER.task
def later() -> None:
    if current().token == 1:
        raise RetryLater("busy", after=90)


@WORKER.task(cpu=True)
def square(x: int) -> int:
    return x * x


@WORKER.task(timeout="10ms", retries=0)
async def hangs() -> None:
    await asyncio.sleep(60)


@WORKER.task
def unencodable() -> object:
    return object()


@pytest.fixture
def inline() -> Inline:
    SENT.clear()
    return run_inline(WORKER)


def test_a_task_runs_when_the_clock_gets_there(inline: Inline) -> None:
    task = inline.schedule(send, Call("ann", copies=2), delay="1h")
    assert inline.advance("59m") == []
    assert (task.state, SENT) == ("scheduled", [])
    assert inline.advance("1m") == [task]
    assert (task.state, task.result, SENT) == ("succeeded", 2, [("ann", 2)])
    assert task.ran_at_ms == [START_MS + 3_600_000]


def test_tasks_run_in_the_order_of_their_due_times(inline: Inline) -> None:
    for to, delay in (("c", "3s"), ("a", "1s"), ("b", "2s")):
        inline.schedule("send", [to], delay=delay)
    inline.run_all()
    assert [to for to, _ in SENT] == ["a", "b", "c"]
    assert inline.now_ms == START_MS + 3_000


def test_failures_are_retried_at_virtual_moments(inline: Inline) -> None:
    task = inline.schedule(fails, [2])
    inline.run_all()
    assert (task.state, task.result, task.attempts) == ("succeeded", 2, 3)
    assert task.failures == ["ConnectionError: no answer"] * 2
    assert [ms - START_MS for ms in task.ran_at_ms] == [0, 10_000, 30_000]
    assert task.progress == [(0.5, "trying")] * 3


def test_attempts_run_out(inline: Inline) -> None:
    task, own = inline.schedule(fails, [9]), inline.schedule(fails, [9], retry=0)
    inline.run_all()
    assert (task.state, task.attempts, task.reason) == ("failed", 3, "ConnectionError: no answer")
    assert (own.state, own.attempts) == ("failed", 1)
    assert isinstance(task.errors[0], ConnectionError)


def test_a_rejection_is_final_and_a_moment_for_the_next_attempt_is_kept(inline: Inline) -> None:
    rejected, put_off = inline.schedule(rejects), inline.schedule(later)
    inline.advance()
    assert (rejected.state, rejected.attempts) == ("failed", 1)
    assert put_off.due_ms == START_MS + 90_000
    inline.advance("90s")
    assert put_off.state == "succeeded"


def test_plain_and_cpu_functions_run_here_and_time_outs_are_real(inline: Inline) -> None:
    computed, hung, bad = inline.schedule(square, [7]), inline.schedule(hangs), inline.schedule(unencodable)
    inline.run_all()
    assert computed.result == 49
    assert (hung.state, hung.reason) == ("failed", "timed out after 0.01 s")
    assert isinstance(bad.errors[0], NotEncodable)
    assert bad.state == "failed"


def test_keys_cancels_and_moments(inline: Inline) -> None:
    first = inline.schedule(NewTask.call(send, ["ann"], key="k", at_ms=START_MS + 5_000))
    assert inline.schedule(send, ["bob"], key="k") is first
    inline.cancel(first)
    inline.run_all()
    assert (first.state, SENT) == ("cancelled", [])
    assert inline.schedule(send, ["x"], at_ms=START_MS - 1).due_ms == inline.now_ms


async def test_inside_a_running_loop(inline: Inline) -> None:
    task = inline.schedule(send, ["ann"])
    with pytest.raises(RuntimeError, match="advance_async"):
        inline.advance()
    await inline.advance_async()
    assert task.state == "succeeded"


def test_a_function_that_the_worker_does_not_have_is_refused(inline: Inline) -> None:
    with pytest.raises(InvalidTask, match="has no task 'nobody'; it has fails, hangs"):
        inline.schedule("nobody")


def test_tasks_that_schedule_tasks_for_ever_are_noticed() -> None:
    worker = Worker("loop")
    inline = run_inline(worker)

    @worker.task
    def again() -> None:
        inline.schedule("again", delay="1s")

    inline.schedule(again)
    with pytest.raises(RuntimeError, match="for ever"):
        inline.run_all(most=50)
    assert inline.advance("10s")


def test_a_task_that_no_worker_would_take_is_refused_and_not_run_all_the_same() -> None:
    worker = Worker("shop", queues=["mail"])

    @worker.task(queue="mail")
    def remind() -> None:
        pass

    @worker.task
    def any_queue() -> None:
        pass

    tasks = Inline(worker)
    assert tasks.schedule("remind").name == "remind"
    with pytest.raises(InvalidTask, match="serves 'remind' from mail, not from 'default'"):
        tasks.schedule(remind, queue="default")
    with pytest.raises(InvalidTask, match="serves 'any_queue' from mail, not from 'default'"):
        tasks.schedule(any_queue)
