"""What is sent and not acknowledged is repeated, so every message must be one that the other side takes."""

from __future__ import annotations

import math

import pytest

from delaybox.api.grpc.work import profile_of
from delaybox.core.delivery import DONE, Failed
from delaybox.core.errors import ConfigError, InvalidTask
from delaybox.core.limits import STREAM_MESSAGE_BYTES
from delaybox.core.texts import head, tail, tail_bytes
from delaybox.targets.worker_profile import DEFAULT_TAKES
from delaybox.wire import progress as wire_progress
from delaybox.wire.bounds import check_items
from delaybox.wire.gen import scheduler_pb2
from delaybox.wire.gen import worker_pb2 as pb
from delaybox.worker import Worker
from delaybox.worker.context import CancelSignal, Context, Facts
from tests.desk import Desk, delivery, messages_of, tasks_of
from tests.unit.test_worker_session import opened, parsed, take, tasks, welcome

LARGEST = 2 * STREAM_MESSAGE_BYTES + 100_000
"""A message is closed when it is full, and its last part may be as large."""


def context(sink) -> Context:
    facts = Facts(id="i", name="f", queue="q", due_ms=0, attempt=0, token=1, headers={}, labels={})
    return Context(facts, CancelSignal(), sink)


def test_text_is_cut_by_bytes_and_says_so() -> None:
    assert head("x" * 20, 20) == "x" * 20
    assert head("x" * 21, 20) == "x" * 15 + "[...]"
    assert head("ä" * 20, 20) == "ä" * 7 + "[...]"
    assert tail("ä" * 20, 20) == "[...]" + "ä" * 7
    assert tail("abc", 20) == "abc"
    assert head("a\udc80b", 20) == "a?b"
    assert tail("a\udc80b", 20) == "a?b"
    assert (tail_bytes(b"x" * 30, 20), tail_bytes(b"x", 20)) == (b"[...]" + b"x" * 15, b"x")
    assert len(tail_bytes(b"x" * 30, 3)) <= 5


def test_progress_is_cut_before_it_goes_anywhere() -> None:
    reports: list[tuple[float, str]] = []
    context(lambda fraction, message: reports.append((fraction, message))).progress(0.5, "x" * 20_000_000)
    ((_, text),) = reports
    assert len(text) == 2_000 and text.endswith("[...]")


def test_half_a_character_in_a_progress_does_not_stop_what_is_said_of_others() -> None:
    session = opened()
    session.flush(2)
    take(session, tasks(1, 1, 2))
    context(lambda fraction, message: session.progress(1, fraction, message)).progress(0.5, "\udc80")
    session.done(2)
    message = parsed(session.flush())
    assert (list(message.done), message.progress[0].progress.message) == ([2], "?")


def test_much_progress_travels_in_several_messages() -> None:
    session = opened()
    session.flush(2_000)
    take(session, tasks(1, *range(1, 2_001)))
    for sequence in range(1, 2_001):
        session.progress(sequence, 0.5, "x" * 2_000)
    reports: list[int] = []
    while (raw := session.flush()) is not None:
        assert len(raw) < LARGEST
        reports += [p.sequence for p in parsed(raw).progress]
    assert sorted(reports) == list(range(1, 2_001))


def test_very_many_ends_travel_in_several_messages() -> None:
    session = opened()
    session.flush(200_000)
    take(session, tasks(1, *range(1, 150_001)))
    for sequence in range(1, 100_001):
        session.done(sequence)
    session.hand_back(range(100_001, 150_001))
    done: list[int] = []
    back: list[int] = []
    while (raw := session.flush()) is not None:
        assert len(raw) < LARGEST
        done += parsed(raw).done
        back += parsed(raw).handed_back
    assert (len(done), len(back)) == (100_000, 50_000)


def test_no_message_has_more_parts_than_a_node_takes() -> None:
    """Small ones count as well: 20,000 tasks at once is what a node gives."""
    session = opened()
    session.flush(100_000)
    take(session, tasks(1, *range(1, 100_001)))
    for sequence in range(1, 20_001):
        session.succeeded(sequence, b"1", "a/b", 7)
        session.failed(
            sequence + 20_000, pb.Failed(reason="r", final=True, output=b"o", duration_ms=7, retry_after_ms=1)
        )
        session.done(sequence + 40_000)
        session.progress(sequence + 80_000, 0.5, "half")
    session.hand_back(range(60_001, 80_001))
    ends = 0
    while (raw := session.flush()) is not None:
        check_items(raw, pb.FromWorker)
        ends += len(parsed(raw).succeeded) + len(parsed(raw).failed) + len(parsed(raw).done) + len(parsed(raw).progress)
    assert ends == 80_000


def test_progress_is_not_kept_for_repeating_but_for_the_last_of_each_task() -> None:
    session = opened()
    session.flush(2)
    take(session, tasks(1, 1, 2))
    for step in range(1_000):
        session.progress(1, step / 1_000, "x" * 2_000)
        session.progress(2, step / 1_000, "x" * 2_000)
        session.flush()
    assert sum(map(len, session.resend())) < 20_000
    session.done(2)
    session.hello()
    session.receive(welcome(resumed=True, seen=1))
    again = parsed(session.flush())
    assert [(p.sequence, p.progress.fraction) for p in again.progress] == [(1, 0.999)]
    assert list(again.done) == [2]


def test_progress_that_was_heeded_is_not_said_again() -> None:
    session = opened()
    session.flush(1)
    take(session, tasks(1, 1))
    session.progress(1, 0.5, "half")
    number = parsed(session.flush()).number
    session.receive(pb.ToWorker(number=2, seen=number))
    session.hello()
    session.receive(welcome(resumed=True, number=2, seen=number))
    assert session.flush() is None


def test_what_the_node_refuses_for_its_size_twice_is_a_failure_that_says_so() -> None:
    """Where something on the way takes less than the contract says, the stream must go on all the same."""
    session = opened()
    session.flush(3)
    take(session, tasks(1, 1, 2, 3))
    session.succeeded(1, b"r" * 900_000, "", 7)
    session.failed(2, pb.Failed(reason="why", output=b"t" * 90_000))
    session.done(3)
    session.flush()
    assert session.refused("too large") == 0, "it may have been another call's"
    assert session.refused("RESOURCE_EXHAUSTED: larger than max") == 1
    (first, second) = map(parsed, session.resend())
    assert (first.credit, list(second.done), second.number) == (3, [3], 2)
    assert sum(map(len, session.resend())) < 5_000
    by = {f.sequence: f for f in second.failed}
    assert by[1].final and "result of 900000 bytes cannot be sent" in by[1].reason and "larger than max" in by[1].reason
    assert (by[2].reason, by[2].final, by[2].output) == ("why", False, b"")


async def test_a_task_that_its_worker_cannot_take_is_a_dead_letter_and_the_others_come() -> None:
    desk = Desk()
    session = desk.open(credit=3, identity="small", takes=DEFAULT_TAKES)
    large, small = delivery(payload=b"x" * (4 << 20)), delivery(payload=b"y")
    delivering = await desk.deliver(large, small)
    (message,) = messages_of(session)
    assert [t.task.payload for t in message.tasks] == [b"y"]
    outcome = desk.engine.outcomes[large.task_id]
    assert isinstance(outcome, Failed) and not outcome.retryable
    assert "takes messages of 4194304 bytes" in outcome.reason
    assert session.room == 2, "it cost no place"
    desk.receive(session, number=2, done=[message.tasks[0].sequence])
    await delivering
    assert desk.engine.outcomes[small.task_id] is DONE


async def test_a_message_holds_one_large_task_or_a_megabyte_of_small_ones() -> None:
    desk = Desk()
    session = desk.open(credit=100)
    await desk.deliver(*(delivery(payload=b"x" * 700_000) for _ in range(3)), delivery(payload=b"y" * 3_000_000))
    sizes = [message.ByteSize() for message in messages_of(session)]
    assert len(sizes) == 4 and max(sizes) < 3_100_000


async def test_very_many_late_answers_are_refused_in_several_messages() -> None:
    desk = Desk()
    session = desk.open(credit=1)
    desk.receive(session, number=2, done=range(10**12, 10**12 + 50_000))
    messages = messages_of(session)
    assert max(message.ByteSize() for message in messages) < 1 << 20
    assert sum(len(message.stale) for message in messages) == 50_000
    assert tasks_of(messages) == []


async def test_what_a_foreign_worker_says_is_bounded() -> None:
    desk = Desk(keep_ms=1_000, max_output=50)
    session = desk.open(credit=3)
    one, two, three = delivery(), delivery(), delivery()
    await desk.deliver(one, two, three)
    first, second, third = (t.sequence for t in tasks_of(messages_of(session)))
    desk.receive(
        session,
        number=2,
        succeeded=[pb.Succeeded(sequence=first, content_type="a/" + "b" * 1_000)],
        failed=[
            pb.Failed(sequence=second, reason="x" * 10_000, output=b"begin" + b"." * 90 + b"end", duration_ms=1 << 63)
        ],
    )
    outcome = desk.engine.outcomes[one.task_id]
    assert isinstance(outcome, Failed) and "content type has 1002 characters" in outcome.reason
    outcome = desk.engine.outcomes[two.task_id]
    assert isinstance(outcome, Failed) and outcome.result is not None
    assert len(outcome.reason) == 2_000
    assert outcome.result.output.endswith(b"...end"), "the end of a traceback says what was raised"
    assert len(outcome.result.output) == 50 and outcome.result.duration_ms == 1 << 53
    assert third


@pytest.mark.parametrize(
    ("fraction", "kept"), [(0.25, 0.25), (7.0, 1.0), (-3.0, -1.0), (math.nan, -1.0), (math.inf, -1.0)]
)
def test_a_fraction_is_one_or_not_stated(fraction: float, kept: float) -> None:
    """JSON has no word for what is no number."""
    checked = wire_progress.checked(scheduler_pb2.Progress(fraction=fraction, message="x" * 3_000))
    assert (checked.fraction, len(checked.message)) == (kept, 2_000)


def test_a_worker_that_no_node_would_have_says_so_before_it_asks() -> None:
    worker = Worker("w", servers="localhost:1", labels={"notes": "x" * (1 << 20)})
    worker.task(name="f")(lambda: None)
    with pytest.raises(ConfigError, match="use several workers, or shorter labels"):
        worker.runner()


def test_a_worker_says_what_it_takes() -> None:
    functions = [pb.Function(name="f")]
    assert profile_of(pb.Hello(functions=functions)).takes == 4 << 20
    assert profile_of(pb.Hello(functions=functions, max_message=64 << 20)).takes == 64 << 20
    with pytest.raises(InvalidTask, match="max_message 1000 is less than 1048576"):
        profile_of(pb.Hello(functions=functions, max_message=1_000))
