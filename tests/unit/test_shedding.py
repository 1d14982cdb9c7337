"""Which calls with new tasks are refused, by how long tasks wait in the process."""

from __future__ import annotations

import asyncio

import pytest

from delaybox.core.errors import Overloaded
from delaybox.service.arrivals import Arrivals
from delaybox.service.shedding import BYTES_A_CALL, FORGET_S, INTERVAL_S, LEAST, Shedding

WAIT_S = 0.1
STEP_S = INTERVAL_S / 5


class Process:
    """One whose tasks wait a tenth of a millisecond for each call that is under way."""

    def __init__(self, callers: int, wait_s: float = WAIT_S) -> None:
        self.now, self.callers, self.refused = 1_000.0, callers, 0
        self.arriving = Arrivals()
        self.shedding = Shedding(wait_s, on_refused=self.one_refused, arriving=self.arriving, now=lambda: self.now)

    def one_refused(self) -> None:
        self.refused += 1

    def round(self, *, of_ms: float = 0.1) -> tuple[int, int]:
        """All callers come, and the taken ones are answered together: how many were taken, and refused."""
        shedding, before = self.shedding, self.refused
        for n in range(self.callers):
            try:
                shedding.admit()
            except Overloaded as error:
                assert error.retry_after_s in (1, 2, 3) and "100 ms" in str(error)
                self.refused += self.callers - n - 1  # the others as well
                break
            shedding.under_way += 1
        taken = shedding.under_way
        shedding.waited(taken * of_ms / 1000)
        shedding.under_way = 0
        self.now += STEP_S
        return taken, self.refused - before

    def rounds(self, seconds: float, *, of_ms: float = 0.1) -> list[tuple[int, int]]:
        return [self.round(of_ms=of_ms) for _ in range(round(seconds / STEP_S))]


def test_a_wait_that_lasts_is_brought_down_to_what_is_allowed_and_the_newest_are_refused() -> None:
    process = Process(callers=10_000)
    first = process.rounds(INTERVAL_S)
    assert first == [(10_000, 0)] * len(first), "a burst is taken"
    process.rounds(5)
    taken = [taken for taken, _ in process.rounds(20)]
    assert LEAST < min(taken) <= max(taken) < 1_500, "about the thousand whose wait is 100 ms"
    assert process.refused > 100_000


def test_what_is_served_in_time_is_never_refused() -> None:
    process = Process(callers=900)
    assert set(process.rounds(10)) == {(900, 0)}


def test_a_wait_that_is_long_now_and_then_refuses_nobody() -> None:
    process = Process(callers=10_000)
    for n in range(100):
        process.round(of_ms=0.001 if n % 4 == 0 else 0.1)
    assert process.refused == 0


def test_one_caller_alone_on_a_slow_machine_is_not_refused() -> None:
    process = Process(callers=1)
    for _ in range(20):
        process.round(of_ms=5_000)
        process.now += 5
    assert set(process.rounds(10, of_ms=5_000)) == {(1, 0)}


def test_as_many_as_a_round_trip_carries_are_taken_however_slow_the_machine_is() -> None:
    process = Process(callers=10_000)
    process.rounds(20, of_ms=100)
    assert process.round(of_ms=100) == (LEAST, 10_000 - LEAST)


def test_without_a_limit_nobody_is_refused() -> None:
    process = Process(callers=5_000, wait_s=0)
    assert set(process.rounds(5)) == {(5_000, 0)}


def test_when_the_callers_are_fewer_the_bound_goes() -> None:
    process = Process(callers=10_000)
    process.rounds(10)
    process.callers = 500
    process.rounds(FORGET_S + 2 * INTERVAL_S)
    process.callers = 10_000
    assert process.round() == (10_000, 0), "a burst is taken again"


def test_the_more_are_refused_the_later_they_are_to_come_again() -> None:
    process = Process(callers=10_000)
    process.rounds(10)
    process.now += 1.0
    shedding = process.shedding
    shedding.waited(0.0)
    bound = shedding.under_way = int(shedding.bound)
    waits = [shedding.refusal().retry_after_s for _ in range(4 * bound)]
    assert waits == [1] * bound + [2] * bound + [3] * 2 * bound
    process.now += 1.0
    assert shedding.refusal().retry_after_s == 1


async def test_who_waits_for_room_hears_of_it_when_a_wait_was_short_again() -> None:
    process = Process(callers=10_000)
    process.rounds(10)
    shedding = process.shedding
    shedding.under_way = int(shedding.bound)
    coming = [asyncio.create_task(shedding.room(600.0)) for _ in range(3)]
    await asyncio.sleep(0)
    assert shedding.full and not any(one.done() for one in coming)
    process.now += INTERVAL_S
    shedding.waited(0.001)
    await asyncio.gather(*coming)


async def test_who_waits_for_room_too_long_is_refused() -> None:
    process = Process(callers=10_000)
    process.rounds(10)
    process.shedding.under_way = int(process.shedding.bound)
    with pytest.raises(Overloaded):
        await process.shedding.room(0.001)
    assert not process.shedding._waiters


def test_after_a_pause_a_burst_is_taken() -> None:
    process = Process(callers=10_000)
    process.rounds(10)
    process.now += FORGET_S + 1
    assert process.round() == (10_000, 0)


def test_calls_that_have_not_come_to_their_handlers_and_batches_count() -> None:
    process = Process(callers=10_000)
    process.rounds(10)
    process.shedding.admit()
    with process.shedding.taken(size=2_000 * BYTES_A_CALL), pytest.raises(Overloaded):
        process.shedding.admit()
    process.shedding.admit()
    for _ in range(2_000):
        process.arriving.came()
    with pytest.raises(Overloaded):
        process.shedding.admit()
