"""When the owner of partitions looks whether somebody claims WORKER tasks: often enough, and not for each message."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from delaybox.engine import leftovers
from delaybox.engine.leftovers import LATE_MS, Leftovers
from delaybox.store.leftovers import Left


class Ownership:
    kept = frozenset(range(4))

    def follow(self, _: Any) -> None: ...


class Clock:
    now = 1_700_000_000_000.0

    def now_ms(self) -> float:
        return self.now


class Looks:
    """Notes which partitions were looked at when, and lets the clock go on by what is slept."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.clock = Clock()
        self.at: list[tuple[float, list[int]]] = []
        self.slept: list[float] = []
        self.meanwhile: list[Any] = []
        patch.setattr(leftovers, "left", self._left)
        patch.setattr(asyncio, "wait_for", self._wait_for)
        self.leftovers = Leftovers(None, Ownership(), self.clock)  # type: ignore[arg-type]

    async def _left(self, _: Any, due: list[int], *, maybe_nothing: bool) -> tuple[int, list[Left]]:
        self.at.append((self.clock.now, sorted(due)))
        return int(self.clock.now), [Left(-1, ready=False, for_nodes=False, first_hook_ms=-1) for _ in due]

    async def _wait_for(self, waited: Any, timeout_s: float) -> None:
        waited.close()
        for act in self.meanwhile:
            act()
        self.meanwhile = []
        if self.leftovers._earlier.is_set():
            self.slept.append(0.0)
            return
        self.slept.append(timeout_s * 1_000)
        self.clock.now += timeout_s * 1_000
        raise TimeoutError


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Looks:
    return Looks(monkeypatch)


def run(looks: Looks, steps: int) -> None:
    async def go() -> None:
        for _ in range(steps):
            await looks.leftovers.step()

    asyncio.run(go())


def test_where_nothing_was_it_is_asked_first_whether_there_is_anything(looks: Looks, monkeypatch: pytest.MonkeyPatch):
    """An idle node read ten keys of each partition every second."""
    asked: list[bool] = []

    async def left(_: Any, due: list[int], *, maybe_nothing: bool) -> tuple[int, list[Left]]:
        asked.append(maybe_nothing)
        return await looks._left(_, due, maybe_nothing=maybe_nothing)

    monkeypatch.setattr(leftovers, "left", left)
    run(looks, 2)
    looks.leftovers.kick(2, looks.clock.now)
    run(looks, 1)
    assert asked == [False, True, False]


def test_messages_about_later_tasks_wake_nobody(looks: Looks):
    run(looks, 1)
    began = looks.clock.now
    kick = looks.leftovers.kick
    looks.meanwhile = [lambda: kick(0, began)]
    run(looks, 1)
    # An earlier look than the next one was asked for. What is announced while that one is waited for is no reason.
    assert looks.slept == [0.0]
    looks.meanwhile = [lambda p=p: kick(p, began + p) for p in (1, 2, 3)]
    run(looks, 1)
    assert looks.slept == [0.0, LATE_MS]


def test_looks_that_are_close_together_are_one(looks: Looks):
    run(looks, 1)
    began = looks.clock.now
    for p in range(4):
        looks.leftovers.kick(p, began + 4 * p)
    run(looks, 2)
    # The first look finds one partition late, the next one all others.
    assert looks.at[1:] == [(began + LATE_MS, [0]), (began + LATE_MS + 20, [1, 2, 3])]


def test_what_is_announced_during_a_look_is_looked_at_in_time(looks: Looks, monkeypatch: pytest.MonkeyPatch):
    look = looks._left

    async def left(store: Any, due: list[int], *, maybe_nothing: bool) -> tuple[int, list[Left]]:
        found = await look(store, due, maybe_nothing=maybe_nothing)
        if len(looks.at) == 1:
            looks.leftovers.kick(2, looks.clock.now)
        return found

    monkeypatch.setattr(leftovers, "left", left)
    began = looks.clock.now
    run(looks, 2)
    assert looks.at[1:] == [(began + LATE_MS, [2])]


def test_a_clock_that_was_put_back_holds_nothing_up(looks: Looks):
    run(looks, 1)
    looks.clock.now -= 3_600_000
    looks.leftovers.kick(None, 0.0)
    run(looks, 1)
    assert looks.at[-1][1] == [0, 1, 2, 3] and sum(looks.slept) <= 20
