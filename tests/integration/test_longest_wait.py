"""In overload every task waits no longer than is stated for its priority."""

from __future__ import annotations

import os
from typing import Any

import pytest
from redis.asyncio import Redis

from delaybox.core.lane import lane_of
from delaybox.core.queue import LiveRules, QueueRules, Slack
from delaybox.core.task import NewTask, Priority, TaskType
from delaybox.core.waits import longest_wait_ms
from delaybox.engine import in_front, shares
from delaybox.service.rules import Rules
from delaybox.store import looks
from delaybox.store.replies import ClaimLimits
from tests.lab import Lab
from tests.takers import looks_count

TICK_MS = 500
PLACES = 20
ARRIVE = {Priority.CRITICAL: 4, Priority.HIGH: 8, Priority.NORMAL: 12, Priority.LOW: 16}
"""In each tick; twice as much as there are places for."""


@pytest.mark.parametrize("ready", [False, True])
async def test_in_overload_every_level_keeps_its_stated_wait(lab: Lab, ready: bool) -> None:
    due: dict[bytes, tuple[int, Priority]] = {}
    took: list[tuple[int, bytes]] = []

    async def claim() -> None:
        if ready:
            await lab.claim(slots=0)
        took.extend((lab.now, task_id) for task_id in (await lab.claim(slots=PLACES)).leased[0::2])

    for _ in range(60):
        new = [NewTask(type=TaskType.WORKER, name="f", priority=p) for p, n in ARRIVE.items() for _ in range(n)]
        for task_id, task in zip(await lab.add(*new), new, strict=True):
            due[task_id] = (lab.now, task.priority)
        await claim()
        await lab.move(TICK_MS)
    while len(took) < len(due):
        before = len(took)
        await claim()
        await lab.move(TICK_MS)
        assert len(took) > before, "work waits, and nothing is taken"

    # First due first would take them in this order, as many at a time.
    first_due = sorted(due, key=lambda task_id: due[task_id][0])
    waits = {task_id: at - due[task_id][0] for (at, _), task_id in zip(took, first_due, strict=True)}
    load = {priority: count / PLACES for priority, count in ARRIVE.items()}
    slowest = dict.fromkeys(Priority, 0.0)
    for at, task_id in took:
        began, priority = due[task_id]
        # A tick more: places come free no more often than that.
        stated = longest_wait_ms(priority, waits[task_id], load) + TICK_MS
        assert at - began <= stated, (priority, at - began, stated)
        slowest[priority] = max(slowest[priority], at - began)
    assert slowest[Priority.CRITICAL] <= TICK_MS
    assert slowest[Priority.HIGH] < slowest[Priority.NORMAL] < slowest[Priority.LOW]


@pytest.mark.parametrize("each_time", [True, False], ids=["by looks", "by the first of each index"])
async def test_the_stated_wait_holds_over_partitions_though_the_backlog_of_one_is_older(
    client: Redis, prefix: str, monkeypatch: pytest.MonkeyPatch, each_time: bool
) -> None:
    lab = await Lab.open(client, prefix, partitions=4)
    really = looks.reachable

    async def look(*asked: Any) -> Any:
        return lab.now, (await really(*asked))[1]

    looks_count(monkeypatch, -1.0)
    monkeypatch.setattr(shares, "_PLAIN_MS", -1.0 if each_time else 1e9)
    monkeypatch.setattr(in_front, "reachable", look)
    chooser = shares.Chooser(lab.store, LiveRules(), guest=True)
    lanes = (lane_of(TaskType.WORKER, "*", "f"),)
    due: dict[bytes, tuple[int, Priority]] = {}
    took: list[tuple[int, bytes]] = []
    load = {Priority.HIGH: 10.0, Priority.NORMAL: 10.0, Priority.CRITICAL: 0.5}

    async def add(partition: int, **counts: int) -> None:
        new = [
            NewTask(type=TaskType.WORKER, name="f", priority=Priority[p])
            for p, count in counts.items()
            for _ in range(count)
        ]
        for task_id, task in zip(await lab.add(*new, partition=partition), new, strict=True):
            due[task_id] = (lab.now, task.priority)

    for p in range(4):
        await add(p, HIGH=200, NORMAL=200)
        await lab.move(1_000)
    for turn in range(40):
        await add(turn % 4, CRITICAL=5)
        chooser.press(range(4))
        parts = await chooser.parts(range(4), lambda: 10, 250, "w", lambda _: lanes)
        assert parts is not None
        limits = ClaimLimits(slots=10, types="w", guest=True)
        for p, own in chooser.planned(list(parts), limits, parts, lambda _: lanes):
            claimed = await lab.store.claim(p, os.urandom(16), own)
            chooser.took(claimed.leased)
            took += [(lab.now, task_id) for task_id in claimed.leased[0::2]]
        await lab.move(TICK_MS)
    first_due = sorted(due, key=lambda task_id: due[task_id][0])
    at_rank = [at for at, _ in took]
    for at, task_id in took:
        began, priority = due[task_id]
        rank = first_due.index(task_id)
        first_due_first = (at_rank[rank] if rank < len(at_rank) else lab.now) - began
        assert at - began <= longest_wait_ms(priority, first_due_first, load) + TICK_MS, (priority, at - began)
    assert sum(due[task_id][1] is Priority.CRITICAL for _, task_id in took) == 200


async def test_a_limited_queue_with_a_backlog_does_not_keep_the_places_from_others(
    client: Redis, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is older than what waits in other partitions, but nothing of it may begin."""
    looks_count(monkeypatch, -1.0)
    lab = await Lab.open(client, prefix, partitions=4)
    await Rules(lab.store).set("limited", QueueRules(concurrency=1))
    chooser = shares.Chooser(lab.store, LiveRules(), guest=True)
    lanes = (lane_of(TaskType.WORKER, "*", "f"),)
    for _ in range(10):
        await lab.add(*[NewTask(type=TaskType.WORKER, name="f", queue="limited")] * 500)
    await lab.move(1_000)
    for p in range(1, 4):
        await lab.add(*[NewTask(type=TaskType.WORKER, name="f")] * 100, partition=p)
    await lab.move(1_000)
    got = []
    for _ in range(16):
        chooser.press(range(4))
        parts = await chooser.parts(range(4), lambda: 20, 250, "w", lambda _: lanes)
        assert parts is not None
        got.append(0)
        for p, own in chooser.planned(
            list(parts), ClaimLimits(slots=20, types="w", guest=True), parts, lambda _: lanes
        ):
            claimed = await lab.store.claim(p, os.urandom(16), own)
            chooser.took(claimed.leased)
            chooser.gave(p, len(claimed.leased) // 2)
            got[-1] += len(claimed.leased) // 2
    assert got.count(20) >= 12, got


def test_the_stated_wait_by_the_formula() -> None:
    load = {Priority.CRITICAL: 0.1, Priority.HIGH: 0.2, Priority.NORMAL: 0.7}
    assert longest_wait_ms(Priority.NORMAL, 900, load) == pytest.approx((900 + 0.2 * 8_000) / 0.9)
    assert longest_wait_ms(Priority.HIGH, 0, load) == 0
    assert longest_wait_ms(Priority.LOW, 0, load, Slack(low_ms=1_000)) == 0
    assert longest_wait_ms(Priority.LOW, 10, {Priority.CRITICAL: 5.0}) == pytest.approx(200)
    assert longest_wait_ms(Priority.CRITICAL, 19, load) == pytest.approx(20)
