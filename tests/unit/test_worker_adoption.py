"""The node's side of tasks that move: leases are named, brought tasks are taken over, and what leaves is left alone."""

from __future__ import annotations

import asyncio
import time

import pytest

from delaybox.core.delivery import DONE, ELSEWHERE, HAND_BACK, Delivery, Failed
from delaybox.core.errors import StoreUnavailable
from delaybox.store.leases import Adopted
from delaybox.targets import worker_session
from delaybox.wire.gen import worker_pb2
from tests.desk import Desk, delivery, messages_of, tasks_of
from tests.waiting import PATIENCE_S

OLD = b"O" * 20


def adopts(desk: Desk, monkeypatch: pytest.MonkeyPatch, *moved: Delivery, ended: list[bytes], away: int = 0) -> None:
    """The engine moves these deliveries; before that the store is away so many times."""
    left = away

    async def adopt(partition: int, old: bytes, new: bytes, ids: list[bytes], target: object) -> Adopted:
        nonlocal left
        left -= 1
        if left >= 0:
            raise StoreUnavailable("not now")
        assert (partition, old, new) == (3, OLD, desk.host.new_lease())
        asyncio.get_running_loop().create_task(target.deliver(moved, desk.engine.report))  # type: ignore[attr-defined]
        return Adopted([part for d in moved for part in (d.task_id, b"record")], ended)

    monkeypatch.setattr(desk.host, "adopt", adopt)


def carried(*tasks: Delivery, ran_ms: int = 0) -> worker_pb2.Carried:
    numbered = [worker_pb2.CarriedTask(number=n, id=d.id, ran_ms=ran_ms) for n, d in enumerate(tasks, 1)]
    return worker_pb2.Carried(partition=3, lease=OLD, tasks=numbered)


async def answers(session: worker_session.WorkerSession, count: int) -> dict[int, worker_pb2.Adopted]:
    found: dict[int, worker_pb2.Adopted] = {}
    async with asyncio.timeout(PATIENCE_S):
        while len(found) < count:
            await asyncio.sleep(0)
            found |= {a.number: a for message in messages_of(session) for a in message.adopted}
    return found


async def test_each_brought_task_is_answered_and_ends_under_its_new_number(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk()
    session = desk.open(moves=True)
    mine, over, lost = delivery(), delivery(), delivery()
    adopts(desk, monkeypatch, mine, ended=[over.task_id], away=1)
    desk.receive(session, number=2, carried=[carried(mine, over, lost)])
    found = await answers(session, 3)
    assert [(found[n].sequence > 0, found[n].ended) for n in (1, 2, 3)] == [
        (True, False),
        (False, True),
        (False, False),
    ]
    desk.receive(session, number=3, done=[found[1].sequence])
    assert desk.engine.outcomes == {mine.task_id: DONE}


async def test_a_time_out_goes_on_from_the_first_start(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk()
    session = desk.open(moves=True)
    task = delivery(timeout_ms=60_000)
    adopts(desk, monkeypatch, task, ended=[])
    desk.receive(session, number=2, carried=[carried(task, ran_ms=50_000)])
    await answers(session, 1)
    left_s = session.next_limit - time.monotonic() - worker_session.OVERTIME_S
    assert 5 < left_s <= 10
    monkeypatch.setattr(worker_session, "OVERTIME_S", -60)
    other = delivery(timeout_ms=60_000)
    adopts(desk, monkeypatch, other, ended=[])
    desk.receive(session, number=3, carried=[carried(other, ran_ms=50_000)])
    await answers(session, 1)
    session.enforce()
    assert isinstance(desk.engine.outcomes[other.task_id], Failed)


async def test_leases_are_named_once_a_claim_and_only_to_workers_that_move() -> None:
    desk = Desk()
    plain = desk.open(credit=2)
    await desk.deliver(delivery(), delivery())
    assert [m.claims for m in messages_of(plain) if m.claims] == []
    desk = Desk()
    session = desk.open(credit=5, moves=True)
    await desk.deliver(delivery(), delivery())
    await desk.deliver(delivery())
    sent = messages_of(session)
    claims = [(c.first, c.last, c.partition, c.lease) for m in sent for c in m.claims]
    assert claims == [(1, 2, 3, b"L" * 16), (3, 3, 3, b"L" * 16)]


async def test_what_moved_or_is_left_when_the_node_ends_is_not_settled_here() -> None:
    desk = Desk()
    session = desk.open(credit=2, moves=True)
    await desk.deliver(*(made := [delivery(), delivery()]))
    first, second = tasks_of(messages_of(session))
    desk.receive(session, number=2, moved=[first.sequence], credit=1)
    await desk.deliver(unsent := delivery())
    desk.gateway.part()
    assert desk.engine.outcomes == {made[0].task_id: ELSEWHERE, made[1].task_id: ELSEWHERE, unsent.task_id: HAND_BACK}
    assert second.sequence == 2
