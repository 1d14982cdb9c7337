"""Pools of tasks with needs: how many different needs one pool of workers claims for, and how many lanes of each."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from delaybox.core.lane import lane_of
from delaybox.core.needs import WorkerNeeds
from delaybox.core.task import TaskType
from delaybox.targets import worker_gateway, worker_needs
from delaybox.targets.worker_profile import Profile
from tests.desk import LANES, Desk


def lane(name: str, needs: WorkerNeeds | None = None) -> bytes:
    return lane_of(TaskType.WORKER, "mail", name + (needs.text() if needs is not None else ""))


async def test_different_needs_are_bounded_and_those_that_were_met_first_are_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    desk = Desk()
    dismissed: list[object] = []

    async def dismiss(guest: object) -> None:
        dismissed.append(guest)

    monkeypatch.setattr(desk.host, "dismiss", dismiss)
    session = desk.open(credit=200, concurrency=200)
    costs = range(2, 2 + worker_needs.MOST_POOLS + 6)
    guests: list[Any] = []
    for cost in costs:
        desk.gateway.met([lane("send", WorkerNeeds(cost))])
        (needy,) = desk.gateway._needy.values()
        guests.append(next(reversed(needy._pools.values())).guest)
        assert len(needy._pools) <= worker_needs.MOST_POOLS
    assert [needs.cost for needs, _ in needy._pools] == list(costs)[6:]
    assert len(desk.gateway._pools[LANES].beside) == worker_needs.MOST_POOLS
    await asyncio.gather(*desk.gateway._steps)
    assert dismissed == guests[:6]
    desk.gateway.end(session)


async def test_lanes_with_the_same_needs_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_needs, "_MOST_LANES", 3)
    monkeypatch.setattr(worker_gateway, "_MOST_KNOWN", 4)
    desk = Desk()
    names = [f"f{n}" for n in range(8)]
    session = desk.gateway.open(Profile(lanes=frozenset(map(lane, names)), concurrency=10))
    desk.receive(session, number=1, credit=10)
    needs = WorkerNeeds(2)
    served: list[list[bytes]] = []
    monkeypatch.setattr(desk.host, "serve", lambda _, lanes: served.append(list(lanes)))
    for name in names:
        desk.gateway.met([lane(name, needs)])
    (needy,) = desk.gateway._needy.values()
    (pool,) = needy._pools.values()
    assert list(pool.listed) == [lane(name, needs) for name in names[-3:]]
    assert max(map(len, served)) == 3 and served[-1] == sorted(pool.listed)
    assert list(desk.gateway._met) == [lane(name, needs) for name in names[-4:]]
    desk.gateway.end(session)
