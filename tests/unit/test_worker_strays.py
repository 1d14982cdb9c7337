"""A session that is over gives up its attempts and unconfirmed reports; another node's session takes them."""

from __future__ import annotations

from delaybox.wire.gen import worker_pb2 as pb
from delaybox.worker.parted import Parted
from delaybox.worker.session import NUMBERS_AT_ONCE, NodeSession
from delaybox.worker.strays import Stray, Strays

LEASE = b"L" * 20


def opened(adopt_ms: int = 15_000, session: str = "s1") -> NodeSession[str]:
    made: NodeSession[str] = NodeSession(pb.Hello(moves=True), lambda: None)
    made.receive(pb.ToWorker(welcome=pb.Welcome(session=session, heartbeat_ms=1_000, adopt_ms=adopt_ms)))
    made.flush(100)
    return made


def handed(session: NodeSession[str], *claims: tuple[int, int, bytes], number: int = 1) -> None:
    """Tasks of these claims (first and last sequence, lease) arrive and run."""
    message = pb.ToWorker(number=number)
    for first, last, lease in claims:
        message.claims.add(first=first, last=last, partition=3, lease=lease)
        for sequence in range(first, last + 1):
            message.tasks.add(sequence=sequence)
            session.held[sequence] = f"run{sequence}"
    session.receive(message)


def sent(session: NodeSession[str]) -> pb.FromWorker:
    raw = session.flush()
    assert raw is not None
    return pb.FromWorker.FromString(raw)


def test_what_runs_and_what_is_not_confirmed_leaves_with_its_lease() -> None:
    session = opened()
    handed(session, (1, 3, LEASE), (4, 5, b"M" * 20))
    session.done(1)
    confirmed = sent(session).number
    session.receive(pb.ToWorker(number=2, seen=confirmed))
    session.done(2)
    sent(session)
    session.failed(4, pb.Failed(reason="no"))
    parted, lost, reports = session.part()
    assert (lost, reports) == ([], 0)
    found = {(p.run, p.lease[:1], p.partition): p.end for p in parted}
    assert set(found) == {("run2", b"L", 3), ("run4", b"M", 3), ("run3", b"L", 3), ("run5", b"M", 3)}
    assert found["run2", b"L", 3] == pb.FromWorker(done=[0])
    assert [f.reason for f in (found["run4", b"M", 3] or pb.FromWorker()).failed] == ["no"]
    assert found["run3", b"L", 3] is None
    assert (session.id, dict(session.held)) == ("", {})


def test_what_a_later_message_reports_is_not_confirmed_with_the_one_before_it() -> None:
    session = opened()
    session.credit = NUMBERS_AT_ONCE + 2
    handed(session, (1, NUMBERS_AT_ONCE + 2, LEASE))
    for sequence in range(1, NUMBERS_AT_ONCE + 3):
        session.done(sequence)
    confirmed = sent(session).number
    sent(session)
    session.receive(pb.ToWorker(number=2, seen=confirmed))
    parted, lost, reports = session.part()
    assert (lost, reports) == ([], 0)
    assert [p.run for p in parted] == [f"run{NUMBERS_AT_ONCE + 1}", f"run{NUMBERS_AT_ONCE + 2}"]


def test_with_a_node_that_does_not_adopt_all_is_lost_as_before() -> None:
    session = opened(adopt_ms=0)
    handed(session, (1, 2, LEASE))
    session.done(1)
    assert session.part() == ([], ["run2"], 1)


def test_a_welcome_to_a_new_session_gives_them_up_as_well() -> None:
    session = opened()
    handed(session, (1, 1, LEASE))
    received = session.receive(pb.ToWorker(welcome=pb.Welcome(session="s2", heartbeat_ms=1_000)))
    assert [p.run for p in received.parted] == ["run1"]
    assert (session.id, session.adopt_ms, list(received.lost)) == ("s2", 0, [])


def test_leases_of_what_has_ended_are_forgotten() -> None:
    session = opened()
    session.credit = 100_000
    for number in range(1, 5_001):
        handed(session, (number, number, LEASE), number=number)
        session.done(number)
        message = sent(session)
        session._heeded(message.number)
    assert len(session._claims) <= 1_001


def test_an_adopted_attempt_reports_once_in_its_new_session() -> None:
    old, new = opened(), opened(session="s2")
    strays: Strays[str] = Strays()
    running = Stray(Parted(1, "run1", 3, LEASE), max_output=100)
    ended = Stray(Parted(2, "run2", 3, LEASE, pb.FromWorker(done=[0])), max_output=100)
    strays.add([running, ended])
    assert strays.arrange() == (), "nobody is there"
    strays.takers.append(new)
    ((taker, group),) = strays.arrange()
    assert (taker, group, strays.arrange()) == (new, [running, ended], ())
    assert strays.answered(old, running.number) is None, "it was not offered to that session"
    running.succeeded(1, b"7", "", 5)
    for stray, sequence in ((running, 71), (ended, 72)):
        assert strays.answered(new, stray.number) is stray
        stray.settle(new, sequence)
    message = sent(new)
    assert list(message.done) == [72]
    assert [(s.sequence, s.output) for s in message.succeeded] == [(71, b"7")]
    assert len(strays) == 0


def test_a_session_that_is_over_before_it_answers_frees_them_for_another() -> None:
    first, second = opened(), opened(session="s2")
    strays: Strays[str] = Strays()
    strays.takers.append(first)
    stray = Stray(Parted(1, "run1", 3, LEASE), max_output=100)
    strays.add([stray])
    strays.arrange()
    strays.takers[:] = [second]
    strays.free(first)
    ((taker, _),) = strays.arrange()
    assert taker is second
    assert strays.give_up([stray]) == [stray]
    assert strays.answered(second, stray.number) is None
    assert strays.give_up([stray]) == []


def test_the_node_that_goes_away_learns_that_another_has_its_tasks() -> None:
    leaving = opened()
    handed(leaving, (1, 2, LEASE))
    (one, two) = leaving.part_running()
    leaving.away = 2
    strays = [Stray(p, max_output=100, giver=leaving) for p in (one, two)]
    for stray in strays:
        stray.close()
    assert list(sent(leaving).moved) == [1, 2]
    assert leaving.away == 0
