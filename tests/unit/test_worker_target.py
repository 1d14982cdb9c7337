"""The node's side of worker sessions: what is sent to whom, and how each outcome is reported."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from delaybox.core.delivery import DONE, HAND_BACK, Done, Failed, Snoozed
from delaybox.core.membership import ConnectedWorker
from delaybox.core.retry import RetryPolicy
from delaybox.core.task import CANCELLED, NewTask
from delaybox.targets.worker_places import Beyond
from delaybox.wire import body as wire_body
from delaybox.wire import result as wire_result
from delaybox.wire.assignment import assignment, fitting
from delaybox.wire.gen import task_pb2, worker_pb2
from tests.desk import NOW, Desk, delivery, messages_of, tasks_of


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


@given(st.lists(st.integers(0, 9), max_size=9), st.integers(0, 40), st.sampled_from([0, 1_000]))
def test_as_many_entries_go_into_a_message_as_fit_and_at_least_one(sizes: list[int], most: int, before: int) -> None:
    entries = [b""] * before + [b"x" * size for size in sizes]
    count = fitting(entries, most)
    size = sum(map(len, entries[:count]))
    assert (size <= most or count == 1) and (count > 0 or not entries)
    assert count == len(entries) or size + len(entries[count]) > most


def test_ended_tasks_give_back_all_places_that_they_took() -> None:
    beyond = Beyond()
    beyond.charge((1, 2), 3)
    beyond.charge((3,), 1)
    assert beyond.extra == 4
    beyond.all_paid([2, 3, 4])
    assert beyond.extra == 2
    beyond.all_paid([1, 2])
    assert beyond.extra == 0


@given(st.binary(max_size=300), st.integers(0, 5))
def test_a_body_of_nothing_but_payload_is_told_from_others(payload: bytes, keep_ms: int) -> None:
    body = wire_body.encode(NewTask(payload=payload, keep_result_ms=keep_ms))
    assert wire_body.has_only_payload(body) == (keep_ms == 0)
    assert wire_body.payload_alone(body) == (payload if keep_ms == 0 else None)


async def test_tasks_go_out_against_credit_and_come_back_as_acks() -> None:
    desk = Desk()
    session = desk.open(credit=2)
    assert desk.pool.room() == 2
    three = [delivery() for _ in range(3)]
    over = await desk.deliver(*three)
    sent = tasks_of(messages_of(session))
    assert [t.id for t in sent] == [d.id for d in three[:2]] and desk.pool.room() == -1
    desk.receive(session, number=2, done=[t.sequence for t in sent], credit=2)
    assert {d.task_id: DONE for d in three[:2]} == desk.engine.outcomes
    (last,) = tasks_of(messages_of(session))
    desk.receive(session, number=3, done=[last.sequence])
    await over
    assert len(desk.engine.outcomes) == 3 and session.held == 0


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
    s = [t.sequence for t in tasks_of(messages_of(session))]
    desk.receive(
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
    assert isinstance(ok, Done) and ok.result is None and ok.keep_ms == 1_000
    kept = wire_result.decode(ok.stored)
    assert (kept.ok, kept.output, kept.duration_ms, kept.content_type) == (True, b"42", 7, "a/b")
    assert isinstance(large, Failed) and "101 bytes" in large.reason and not large.retryable
    assert isinstance(boom, Failed) and boom.reason == "boom" and boom.retry == policy and boom.retryable
    assert boom.result is not None and boom.result.output == b"trace"
    assert isinstance(final, Failed) and not final.retryable and final.reason
    assert isinstance(stopped, Done) and stopped.result is not None and stopped.result.reason == CANCELLED
    assert isinstance(later, Failed) and later.delay_ms == 5
    assert back == HAND_BACK


async def test_a_snooze_is_no_failure_unless_the_worker_says_final() -> None:
    desk = Desk(keep_ms=1_000)
    session = desk.open(credit=3)
    batch = [delivery() for _ in range(3)]
    over = await desk.deliver(*batch)
    s = [t.sequence for t in tasks_of(messages_of(session))]
    desk.receive(
        session,
        failed=[worker_pb2.Failed(sequence=s[0], reason="busy", retry_after_ms=5, snooze=True),
                worker_pb2.Failed(sequence=s[1], reason="busy", snooze=True),
                worker_pb2.Failed(sequence=s[2], reason="no", snooze=True, final=True)],
    )  # fmt: skip
    await over
    soon, later, never = [desk.engine.outcomes[d.task_id] for d in batch]
    assert isinstance(soon, Snoozed) and (soon.reason, soon.delay_ms) == ("busy", 5) and soon.result is not None
    assert isinstance(later, Snoozed) and later.delay_ms is None
    assert isinstance(never, Failed) and not never.retryable


async def test_no_result_is_kept_that_nobody_wants() -> None:
    desk = Desk()
    session = desk.open(credit=2)
    over = await desk.deliver(delivery(), delivery(keep_result_ms=500))
    plain, kept = tasks_of(messages_of(session))
    assert (plain.want_result, kept.want_result) == (False, True)
    for task in (plain, kept):
        desk.receive(session, succeeded=[worker_pb2.Succeeded(sequence=task.sequence, output=b"1")])
    await over
    assert [isinstance(o, Done) and o.stored != b"" for o in desk.engine.outcomes.values()] == [False, True]


async def test_a_draining_worker_gets_nothing_and_answers_what_it_has() -> None:
    desk = Desk()
    session = desk.open(credit=3)
    over = await desk.deliver(delivery())
    (task,) = tasks_of(messages_of(session))
    desk.receive(session, number=2, drain=True)
    assert desk.pool.room() == 0
    desk.receive(session, number=3, done=[task.sequence])
    await over
    desk.receive(session, number=4, credit=2)
    assert desk.pool.room() == 2, "credit takes it up again"


async def test_a_running_task_can_be_cancelled() -> None:
    desk = Desk()
    session = desk.open(credit=1)
    d = delivery()
    over = await desk.deliver(d)
    (task,) = tasks_of(messages_of(session))
    assert desk.gateway.cancel(d.task_id) and not desk.gateway.cancel(bytes(16))
    assert [list(m.cancel) for m in messages_of(session)] == [[task.sequence]]
    over.cancel()


async def test_the_heartbeat_reports_who_is_connected_and_what_is_served() -> None:
    desk = Desk()
    desk.open(credit=5, identity="host-1", labels={"zone": "a"}, concurrency=5)
    activity = desk.gateway.activity()
    assert activity.lanes == (b"wmail:send",) and activity.types == "w" and activity.worker_count == 1
    worker = ConnectedWorker(
        identity="host-1", labels={"zone": "a"}, functions=1, concurrency=5, places=5, since_ms=NOW
    )
    assert activity.workers == (worker,) and activity.free == 5
    # A worker of several nodes with fewer places than nodes gives some of these none.
    desk.open(credit=0, identity="host-2", concurrency=5)
    assert desk.gateway.activity().free == 5
