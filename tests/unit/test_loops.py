"""When the loops of a process wake: together, and not while there is nothing to do."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from types import SimpleNamespace

import pytest

from delaybox.core.delivery import Delivery
from delaybox.core.errors import StoreUnavailable
from delaybox.core.history import HistoryRules
from delaybox.core.task import TaskState
from delaybox.engine.lag import Lag
from delaybox.engine.loops import Loop, Walk
from delaybox.engine.store_outage import AGAIN_S
from delaybox.processes.waking import rest, together
from delaybox.service.recorder import Recorder
from delaybox.store.loader import ScriptCall
from tests.virtual_time import VirtualLoop


@pytest.fixture
def virtual() -> Iterator[VirtualLoop]:
    loop = VirtualLoop(1_000.123)
    yield loop
    loop.close()


def steps(pause_s: float, now: Callable[[], float], began: list[float], took_s: float = 0.001) -> Loop:
    async def step() -> float:
        began.append(now())
        await asyncio.sleep(took_s)
        return pause_s

    return Loop("test", step)


async def passed(seconds: float, *loops: Loop) -> None:
    for loop in loops:
        loop.start()
    await asyncio.sleep(seconds)
    for loop in loops:
        await loop.stop()


def test_an_outage_is_told_once_by_all_loops_of_a_process(
    virtual: VirtualLoop, caplog: pytest.LogCaptureFixture
) -> None:
    """Each loop told it for itself: twenty lines for one server that was away."""
    why: list[str] = []

    async def step() -> float:
        if why:
            raise StoreUnavailable(why[0])
        return 0.05

    async def three() -> None:
        loops = [Loop(name, step) for name in ("one", "two", "three", "stopped")]
        for loop in loops:
            loop.start()
        await asyncio.sleep(0.2)
        why.append("Redis is away")
        await asyncio.sleep(5.0)
        why[0] = "Redis loads"
        await loops.pop().stop()
        await asyncio.sleep(AGAIN_S + 5.0)
        why.clear()
        await asyncio.sleep(2.0)
        why.append("Redis is away")
        await asyncio.sleep(1.0)
        for loop in loops:
            await loop.stop()

    with caplog.at_level("INFO", "delaybox.engine"):
        virtual.run_until_complete(three())
    told = [line.partition(", after")[0].partition(": ")[2] or line.partition(", after")[0] for line in caplog.messages]
    assert told == ["Redis is away", "Redis loads", "Redis loads", "the store answers again", "Redis is away"]


def test_loops_of_a_process_wake_together(virtual: VirtualLoop):
    """Each kept a time of its own."""
    began: list[list[float]] = [[], [], []]

    async def three() -> None:
        loops = [steps(pause, virtual.time, at) for pause, at in zip((0.5, 0.5, 1.0), began, strict=True)]
        loops[0].start()
        await asyncio.sleep(0.3)
        await passed(10.0, *loops[1:])
        await loops[0].stop()

    virtual.run_until_complete(three())
    woken = {round(at, 3) for some in began for at in some[1:]}
    assert len(woken) <= 21
    assert [len(some) for some in began] == pytest.approx([21, 21, 11], abs=1)
    assert all(b - a <= 0.51 for a, b in zip(began[0], began[0][1:], strict=False)), "none is later than it asked for"


@pytest.mark.parametrize("pause_s", [0.25, 0.5, 1.0, 5.0])
def test_a_rest_is_hardly_longer_and_never_over_at_once(pause_s: float):
    for at in range(1_000):
        now = 100.0 + at / 997
        woken = together(now, pause_s)
        assert now + 0.005 <= woken <= now + pause_s + 0.005
        # Who is woken half a millisecond early waits for the next moment.
        assert together(woken - 0.0005, pause_s) == pytest.approx(woken + pause_s)


@pytest.mark.parametrize("pause_s", [0.02, 0.1, 0.3, 0.333])
def test_other_pauses_are_as_long_as_they_are(pause_s: float):
    assert together(5.0, pause_s) == 5.0 + pause_s


def test_who_rests_is_woken_with_others(virtual: VirtualLoop):
    async def woken() -> float:
        await rest(0.5)
        return virtual.time()

    async def two() -> list[float]:
        first = asyncio.create_task(woken())
        await asyncio.sleep(0.004)
        return [await first, await asyncio.create_task(woken())]

    one, other = virtual.run_until_complete(two())
    assert other - one == pytest.approx(0.5, abs=0.001)


def test_who_has_nothing_to_do_rests_until_it_is_woken(virtual: VirtualLoop):
    began: list[float] = []

    async def lazily() -> None:
        loop = steps(math.inf, virtual.time, began)
        loop.start()
        await asyncio.sleep(100.0)
        loop.wake()
        await asyncio.sleep(0)
        loop.wake()  # while the step that it asked for is under way: one more comes
        await asyncio.sleep(100.0)
        await loop.stop()

    virtual.run_until_complete(lazily())
    assert [round(at - began[0], 2) for at in began] == [0.0, 100.0, 100.0]


def test_nobody_is_woken_while_the_store_is_away(virtual: VirtualLoop):
    began: list[float] = []

    async def step() -> float:
        began.append(virtual.time())
        raise StoreUnavailable("away")

    async def away() -> None:
        loop = Loop("test", step)
        loop.start()
        for _ in range(100):
            loop.wake()
            await asyncio.sleep(0.1)
        await loop.stop()

    virtual.run_until_complete(away())
    assert len(began) < 20


def test_how_tasks_ended_is_written_after_a_pause_and_nobody_looks_for_it_before(virtual: VirtualLoop):
    """A loop looked ten times a second."""
    written: list[float] = []

    async def run_many(calls: Sequence[ScriptCall]) -> list[int]:
        written.append(virtual.time())
        return [0] * len(calls)

    store = SimpleNamespace(
        partitions=2,
        tags=("{x:0}", "{x:1}"),
        bucket_ms=60_000,
        events=SimpleNamespace(wanted=False),
        runner=SimpleNamespace(run_many=run_many),
    )
    recorder = Recorder(store, HistoryRules(keep_ms=60_000), lambda _: 0)  # type: ignore[arg-type]
    steps: list[float] = []

    async def step() -> float:
        steps.append(virtual.time())
        return await recorder.step()

    def end(at: int) -> None:
        recorder.ended([Delivery(bytes(15) + bytes([at]), 0, b"", 1, 0, 0, 0, b"p", False, b"")], TaskState.SUCCEEDED)

    async def ends() -> None:
        loop = Loop("history", step)
        recorder.wake = loop.wake
        loop.start()
        await asyncio.sleep(100.0)
        end(1)
        await asyncio.sleep(0.05)
        end(2)
        await asyncio.sleep(0.075)
        end(3)
        await asyncio.sleep(100.0)
        await loop.stop()

    began = virtual.time()
    virtual.run_until_complete(ends())
    assert [round(at - began, 3) for at in written] == [100.1, 100.2], "two within a tenth of a second are one write"
    assert len(steps) < 8


def late(virtual: VirtualLoop, *beats: float, then: Callable[[Lag], Awaitable[None]]) -> float:
    async def beat() -> float:
        one = Lag()
        for late_s in beats:
            one.woke(late_s)
            await asyncio.sleep(0.5)
        await then(one)
        found = one.p99_ms
        await one.stop()
        return found

    return virtual.run_until_complete(beat())


async def nothing(_: Lag) -> None:
    """No more beats."""


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.process_time", lambda: 1.0)


@pytest.mark.usefixtures("idle")
def test_an_idle_process_has_no_timer_that_only_measures(virtual: VirtualLoop):
    async def alone(_: Lag) -> None:
        assert len(asyncio.all_tasks()) == 1

    assert late(virtual, *[0.001] * 10, 0.002, then=alone) == 2.0


@pytest.mark.usefixtures("idle")
def test_one_late_beat_is_a_reason_to_look_closer_and_no_measure(virtual: VirtualLoop):
    async def closer(_: Lag) -> None:
        assert len(asyncio.all_tasks()) == 2
        await asyncio.sleep(2.0)
        assert len(asyncio.all_tasks()) == 1, "it was punctual from then on"

    assert late(virtual, 0.001, 0.3, then=closer) <= 1.0


def test_a_busy_process_is_measured_all_the_time(virtual: VirtualLoop, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("time.process_time", lambda: virtual.time() / 10)

    async def hold(one: Lag) -> None:
        for _ in range(20):
            await asyncio.sleep(0.45)
            virtual.hold(0.2)
        assert len(asyncio.all_tasks()) == 2

    assert late(virtual, 0.0, 0.0, 0.0, then=hold) > 50.0


@pytest.mark.usefixtures("idle")
def test_what_was_long_ago_does_not_count(virtual: VirtualLoop):
    async def later(_: Lag) -> None:
        await asyncio.sleep(11.0)

    assert late(virtual, 0.004, 0.004, then=later) == 0.0


async def test_a_walk_begins_anew_after_its_end_and_after_an_error() -> None:
    begun: list[int] = []

    async def walk() -> AsyncIterator[None]:
        begun.append(len(begun))
        yield
        if len(begun) == 1:
            raise ValueError("the first one meets an error")

    walks = Walk(walk)
    assert await walks.step()
    with pytest.raises(ValueError, match="the first one"):
        await walks.step()
    assert [await walks.step() for _ in range(3)] == [True, False, True]
    assert begun == [0, 1, 2]


async def test_a_walk_gives_way_to_another_one() -> None:
    async def walk(to: list[str], name: str) -> AsyncIterator[None]:
        for _ in range(2):
            to.append(name)
            yield

    taken: list[str] = []
    walks = Walk(lambda: walk(taken, "usual"))
    await walks.step()
    walks.take(walk(taken, "hurried"))
    while await walks.step():
        pass
    await walks.step()
    assert taken == ["usual", "hurried", "hurried", "usual"]
