"""What a function raises or returns is foreign code: whatever it does when it is looked at, its attempt ends."""

from __future__ import annotations

import asyncio
import math
from datetime import timedelta
from typing import Any

import pytest

from delaybox.wire.gen import worker_pb2 as pb
from delaybox.worker import RetryLater, Worker
from delaybox.worker.context import CancelSignal
from delaybox.worker.failures import failure
from delaybox.worker.functions import FunctionKind
from delaybox.worker.testing import Inline
from tests.crews import shift
from tests.unit import hostile_tasks
from tests.waiting import PATIENCE_S

WORKERS = {
    FunctionKind.ASYNC: hostile_tasks.worker(None),
    FunctionKind.THREAD: hostile_tasks.worker(False),
    FunctionKind.CPU: hostile_tasks.CPU,
}
RAISED: list[tuple[str, str, Any]] = [
    ("raises", "mute", ("Mute: (what it says cannot be read: its __str__ raised KeyError)", False)),
    ("raises", "nan", ("(what it says cannot be read: its __str__ raised SystemExit)", False)),
    ("raises", "not text", ("NotText: (what it says cannot be read: its __str__ raised TypeError)", False)),
    ("raises", "chameleon", ("Chameleon", False)),
    ("raises", "odd", ("Odd: odd", False)),
    ("raises", "surrogate", ("ValueError: half ? a character", False)),
    ("raises", "far", ("far (after=1e+300 is more than 10 years", False)),
    ("raises", "text", ("text (its `after` is no number of seconds, ValueError", False)),
    ("raises", "stop", ("RuntimeError: ", False)),
    ("raises", "memory", ("MemoryError", False)),
    ("raises", "dict", ("NotEncodable: the result cannot be sent as application/json (OSError: gone)", True)),
    ("overflows", "", ("NotEncodable: the result cannot be sent as x/overflows (OverflowError: int too large", True)),
    ("text", "", ("NotEncodable: the result cannot be sent as x/text: its codec made str, not bytes", True)),
]


@pytest.mark.parametrize("kind", list(FunctionKind))
async def test_every_attempt_ends_and_its_place_is_free_again(kind: FunctionKind) -> None:
    async with shift(WORKERS[kind], kind, size=1) as s:
        for name, how, (reason, final) in RAISED:
            (given,) = s.give((name, [how]), want_result=True)
            reported = await s.until(given)
            assert reported.failed[given].reason.startswith(reason), how
            assert reported.failed[given].final is final, how
            assert not reported.failed[given].HasField("retry_after_ms")
        (long,) = s.give(("raises", ["long"]), want_result=True)
        reported = await s.until(long)
        assert len(reported.failed[long].reason) == 2_000
        (well,) = s.give(("raises", ["well"]), want_result=True)
        assert (await s.until(well)).succeeded[well].output == b'"well"'
        assert s.crew.slots.lingering == 0


async def test_a_thread_that_hangs_in_what_it_raised_is_timed_out_and_the_loop_goes_on() -> None:
    """Words and results are read in the thread: the time-out does not wait for them."""
    worker = Worker("w")
    release = __import__("threading").Event()

    class Slow(Exception):
        def __str__(self) -> str:
            assert release.wait(30)
            return "at last"

    # Its thread must have begun by then: one that comes too late leaves at once.
    @worker.task(timeout="500ms")
    def hangs() -> None:
        raise Slow

    @worker.task
    def well() -> None:
        pass

    async with shift(worker, FunctionKind.THREAD, size=2) as s:
        (given,) = s.give(("hangs", []))
        reported = await s.until(given)
        assert reported.failed[given].reason == "timed out after 0.5 s"
        (other,) = s.give(("well", []))
        await s.until(other)
        assert s.crew.slots.lingering == 1
        release.set()
        await s.when(lambda: s.crew.slots.lingering == 0)


@pytest.mark.parametrize("after", [math.nan, math.inf, -1, 1e300, "soon", "-3s", [1]])
def test_a_time_to_wait_that_is_none_is_refused_where_it_is_written(after: Any) -> None:
    with pytest.raises(ValueError, match="is not a time to wait; give seconds"):
        RetryLater("busy", after=after)


@pytest.mark.parametrize(("after", "ms"), [(2.5, 2_500), (0, 0), (timedelta(minutes=1), 60_000), ("30s", 30_000)])
def test_a_time_to_wait_is_seconds_a_timedelta_or_text(after: Any, ms: int) -> None:
    assert failure(RetryLater("busy", after=after)).retry_after_ms == ms


def test_an_exception_with_an_unreadable_class_is_a_failure_all_the_same() -> None:
    class Meta(type):
        @property
        def __name__(cls) -> str:  # type: ignore[override]
            raise ValueError

    class Nameless(Exception, metaclass=Meta):
        pass

    failed: pb.Failed = failure(Nameless("words"))
    assert "words" in failed.reason


async def test_a_signal_with_a_waiter_whose_loop_ended_is_set_all_the_same() -> None:
    signal = CancelSignal()

    def gone() -> None:
        raise RuntimeError("Event loop is closed")

    signal._waiters.append(gone)
    waiting = asyncio.ensure_future(signal.wait())
    await asyncio.sleep(0)
    signal.set("stop")
    await asyncio.wait_for(waiting, PATIENCE_S)


def test_a_default_that_cannot_be_shown_does_not_hide_what_is_wrong() -> None:
    class Shy:
        def __repr__(self) -> str:
            raise TypeError

    worker = Worker("w")

    @worker.task
    def takes(a: int, b: object = Shy()) -> None:
        pass

    tasks = Inline(worker)
    sent = tasks.schedule(takes, {"c": 1})
    tasks.run_all()
    assert sent.state == "failed" and "the arguments do not fit takes(a, b)" in sent.reason
