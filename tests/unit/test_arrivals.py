"""Calls on their way to their handlers: who stores what they bring waits for them, and for nobody else."""

from __future__ import annotations

import asyncio

import pytest

from delaybox.service import arrivals
from delaybox.service.arrivals import Arrivals, ArrivingCall
from tests.waiting import PATIENCE_S


async def waits(arriving: Arrivals) -> asyncio.Task[None]:
    """Somebody who waits, and has begun to."""
    waiting = asyncio.create_task(arriving.wait())
    for _ in range(3):
        await asyncio.sleep(0)
    return waiting


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a slow machine a wait must not end by its bound."""
    monkeypatch.setattr(arrivals, "_WAIT_S", PATIENCE_S)


@pytest.mark.usefixtures("patient")
async def test_nobody_waits_when_no_call_is_on_its_way() -> None:
    arriving = Arrivals()
    arriving.came()
    ArrivingCall(arriving).take()
    assert (await waits(arriving)).done()


@pytest.mark.usefixtures("patient")
async def test_a_wait_ends_with_the_last_call_that_arrives() -> None:
    arriving = Arrivals()
    for _ in range(3):
        arriving.came()
    waiting = await waits(arriving)
    for _ in range(3):
        assert not waiting.done()
        with ArrivingCall(arriving) as call:
            call.take()
            call.take()
    await waiting
    assert (await waits(arriving)).done()


async def test_a_call_that_does_not_arrive_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    arriving = Arrivals()
    arriving.came()
    await arriving.wait()
    assert (await waits(arriving)).done()
    monkeypatch.setattr(arrivals, "_WAIT_S", PATIENCE_S)
    # Another one is on its way as well.
    arriving.came()
    waiting = await waits(arriving)
    assert not waiting.done()
    ArrivingCall(arriving).take()
    await waiting
    # The late one comes after all, so that the next one counts again.
    ArrivingCall(arriving).take()
    arriving.came()
    waiting = await waits(arriving)
    assert not waiting.done()
    ArrivingCall(arriving).take()
    await waiting


async def test_calls_that_come_one_after_the_other_hold_nobody_up_for_long() -> None:
    arriving = Arrivals()

    async def come_and_go() -> None:
        while True:
            arriving.came()
            await asyncio.sleep(0)
            ArrivingCall(arriving).take()

    arriving.came()  # and is not handed over
    others = asyncio.create_task(come_and_go())
    await arriving.wait()
    others.cancel()


@pytest.mark.usefixtures("patient")
async def test_a_call_that_was_counted_by_its_end_alone_hides_no_other() -> None:
    arriving = Arrivals()
    ArrivingCall(arriving).take()
    arriving.came()
    waiting = await waits(arriving)
    assert not waiting.done()
    ArrivingCall(arriving).take()
    await waiting


def test_a_process_has_one_count() -> None:
    assert ArrivingCall()._arrivals is arrivals.here
