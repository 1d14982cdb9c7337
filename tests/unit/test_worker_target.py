"""The node's side of worker sessions: what is sent, heeded, repeated, and what becomes of tasks of lost workers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delaybox.core import ids
from delaybox.core.delivery import DONE, HAND_BACK, LOST, Delivery, Done, Failed, HandBack, Lost, Outcome
from delaybox.core.lane import lane_of
from delaybox.core.retry import RetryPolicy
from delaybox.core.task import CANCELLED, NewTask, TaskType
from delaybox.targets import worker_session
from delaybox.targets.worker import Gateway, Pool
from delaybox.targets.worker_session import Profile, Session
from delaybox.wire import body as wire_body
from delaybox.wire.assignment import assignment, has_only_payload
from delaybox.wire.gen import task_pb2, worker_pb2

LANE = lane_of(TaskType.WORKER, "mail", "send")
LANES = frozenset([LANE])
NOW = 1_800_000_000_000


def delivery(*, losses: int = 0, **parts: Any) -> Delivery:
    task = NewTask(type=TaskType.WORKER, queue="mail", name="send", **parts)
    task_id = NOW.to_bytes(6, "big") + ids.tails(3, os.urandom(8))[0]
    return Delivery(task_id, 3, b"L" * 16, 1 + losses, 0, losses, NOW, LANE, False, wire_body.encode(task))


class Engine:
    """Takes reports in."""

    def __init__(self) -> None:
        self.outcomes: dict[bytes, Outcome] = {}

    def report(self, deliveries: Sequence[Delivery], outcome: Outcome) -> None:
        for d in deliveries:
            assert d.task_id not in self.outcomes, "reported twice"
            self.outcomes[d.task_id] = outcome


class Claimer:
    def more_room(self) -> None:
        pass


class Host:
    """Stands where the engine admits pools."""

    def __init__(self) -> None:
        self.pools: list[Any] = []

    def admit(self, *, lanes: Sequence[bytes], target: Any, room: Any) -> Claimer:
        self.pools.append(target)
        return Claimer()

    async def dismiss(self, guest: object) -> None:
        pass


class Desk:
    """A gateway, its engine's end, and workers made of messages."""

    def __init__(self, keep_ms: int = 0, max_output: int = 100) -> None:
        self.engine = Engine()
        self.host = Host()
        self.gateway = Gateway(self.host, keep_ms=lambda queue, own: own or keep_ms, max_output=max_output)

    def open(self, credit: int = 0, **profile: Any) -> Session:
        session = self.gateway.open(Profile(lanes=LANES, **profile))
        if credit:
            self.hear(session, number=1, credit=credit)
        return session

    def hear(self, session: Session, **parts: Any) -> None:
        session.hear(worker_pb2.FromWorker(**parts))
        self.gateway.heard(session)

    @property
    def pool(self) -> Pool:
        pool = self.host.pools[-1]
        assert isinstance(pool, Pool)
        return pool

    async def deliver(self, *deliveries: Delivery) -> asyncio.Task[None]:
        task = asyncio.create_task(self.pool.deliver(deliveries, self.engine.report))
        await asyncio.sleep(0)
        return task


def said(session: Session, *, idle: bool = False) -> list[worker_pb2.ToWorker]:
    return [worker_pb2.ToWorker.FromString(raw) for raw in session.messages(idle=idle)]


def tasks_of(messages: Sequence[worker_pb2.ToWorker]) -> list[worker_pb2.Assignment]:
    return [task for message in messages for task in message.tasks]


@given(
    st.integers(1, 2**40),
    st.binary(max_size=300),
    st.dictionaries(st.text(max_size=5), st.binary(max_size=5), max_size=2),
    st.booleans(),
    st.integers(0, 300),
)
def test_an_assignment_by_hand_is_what_the_library_reads(
    sequence: int, payload: bytes, header: dict[str, bytes], want: bool, attempt: int
) -> None:
    d = delivery(payload=payload, header=header)
    d.attempt = attempt
    (read,) = worker_pb2.ToWorker.FromString(assignment(sequence, d, want_result=want)).tasks
    assert read == worker_pb2.Assignment(
        sequence=sequence, id=d.id, name="send", queue="mail", due_ms=NOW, attempt=attempt, token=1, want_result=want,
        task=task_pb2.Task(payload=payload, header=header),
    )  # fmt: skip


@given(st.binary(max_size=300), st.integers(0, 5))
def test_a_body_of_nothing_but_payload_is_told_from_others(payload: bytes, keep_ms: int) -> None:
    body = wire_body.encode(NewTask(payload=payload, keep_result_ms=keep_ms))
    assert has_only_payload(body) == (keep_ms == 0)


async def test_tasks_go_out_against_credit_and_come_back_as_acks() -> None:
    desk = Desk()
    session = desk.open(credit=2)
    assert desk.pool.room() == 2
    three = [delivery() for _ in range(3)]
    over = await desk.deliver(*three)
    sent = tasks_of(said(session))
    assert [t.id for t in sent] == [d.id for d in three[:2]] and desk.pool.room() == -1
    desk.hear(session, number=2, done=[t.sequence for t in sent], credit=2)
    assert {d.task_id: DONE for d in three[:2]} == desk.engine.outcomes
    (last,) = tasks_of(said(session))
    desk.hear(session, number=3, done=[last.sequence])
    await over
    assert len(desk.engine.outcomes) == 3 and session.held == 0


async def test_a_message_heard_twice_counts_once() -> None:
    desk = Desk()
    session = desk.open(credit=5)
    desk.hear(session, number=1, credit=5)
    assert session.credit == 5


async def test_what_waits_is_shared_evenly() -> None:
    desk = Desk()
    sessions = [desk.open(credit=10) for _ in range(3)]
    over = await desk.deliver(*(delivery() for _ in range(9)))
    assert [s.held for s in sessions] == [3, 3, 3]
    over.cancel()


async def test_outcomes_of_every_kind() -> None:
    desk = Desk(keep_ms=1_000)
    policy = RetryPolicy(max_attempts=2)
    session = desk.open(credit=9, retry={"send": policy})
    batch = [delivery() for _ in range(7)]
    over = await desk.deliver(*batch)
    s = [t.sequence for t in tasks_of(said(session))]
    desk.hear(
        session,
        number=2,
        succeeded=[worker_pb2.Succeeded(sequence=s[0], output=b"42", duration_ms=7, content_type="a/b"),
                   worker_pb2.Succeeded(sequence=s[1], output=bytes(101))],
        failed=[worker_pb2.Failed(sequence=s[2], reason="boom", output=b"trace"),
                worker_pb2.Failed(sequence=s[3], final=True),
                worker_pb2.Failed(sequence=s[4], cancelled=True, reason="x"),
                worker_pb2.Failed(sequence=s[5], reason="later", retry_after_ms=5)],
        handed_back=[s[6]],
    )  # fmt: skip
    await over
    got = [desk.engine.outcomes[d.task_id] for d in batch]
    ok, large, boom, final, stopped, later, back = got
    assert isinstance(ok, Done) and ok.result is not None and ok.keep_ms == 1_000
    assert (ok.result.output, ok.result.duration_ms, ok.result.content_type) == (b"42", 7, "a/b")
    assert isinstance(large, Failed) and "101 bytes" in large.reason and not large.retryable
    assert isinstance(boom, Failed) and boom.reason == "boom" and boom.retry == policy and boom.retryable
    assert boom.result is not None and boom.result.output == b"trace"
    assert isinstance(final, Failed) and not final.retryable and final.reason
    assert isinstance(stopped, Done) and stopped.result is not None and stopped.result.reason == CANCELLED
    assert isinstance(later, Failed) and later.delay_ms == 5
    assert back == HAND_BACK


async def test_no_result_is_kept_that_nobody_wants() -> None:
    desk = Desk()
    session = desk.open(credit=2)
    over = await desk.deliver(delivery(), delivery(keep_result_ms=500))
    plain, kept = tasks_of(said(session))
    assert (plain.want_result, kept.want_result) == (False, True)
    for task in (plain, kept):
        desk.hear(session, succeeded=[worker_pb2.Succeeded(sequence=task.sequence, output=b"1")])
    await over
    assert [isinstance(o, Done) and o.result is not None for o in desk.engine.outcomes.values()] == [False, True]


async def test_what_is_too_late_waits_within_bounds() -> None:
    """A worker that reads nothing went on saying it, and each said sequence took 36 bytes of the node."""
    session = Desk().open()
    for number in range(1, 9):
        session.hear(worker_pb2.FromWorker(number=number, done=range(1, 20_001)))
    assert sum(len(message.stale) for message in said(session)) == 100_000
    session.hear(worker_pb2.FromWorker(number=9, done=[7]))
    assert [list(message.stale) for message in said(session)] == [[7]], "and there is room again"


async def test_a_late_answer_is_refused_and_counted() -> None:
    desk = Desk()
    session = desk.open(credit=1)
    over = await desk.deliver(delivery())
    (task,) = tasks_of(said(session))
    desk.hear(session, number=2, done=[task.sequence])
    await over
    desk.hear(session, number=3, done=[task.sequence], failed=[worker_pb2.Failed(sequence=99)])
    assert [list(m.stale) for m in said(session)] == [[task.sequence, 99]]
    assert len(desk.engine.outcomes) == 1


async def test_a_resumed_session_repeats_what_was_not_seen_and_no_more() -> None:
    desk = Desk()
    session = desk.open(credit=4)
    over = await desk.deliver(delivery(), delivery())
    first = said(session)
    over_two = await desk.deliver(delivery())
    second = said(session)
    desk.gateway.broken(session)
    assert desk.pool.room() == 0, "nothing is claimed for who is away"
    again = desk.gateway.resume(session.id, first[-1].number, session.profile)
    assert again is session
    assert said(session) == second
    assert said(session) == []
    assert desk.pool.room() == 1, "credit outlives the stream"
    desk.hear(session, number=2, done=[t.sequence for t in tasks_of(first + second)])
    await asyncio.gather(over, over_two)
    assert set(desk.engine.outcomes.values()) == {DONE}


async def test_what_was_seen_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk()
    session = desk.open(credit=1)
    over = await desk.deliver(delivery())
    (message,) = said(session)
    desk.hear(session, seen=message.number)
    desk.gateway.broken(session)
    assert desk.gateway.resume(session.id, message.number, session.profile) is session
    assert said(session) == []
    # A worker that never says what it has seen cannot have everything repeated.
    monkeypatch.setattr(worker_session, "UNSEEN_BYTES", 0)
    said(session, idle=True)
    desk.gateway.broken(session)
    assert desk.gateway.resume(session.id, message.number, session.profile) is None
    await over
    assert list(desk.engine.outcomes.values()) == [LOST]


async def test_a_session_that_is_not_resumed_loses_its_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("delaybox.targets.worker.RESUME_S", 0.01)
    desk = Desk()
    session = desk.open(credit=1)
    over = await desk.deliver(delivery(), delivery())
    assert session.held == 1
    said(session)
    desk.gateway.broken(session)
    await over
    # The one that it held is charged a loss, the one that waited for room is not.
    assert sorted(map(repr, desk.engine.outcomes.values())) == ["HandBack(delay_ms=0)", repr(LOST)]
    assert desk.gateway.resume(session.id, 0, session.profile) is None
    assert desk.gateway.connected == 0


async def test_others_take_what_waits_when_a_worker_goes() -> None:
    desk = Desk()
    gone, stays = desk.open(credit=1), desk.open()
    over = await desk.deliver(delivery(), delivery())
    said(gone)
    desk.gateway.end(gone)
    desk.hear(stays, number=1, credit=5)
    (task,) = tasks_of(said(stays))
    desk.hear(stays, number=2, done=[task.sequence])
    await over
    assert sorted(map(repr, desk.engine.outcomes.values())) == [repr(DONE), repr(LOST)]


async def test_tasks_that_workers_died_with_go_out_one_a_worker_and_more_as_they_end() -> None:
    desk = Desk()
    session = desk.open(credit=10)
    suspects = [delivery(losses=2) for _ in range(7)]
    over = await desk.deliver(delivery(losses=1), *suspects, delivery())
    first = tasks_of(said(session))
    assert [t.id in {d.id for d in suspects} for t in first] == [False, False, True]
    out, number = [first.pop()], 1
    for together in (1, 2, 4):
        assert len(out) == together
        number += 1
        desk.hear(session, number=number, done=[t.sequence for t in out])
        out = tasks_of(said(session))
    desk.hear(session, number=9, done=[t.sequence for t in first])
    await over
    assert set(desk.engine.outcomes.values()) == {DONE}


async def test_a_thousand_healthy_suspects_neither_wait_for_each_other_nor_stand_in_the_way() -> None:
    desk = Desk()
    session = desk.open(credit=1_200)
    over = await desk.deliver(*[delivery(losses=2) for _ in range(1_000)])
    assert desk.pool.room() == 1_199, "what waits for its turn takes no room from others"
    refused = [delivery(losses=2) for _ in range(5)]
    later = await desk.deliver(*refused)
    rounds, number = 0, 1
    while not over.done():
        rounds, number = rounds + 1, number + 1
        tasks = tasks_of(said(session))
        desk.hear(session, number=number, credit=len(tasks), done=[t.sequence for t in tasks])
        await asyncio.sleep(0)
    assert rounds < 20, "one after the other it would be a thousand"
    await later
    outcomes = [desk.engine.outcomes[d.task_id] for d in refused]
    assert outcomes[1:] == [HandBack(delay_ms=1_000)] * 4, "no more than a thousand wait in a node"


async def test_what_dies_in_company_is_not_blamed_and_runs_alone_the_next_time() -> None:
    desk = Desk()
    session = desk.open(credit=10)
    suspects = [delivery(losses=2) for _ in range(3)]
    over = await desk.deliver(*suspects)
    (first,) = tasks_of(said(session))
    desk.hear(session, number=2, done=[first.sequence])
    assert len(tasks_of(said(session))) == 2
    desk.gateway.end(session)
    await over
    company = [d for d in suspects if d.id != first.id]
    assert [desk.engine.outcomes.pop(d.task_id) for d in company] == [HAND_BACK] * 2
    # Another one comes, and with it another suspect: still none of the two has company.
    session = desk.open(credit=10)
    over = await desk.deliver(*company, delivery(losses=2))
    for number in (2, 3, 4):
        (alone,) = tasks_of(said(session))
        if number < 4:
            desk.hear(session, number=number, done=[alone.sequence])
    desk.gateway.end(session)
    await over
    assert sorted(map(repr, desk.engine.outcomes.values())) == [repr(DONE)] * 3 + [repr(LOST)]


@pytest.mark.parametrize(("workers", "killed", "together"), [(3, 3, True), (3, 2, False), (6, 3, False), (5, 3, True)])
async def test_when_most_workers_go_at_once_it_is_said_of_what_they_held(
    monkeypatch: pytest.MonkeyPatch, workers: int, killed: int, together: bool
) -> None:
    monkeypatch.setattr("delaybox.targets.worker.RESUME_S", 0.05)
    desk = Desk()
    sessions = [desk.open(credit=1, identity=f"w{n}") for n in range(workers)]
    # A second session of the same worker is no second worker.
    others = [desk.gateway.open(Profile(lanes=LANES, identity=f"w{n}")) for n in range(workers)]
    over = await desk.deliver(*[delivery() for _ in range(workers)])
    assert all(len(tasks_of(said(session))) == 1 for session in sessions)
    for session in [*sessions[:killed], *others[:killed]]:
        desk.gateway.broken(session)
    # They are started again before what they held is given up.
    for n in range(killed):
        desk.open(identity=f"again-{n}")
    async with asyncio.timeout(10):
        while len(desk.engine.outcomes) < killed:
            await asyncio.sleep(0.01)
    assert list(desk.engine.outcomes.values()) == [Lost(together=together)] * killed
    for session in sessions[killed:]:
        desk.gateway.end(session)
    await over


async def test_a_worker_whose_stream_breaks_often_is_still_one_worker() -> None:
    desk = Desk()
    session = desk.open(credit=1, identity="w")
    over = await desk.deliver(delivery())
    seen = said(session)[-1].number
    for _ in range(4):
        desk.gateway.broken(session)
        assert desk.gateway.resume(session.id, seen, session.profile) is session
    desk.gateway.end(session)
    await over
    assert list(desk.engine.outcomes.values()) == [LOST]


async def test_what_was_never_sent_to_a_lost_worker_is_not_charged() -> None:
    desk = Desk()
    session = desk.open(credit=2)
    sent = delivery()
    first = await desk.deliver(sent)
    assert len(tasks_of(said(session))) == 1
    second = await desk.deliver(delivery())
    assert session.held == 2
    desk.gateway.end(session)
    await asyncio.gather(first, second)
    assert desk.engine.outcomes.pop(sent.task_id) == LOST
    assert list(desk.engine.outcomes.values()) == [HAND_BACK]


async def test_the_node_ends_what_a_worker_that_only_beats_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_session, "OVERTIME_S", 0.05)
    desk = Desk()
    session = desk.open(credit=3)
    over = await desk.deliver(delivery(timeout_ms=40, keep_result_ms=60_000), delivery(timeout_ms=60_000), delivery())
    sent = tasks_of(said(session))
    assert len(sent) == 3
    async with asyncio.timeout(10):
        while not desk.engine.outcomes:
            await asyncio.sleep(0.01)
    (outcome,) = desk.engine.outcomes.values()
    assert isinstance(outcome, Failed) and outcome.retryable and outcome.result is not None
    assert outcome.reason == "timed out after 0.04 s; its worker did not end it"
    assert [number for message in said(session) for number in message.cancel] == [sent[0].sequence]
    # Its late word is refused, and the others are in time.
    desk.hear(session, number=2, done=[t.sequence for t in sent])
    await over
    assert [list(message.stale) for message in said(session)] == [[sent[0].sequence]]
    assert len(desk.engine.outcomes) == 3


async def test_limits_of_tasks_that_have_ended_are_forgotten() -> None:
    desk = Desk()
    session = desk.open(credit=20_000)
    for number in range(2, 8):
        over = await desk.deliver(*[delivery(timeout_ms=3_600_000) for _ in range(1_000)])
        desk.hear(session, number=number, done=[t.sequence for t in tasks_of(said(session))])
        await over
    assert len(session._limits) <= 4_000


async def test_a_draining_worker_gets_nothing_and_answers_what_it_has() -> None:
    desk = Desk()
    session = desk.open(credit=3)
    over = await desk.deliver(delivery())
    (task,) = tasks_of(said(session))
    desk.hear(session, number=2, drain=True)
    assert desk.pool.room() == 0
    desk.hear(session, number=3, done=[task.sequence])
    await over
    desk.hear(session, number=4, credit=2)
    assert desk.pool.room() == 2, "credit takes it up again"


async def test_a_running_task_can_be_cancelled() -> None:
    desk = Desk()
    session = desk.open(credit=1)
    d = delivery()
    over = await desk.deliver(d)
    (task,) = tasks_of(said(session))
    assert desk.gateway.cancel(d.task_id) and not desk.gateway.cancel(bytes(16))
    assert [list(m.cancel) for m in said(session)] == [[task.sequence]]
    over.cancel()


async def test_a_claim_that_is_cut_off_is_forgotten() -> None:
    desk = Desk()
    session = desk.open(credit=1)
    over = await desk.deliver(delivery(), delivery())
    (task,) = tasks_of(said(session))
    over.cancel()
    await asyncio.wait({over})
    desk.hear(session, number=2, done=[task.sequence], credit=1)
    assert desk.engine.outcomes == {} and [list(m.stale) for m in said(session)] == [[task.sequence]]
    assert desk.pool.room() == 1


async def test_large_tasks_travel_in_several_messages() -> None:
    desk = Desk()
    session = desk.open(credit=5)
    over = await desk.deliver(*(delivery(payload=bytes(900_000)) for _ in range(5)))
    messages = said(session)
    assert [len(m.tasks) for m in messages] == [1, 1, 1, 1, 1]
    assert [m.number for m in messages] == [1, 2, 3, 4, 5]
    over.cancel()


async def test_a_node_that_leaves_says_so_once() -> None:
    desk = Desk()
    session = desk.open(credit=5)
    desk.gateway.leave()
    assert desk.pool.room() == 0
    (message,) = said(session)
    assert message.drain
    assert said(session) == []
    (beat,) = said(session, idle=True)
    assert beat.drain and beat.seen == 1


async def test_facts_say_who_is_connected_and_what_is_served() -> None:
    desk = Desk()
    desk.open(credit=5, identity="host-1", labels={"zone": "a"}, concurrency=5)
    facts = desk.gateway.facts()
    assert facts["lanes"] == ["wmail:send"] and facts["types"] == "w" and facts["worker_count"] == 1
    (worker,) = facts["workers"]
    assert (worker["identity"], worker["labels"], worker["functions"]) == ("host-1", {"zone": "a"}, 1)
    assert (worker["concurrency"], worker["running"], worker["connected"]) == (5, 0, True)
