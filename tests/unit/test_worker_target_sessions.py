"""The node's side of worker sessions: what is repeated, refused as late, ended for taking too long, and bounded."""

from __future__ import annotations

import asyncio

import pytest

from delaybox.core.delivery import DONE, LOST, Failed
from delaybox.targets import worker_session
from delaybox.wire.gen import worker_pb2
from tests.desk import Desk, delivery, messages_of, tasks_of


async def test_a_message_heard_twice_counts_once() -> None:
    desk = Desk()
    session = desk.open(credit=5)
    desk.receive(session, number=1, credit=5)
    assert session.credit == 5


async def test_what_is_too_late_waits_within_bounds() -> None:
    """A worker that reads nothing went on saying it, and each said sequence took 36 bytes of the node."""
    session = Desk().open()
    for number in range(1, 9):
        session.receive(worker_pb2.FromWorker(number=number, done=range(1, 20_001)))
    assert sum(len(message.stale) for message in messages_of(session)) == 100_000
    session.receive(worker_pb2.FromWorker(number=9, done=[7]))
    assert [list(message.stale) for message in messages_of(session)] == [[7]], "and there is room again"


async def test_a_late_answer_is_refused_and_counted() -> None:
    desk = Desk()
    session = desk.open(credit=1)
    over = await desk.deliver(delivery())
    (task,) = tasks_of(messages_of(session))
    desk.receive(session, number=2, done=[task.sequence])
    await over
    desk.receive(session, number=3, done=[task.sequence], failed=[worker_pb2.Failed(sequence=99)])
    assert [list(m.stale) for m in messages_of(session)] == [[task.sequence, 99]]
    assert len(desk.engine.outcomes) == 1


async def test_a_resumed_session_repeats_what_was_not_seen_and_no_more() -> None:
    desk = Desk()
    session = desk.open(credit=4)
    over = await desk.deliver(delivery(), delivery())
    first = messages_of(session)
    over_two = await desk.deliver(delivery())
    second = messages_of(session)
    desk.gateway.broken(session)
    assert desk.pool.room() == 0, "nothing is claimed for who is away"
    again = desk.gateway.resume(session.id, first[-1].number, session.profile)
    assert again is session
    assert messages_of(session) == second
    assert messages_of(session) == []
    assert desk.pool.room() == 1, "credit outlives the stream"
    desk.receive(session, number=2, done=[t.sequence for t in tasks_of(first + second)])
    await asyncio.gather(over, over_two)
    assert set(desk.engine.outcomes.values()) == {DONE}


async def test_what_was_seen_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk()
    session = desk.open(credit=1)
    over = await desk.deliver(delivery())
    (message,) = messages_of(session)
    desk.receive(session, seen=message.number)
    desk.gateway.broken(session)
    assert desk.gateway.resume(session.id, message.number, session.profile) is session
    assert messages_of(session) == []
    # A worker that never says what it has seen cannot have everything repeated.
    monkeypatch.setattr(worker_session, "UNSEEN_BYTES", 0)
    messages_of(session, idle=True)
    desk.gateway.broken(session)
    assert desk.gateway.resume(session.id, message.number, session.profile) is None
    await over
    assert list(desk.engine.outcomes.values()) == [LOST]


async def test_the_node_ends_what_a_worker_that_only_beats_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_session, "OVERTIME_S", 0.05)
    desk = Desk()
    session = desk.open(credit=3)
    over = await desk.deliver(delivery(timeout_ms=40, keep_result_ms=60_000), delivery(timeout_ms=60_000), delivery())
    sent = tasks_of(messages_of(session))
    assert len(sent) == 3
    await desk.engine.reported(1)
    (outcome,) = desk.engine.outcomes.values()
    assert isinstance(outcome, Failed) and outcome.retryable and outcome.result is not None
    assert outcome.reason == "timed out after 0.04 s; its worker did not end it"
    assert [number for message in messages_of(session) for number in message.cancel] == [sent[0].sequence]
    # Its late word is refused, and the others are in time.
    desk.receive(session, number=2, done=[t.sequence for t in sent])
    await over
    assert [list(message.stale) for message in messages_of(session)] == [[sent[0].sequence]]
    assert len(desk.engine.outcomes) == 3


async def test_limits_of_tasks_that_have_ended_are_forgotten() -> None:
    desk = Desk()
    session = desk.open(credit=20_000)
    for number in range(2, 8):
        over = await desk.deliver(*[delivery(timeout_ms=3_600_000) for _ in range(1_000)])
        desk.receive(session, number=number, done=[t.sequence for t in tasks_of(messages_of(session))])
        await over
    assert len(session._limits) <= 4_000


async def test_a_claim_that_is_cut_off_is_forgotten() -> None:
    desk = Desk()
    session = desk.open(credit=1)
    over = await desk.deliver(delivery(), delivery())
    (task,) = tasks_of(messages_of(session))
    over.cancel()
    await asyncio.wait({over})
    desk.receive(session, number=2, done=[task.sequence], credit=1)
    assert desk.engine.outcomes == {} and [list(m.stale) for m in messages_of(session)] == [[task.sequence]]
    assert desk.pool.room() == 1


async def test_large_tasks_travel_in_several_messages() -> None:
    desk = Desk()
    session = desk.open(credit=5)
    over = await desk.deliver(*(delivery(payload=bytes(900_000)) for _ in range(5)))
    messages = messages_of(session)
    assert [len(m.tasks) for m in messages] == [1, 1, 1, 1, 1]
    assert [m.number for m in messages] == [1, 2, 3, 4, 5]
    over.cancel()


async def test_a_node_that_leaves_says_so_once() -> None:
    desk = Desk()
    session = desk.open(credit=5)
    desk.gateway.leave()
    assert desk.pool.room() == 0
    (message,) = messages_of(session)
    assert message.drain
    assert messages_of(session) == []
    (beat,) = messages_of(session, idle=True)
    assert beat.drain and beat.seen == 1
