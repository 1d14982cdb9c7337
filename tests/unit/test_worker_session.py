"""The worker's half of the session protocol, fed by hand; and by a model of a node with breaks at random places."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from delaybox.wire.gen import worker_pb2 as pb
from delaybox.worker.session import ContractBroken, NodeSession
from delaybox.worker.slots import Slots


def welcome(session: str = "s1", *, resumed: bool = False, number: int = 0, seen: int = 0) -> pb.ToWorker:
    greeting = pb.Welcome(
        session=session, resumed=resumed, heartbeat_ms=1_000, resume_ms=2_000, max_output=1_000, node="n"
    )
    return pb.ToWorker(number=number, seen=seen, welcome=greeting)


def tasks(number: int, *sequences: int, seen: int = 0) -> pb.ToWorker:
    return pb.ToWorker(number=number, seen=seen, tasks=[pb.Assignment(sequence=s, name="f") for s in sequences])


def parsed(raw: bytes | None) -> pb.FromWorker:
    assert raw is not None
    return pb.FromWorker.FromString(raw)


def opened() -> NodeSession[str]:
    session: NodeSession[str] = NodeSession(pb.Hello(queues=["q"]), lambda: None)
    session.hello()
    session.receive(welcome())
    return session


def take(session: NodeSession[str], message: pb.ToWorker) -> list[int]:
    got = [task.sequence for task in session.receive(message).tasks]
    session.held.update((sequence, f"run{sequence}") for sequence in got)
    return got


def test_hello_names_the_session_only_when_there_is_one_to_resume() -> None:
    session = opened()
    assert parsed(NodeSession(pb.Hello(queues=["q"]), lambda: None).hello()).hello == pb.Hello(queues=["q"])
    take(session, tasks(1))
    again = parsed(session.hello())
    assert again.number == 0
    assert (again.hello.session, again.hello.seen, list(again.hello.queues)) == ("s1", 1, ["q"])


def test_a_stream_must_begin_with_a_welcome() -> None:
    session: NodeSession[str] = NodeSession(pb.Hello(), lambda: None)
    session.hello()
    with pytest.raises(ContractBroken, match="no welcome"):
        session.receive(tasks(1, 1))


def test_ends_are_said_once_and_only_of_what_is_held() -> None:
    session = opened()
    session.flush(5)
    take(session, tasks(1, 1, 2, 3))
    session.done(1)
    session.done(1)
    session.done(99)
    session.succeeded(2, b"r", "x/y", 7)
    session.failed(3, pb.Failed(reason="why"))
    message = parsed(session.flush())
    assert list(message.done) == [1]
    assert message.succeeded[0] == pb.Succeeded(sequence=2, output=b"r", content_type="x/y", duration_ms=7)
    assert message.failed[0] == pb.Failed(sequence=3, reason="why")
    assert session.flush() is None
    assert session.held == {}


def test_messages_are_numbered_and_kept_until_they_are_heeded() -> None:
    session = opened()
    first, second = session.flush(1), session.beat()
    assert [parsed(first).number, parsed(second).number] == [1, 2]
    assert session.resend() == [first, second]
    session.receive(pb.ToWorker(number=1, seen=1))
    assert session.resend() == [second]
    session.receive(pb.ToWorker(number=2, seen=2))
    assert session.silent


def test_a_resumed_stream_repeats_nothing_and_misses_nothing() -> None:
    session = opened()
    session.flush(10)
    take(session, tasks(1, 1, 2))
    session.done(1)
    lost = session.flush(1)
    hello = parsed(session.hello())
    assert hello.hello.seen == 1
    received = session.receive(welcome(resumed=True, number=2, seen=1))
    assert received.lost == ()
    assert session.resend() == [lost]
    # The node repeats what had arrived, and goes on.
    assert take(session, tasks(2, 1, 2)) == []
    assert take(session, tasks(3, 3)) == [3]
    assert sorted(session.held) == [2, 3]


def test_a_message_left_out_breaks_the_stream() -> None:
    session = opened()
    with pytest.raises(ContractBroken, match="message 3 came after 0"):
        session.receive(tasks(3))


def test_a_session_that_is_not_known_any_more_loses_what_it_held_and_says_nothing_of_it() -> None:
    session = opened()
    session.flush(10)
    take(session, tasks(1, 1, 2))
    session.done(1)
    session.hello()
    received = session.receive(welcome("s2"))
    assert (received.lost, received.unhandled) == (["run2"], 1)
    session.done(2)
    assert session.flush() is None
    assert (session.id, session.taken) == ("s2", 0)
    assert parsed(session.flush(4)).number == 1
    # Sequences begin anew with the session.
    assert take(session, tasks(1, 1)) == [1]


def test_credit_counts_what_was_granted_and_not_used() -> None:
    session = opened()
    assert parsed(session.flush(3)).credit == 3
    take(session, tasks(1, 1, 2))
    assert (session.credit, session.taken) == (1, 3)


def test_what_comes_without_credit_is_handed_back() -> None:
    session = opened()
    session.flush(1)
    assert take(session, tasks(1, 1, 2)) == [1]
    assert list(parsed(session.flush()).handed_back) == [2]


def test_credit_taken_back_counts_until_the_node_has_heard_it() -> None:
    session = opened()
    session.flush(4)
    session.drain()
    drain = parsed(session.flush(4))
    assert (drain.drain, drain.credit) == (True, 0)
    assert take(session, tasks(1, 1)) == [1]
    assert (session.draining, session.taken) == (True, 4)
    session.receive(pb.ToWorker(number=2, seen=drain.number))
    assert (session.draining, session.taken) == (False, 1)
    assert parsed(session.flush(2)).credit == 2


def test_a_node_that_comes_back_after_it_was_given_up_is_handed_everything_back() -> None:
    session = opened()
    session.flush(3)
    take(session, tasks(1, 1, 2))
    assert session.abandon() == ["run1", "run2"]
    session.hello()
    session.receive(welcome(resumed=True, seen=1))
    message = parsed(session.flush(5))
    assert (list(message.handed_back), message.drain, message.credit) == ([1, 2], True, 0)
    assert take(session, tasks(2, 3)) == []
    assert list(parsed(session.flush()).handed_back) == [3]
    session.receive(pb.ToWorker(number=3, seen=3))
    assert (session.refusing, session.taken) == (False, 0)


def test_stale_answers_are_counted() -> None:
    session = opened()
    received = session.receive(pb.ToWorker(number=1, stale=[7, 8]))
    assert (received.stale, session.stale) == (2, 2)


def test_a_cancel_names_only_what_is_held() -> None:
    session = opened()
    session.flush(2)
    take(session, tasks(1, 1))
    assert session.receive(pb.ToWorker(number=2, cancel=[1, 5])).cancel == ["run1"]


def test_large_results_are_spread_over_messages() -> None:
    session = opened()
    session.flush(5)
    take(session, tasks(1, 1, 2, 3, 4, 5))
    for sequence in range(1, 6):
        session.succeeded(sequence, bytes(400_000), "", 0)
    sizes = []
    while (raw := session.flush()) is not None:
        sizes.append(len(parsed(raw).succeeded))
        assert len(raw) < 4_000_000
    assert sizes == [3, 2]


def test_only_the_last_progress_before_a_flush_is_said() -> None:
    session = opened()
    session.flush(1)
    take(session, tasks(1, 1))
    for percent in range(10):
        session.progress(1, percent / 10, "on")
    session.progress(2, 0.5, "of what is not held")
    message = parsed(session.flush())
    assert [(p.sequence, p.progress.fraction) for p in message.progress] == [(1, 0.9)]


@dataclass
class ModelNode:
    """A node as the contract describes it, with unreliable wires: every message may be lost with its stream."""

    todo: int
    number: int = 0
    seen: int = 0
    credit: int = 0
    sequence: int = 0
    sent: dict[int, pb.ToWorker] = field(default_factory=dict)
    out: set[int] = field(default_factory=set)
    ended: list[int] = field(default_factory=list)

    def send(self, **parts: object) -> pb.ToWorker:
        self.number += 1
        self.sent[self.number] = pb.ToWorker(number=self.number, seen=self.seen, **parts)  # type: ignore[arg-type]
        return self.sent[self.number]

    def receive(self, message: pb.FromWorker) -> None:
        if message.number <= self.seen:
            return
        assert message.number == self.seen + 1, "the worker left a message out"
        self.seen = message.number
        for sequence in (*message.done, *message.handed_back):
            self.out.remove(sequence)  # KeyError: said twice, or of what was not handed out
            self.ended.append(sequence)
        self.credit += message.credit
        for number in [n for n in self.sent if n <= message.seen]:
            del self.sent[number]

    def hand_out(self, most: int) -> pb.ToWorker:
        count = min(most, self.credit, self.todo)
        self.credit -= count
        self.todo -= count
        given = range(self.sequence + 1, self.sequence + count + 1)
        self.sequence += count
        self.out.update(given)
        return self.send(tasks=[pb.Assignment(sequence=s, name="f") for s in given])


@pytest.mark.parametrize("seed", range(30))
def test_breaks_at_any_place_lose_and_double_nothing(seed: int) -> None:
    draw = random.Random(seed)
    node = ModelNode(todo=300)
    session: NodeSession[str] = NodeSession(pb.Hello(), lambda: None)
    slots = Slots(16)
    slots.join(session)
    session.hello()
    session.receive(welcome("s1"))
    ran: list[int] = []
    while len(node.ended) < 300:
        up, down = [], []
        for _ in range(draw.randrange(1, 8)):
            raw = session.flush(slots.room(session))
            if raw is not None:
                up.append(raw)
            if draw.random() < 0.2:
                up.append(session.beat())
        cut = draw.randrange(len(up) + 1) if draw.random() < 0.3 else len(up)
        for raw in up[:cut]:
            node.receive(pb.FromWorker.FromString(raw))
            down.append(node.hand_out(draw.randrange(1, 10)))
        received = draw.randrange(len(down) + 1) if cut < len(up) or draw.random() < 0.2 else len(down)
        for message in down[:received]:
            got = take(session, message)
            ran += got
            assert len(session.held) <= slots.size
            assert session.taken <= slots.size
            for sequence in draw.sample(sorted(session.held), draw.randrange(len(session.held) + 1)):
                session.done(sequence)
        if cut < len(up) or received < len(down):
            hello = pb.FromWorker.FromString(session.hello()).hello
            assert session.receive(welcome("s1", resumed=True, seen=node.seen)).lost == ()
            for raw in session.resend():
                node.receive(pb.FromWorker.FromString(raw))
            for number in sorted(n for n in node.sent if n > hello.seen):
                ran += take(session, node.sent[number])
    assert sorted(ran) == sorted(node.ended) == list(range(1, 301))
