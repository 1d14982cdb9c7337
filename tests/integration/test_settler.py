"""Outcomes on their way into the store: those that arrive together share round trips, whatever they are."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import pytest
from redis.asyncio import Redis

from delaybox.core.delivery import DONE, Delivery, Done, Failed, HandBack, Lost, Outcome, Snoozed
from delaybox.core.errors import TaskNotFound
from delaybox.core.history import NO_HISTORY
from delaybox.core.queue import LiveRules
from delaybox.core.task import NewTask, TaskState, TaskType
from delaybox.engine.options import EngineOptions
from delaybox.engine.settler import Freed, Settler
from delaybox.service import Service
from delaybox.service.recorder import Recorder
from delaybox.store.leases import new_lease
from delaybox.store.record import read
from delaybox.store.replies import ClaimLimits
from delaybox.store.servers import Servers
from delaybox.store.store import Store
from delaybox.wire import result as wire_result
from tests.engines import until


class Settled(list[Delivery]):
    """Those that were settled."""

    def add(self, deliveries: Sequence[Delivery], freed: Freed) -> None:
        self.extend(deliveries)


async def claimed(store: Store) -> list[Delivery]:
    """All that is due, each task under a lease of its own."""
    leased: list[Delivery] = []
    for p in range(store.partitions):
        while True:
            lease_id = new_lease(15_000)
            found = await store.claim(p, lease_id, ClaimLimits(slots=1, items=1, types="w"))
            if not found.leased:
                break
            task_id, record = found.leased
            r = read(task_id, record)
            leased.append(
                Delivery(task_id, p, lease_id, r.deliveries, r.attempt, r.blamed, r.due_ms, r.lane, False, r.body)
            )
    return leased


async def test_outcomes_of_many_leases_share_a_round_trip(client: Redis, prefix: str) -> None:
    store = await Store.open(Servers(client), prefix=prefix, partitions=4)
    service = Service(store)
    outcomes: list[Outcome] = [
        Failed("no", delay_ms=60_000),
        Failed("never", retryable=False),
        HandBack(60_000),
        Lost(),
        Snoozed("later", 60_000),
        Done(keep_ms=1, stored=wire_result.success(b"7", "", finished_ms=1, duration_ms=2)),
        DONE,
        DONE,
    ]
    made = [await service.submit(NewTask(type=TaskType.WORKER, name="f")) for _ in outcomes]
    leased = await claimed(store)
    assert len({d.lease_id for d in leased}) == len(outcomes)

    trips: list[list[str]] = []
    run_many = store.runner.run_many

    async def counted(calls: Sequence[Any]) -> list[Any]:
        trips.append(sorted(call.script for call in calls))
        return await run_many(calls)

    store.runner.run_many = counted  # type: ignore[method-assign]
    settled = Settled()
    settler = Settler(
        store, EngineOptions(node_id="n"), settled.add, LiveRules(), Recorder(store, NO_HISTORY, store.now_ms)
    )
    for d, outcome in zip(leased, outcomes, strict=True):
        settler.report([d], outcome)
    settler.start()
    await until(lambda: len(settled) == len(outcomes))
    await settler.stop(1.0)
    assert trips == [["ack", "ack", "complete", "fail", "fail", "lose", "release", "snooze"]]
    store.runner.run_many = run_many  # type: ignore[method-assign]
    assert {d.id for d in leased} == {one.task_id for one in made}
    by_outcome = [await service.get(d.id) for d in leased[:6]]
    for d in leased[6:]:
        with pytest.raises(TaskNotFound):
            await service.get(d.id)
    assert [view.state for view in by_outcome[:2]] == [TaskState.SCHEDULED, TaskState.FAILED]
    assert [view.state for view in by_outcome[3:6]] == [TaskState.READY, TaskState.SCHEDULED, TaskState.SUCCEEDED]
    assert by_outcome[2].due_ms > time.time() * 1000 + 30_000 and by_outcome[5].result is not None
    assert by_outcome[5].result.output == b"7"


async def test_a_failure_that_nobody_expected_does_not_end_it(client: Redis, prefix: str) -> None:
    """The heartbeat would keep the leases of a settler that has ended for ever."""
    store = await Store.open(Servers(client), prefix=prefix, partitions=1)
    service = Service(store)
    outcomes: list[Outcome] = [Done(), Done(keep_ms=1, stored=b""), Failed("never", retryable=False)]
    for _ in outcomes:
        await service.submit(NewTask(type=TaskType.WORKER, name="f"))
    run_many = store.runner.run_many
    failures = len(outcomes)

    async def fails(calls: Sequence[Any]) -> list[Any]:
        nonlocal failures
        if failures:
            failures -= 1
            raise RuntimeError("the handler is closed")
        return await run_many(calls)

    leased = await claimed(store)
    settled = Settled()
    settler = Settler(
        store, EngineOptions(node_id="n"), settled.add, LiveRules(), Recorder(store, NO_HISTORY, store.now_ms)
    )
    store.runner.run_many = fails  # type: ignore[method-assign]
    for d, outcome in zip(leased, outcomes, strict=True):
        settler.report([d], outcome)
    settler.start()
    await until(lambda: len(settled) == len(outcomes))
    await settler.stop(1.0)
    (counts,) = await store.counts()
    assert (failures, counts.in_flight, counts.dead) == (0, 0, 1)


async def test_lone_outcomes_wait_for_others_where_that_is_asked_for(client: Redis, prefix: str) -> None:
    store = await Store.open(Servers(client), prefix=prefix, partitions=1)
    service = Service(store)
    trips: list[int] = []
    run_many = store.runner.run_many
    settled = Settled()

    async def counted(calls: Sequence[Any]) -> list[Any]:
        trips.append(len(calls))
        return await run_many(calls)

    options = EngineOptions(node_id="n", settle_ms=100)
    recorder = Recorder(store, NO_HISTORY, store.now_ms)
    settler = Settler(store, options, settled.add, LiveRules(), recorder)
    settler.start()

    async def shared() -> bool:
        """Whether two share a trip, of which the second is reported when the first would be on its way."""
        for _ in range(2):
            await service.submit(NewTask(type=TaskType.WORKER, name="f"))
        first, second = await claimed(store)
        store.runner.run_many = counted  # type: ignore[method-assign]
        trips.clear()
        settled.clear()
        settler.report([first], DONE)
        for _ in range(5):
            await asyncio.sleep(0)
        settler.report([second], DONE)
        await until(lambda: len(settled) == 2)
        store.runner.run_many = run_many  # type: ignore[method-assign]
        return trips == [2]

    # On a busy machine the time may be over before the second one comes.
    await until(shared)
    await settler.stop(1.0)
