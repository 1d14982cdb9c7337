"""The kernel's timer is set only where it is to go off at another moment."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator

import pytest

from delaybox.engine.clock_estimate import RedisClock, local_ms
from delaybox.engine.kernel_timer import Timer

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the event loop's timer has to do")


@pytest.fixture
def timer() -> Iterator[Timer]:
    timer = Timer()
    yield timer
    timer.close()


@pytest.fixture
def moments(timer: Timer, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """To which moments it is set."""
    found, set_ = list[float](), timer._set

    def noted(until: float) -> None:
        found.append(until)
        set_(until)

    monkeypatch.setattr(timer, "_set", noted)
    return found


async def test_a_sleep_until_the_moment_of_a_call_takes_its_place(timer: Timer, moments: list[float]) -> None:
    called, until = list[int](), local_ms() + 5
    timer.call(until, lambda: called.append(1))
    await asyncio.wait_for(timer.wait(until), 10)
    assert local_ms() >= until and called == [] and moments == [until]


async def test_the_same_moment_once_more(timer: Timer, moments: list[float]) -> None:
    """It has gone off, so that it must be set again."""
    until = local_ms() + 5
    for _ in range(2):
        await asyncio.wait_for(timer.wait(until), 10)
    assert moments == [until] * 2


async def test_a_sleep_that_was_ended_and_goes_on(timer: Timer, moments: list[float]) -> None:
    until = local_ms() + 30
    sleep = asyncio.create_task(timer.wait(until))
    await asyncio.sleep(0)
    timer.wake()
    await asyncio.wait_for(sleep, 10)
    await asyncio.wait_for(timer.wait(until), 10)
    assert local_ms() >= until and moments == [until]


@pytest.mark.parametrize("ms", [2, 30])
async def test_a_call_comes_at_its_moment(timer: Timer, moments: list[float], ms: int) -> None:
    """One that is far away does not set the kernel's timer before it is near."""
    called, until = asyncio.Event(), local_ms() + ms
    timer.call(until, called.set)
    assert len(moments) == (ms < 6)
    await asyncio.wait_for(called.wait(), 10)
    assert local_ms() >= until and moments == [until]


@pytest.mark.parametrize("ms", [2, 30])
async def test_a_call_is_replaced_by_a_later_one_or_by_a_sleep(timer: Timer, ms: int) -> None:
    called = list[str]()
    timer.call(local_ms() + ms, lambda: called.append("first"))
    timer.call(local_ms() + ms + 1, lambda: called.append("second"))
    await asyncio.sleep(0.1)
    assert called == ["second"]
    timer.call(local_ms() + ms, lambda: called.append("third"))
    await asyncio.wait_for(timer.wait(local_ms() + ms + 20), 10)
    assert called == ["second"]


async def test_after_a_close_it_is_set_again(timer: Timer, moments: list[float]) -> None:
    until = local_ms() + 5
    timer.call(until, lambda: None)
    timer.close()
    await asyncio.wait_for(timer.wait(until), 10)
    assert moments == [until] * 2


def test_one_moment_of_the_server_is_one_of_this_process() -> None:
    clock = RedisClock()
    clock.observe(1_000.0, 1_000.4, 5_000)
    first = clock.local_at(6_000)
    assert clock.local_at(6_000) == first and abs(first - (local_ms() + 6_000 - clock.now_ms())) < 50
