"""Which workers a node asks to move: as many as it has too many, those with the least to bring along, and no others."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from delaybox.core.membership import Activity, Member
from delaybox.targets.worker_session import WorkerSession
from delaybox.targets.worker_spread import WorkerSpread, surplus
from tests.desk import Desk, messages_of


def gateway(name: str, workers: int, *, kind: str = "grpc", roles: tuple[str, ...] = ("api", "work")) -> Member:
    return Member(id=name, kind=kind, roles=roles, activity=Activity(worker_count=workers))


def open_(desk: Desk, count: int, *, moves: bool = True) -> list[WorkerSession]:
    return [desk.open(moves=moves) for _ in range(count)]


@given(st.lists(st.integers(0, 60), min_size=2, max_size=12))
def test_who_has_many_more_than_the_mean_has_too_many_and_nobody_else(counts: list[int]):
    mean = sum(counts) / len(counts)
    for at, mine in enumerate(counts):
        too_many = surplus(mine, counts[:at] + counts[at + 1 :])
        assert too_many == 0 or (mine > 1.25 * mean and mine - too_many >= mean)
        assert too_many or mine <= max(1.25 * mean, mean + 1)


def test_half_of_those_that_are_too_many_are_asked_at_a_time():
    desk, spread = Desk(), WorkerSpread("a")
    sessions = open_(desk, 6)
    spread.listed([gateway("a", 6), gateway("b", 0), gateway("c", 0)])
    first = spread.choose(sessions, 10.0)
    assert len(first) == 2
    second = spread.choose(sessions, 11.0)
    assert len(second) == 1 and not set(first) & set(second), "those that were asked may be on their way"


def test_workers_that_hold_less_are_asked_first_and_those_that_cannot_move_never():
    desk, spread = Desk(), WorkerSpread("a")
    stuck, busy, free = *open_(desk, 1, moves=False), *open_(desk, 1), *open_(desk, 1)
    busy._held[1] = None  # type: ignore[assignment]
    spread.listed([gateway("a", 3), gateway("b", 0)])
    assert spread.choose([stuck, busy, free], 1.0) == [free]
    free.connected = False
    assert spread.choose([stuck, busy, free], 100.0) == [busy]


def test_one_that_stayed_is_asked_again_after_a_while_and_then_more_seldom():
    desk, spread = Desk(), WorkerSpread("a")
    sessions = open_(desk, 2)
    spread.listed([gateway("a", 2), gateway("b", 0)])
    moments: list[int] = []
    for second in range(1_000):
        if spread.choose(sessions[:1] + sessions[1:], float(second)):
            moments.append(second)
    assert len(moments) <= 12, "five times each within a quarter of an hour, or less"


def test_nobody_is_asked_where_no_other_node_takes_workers():
    desk, spread = Desk(), WorkerSpread("a")
    sessions = open_(desk, 8)
    assert spread.choose(sessions, 1.0) == [], "no list was read"
    others = [gateway("b", 0, roles=("api",)), gateway("c", 0, kind="clock"), gateway("d", 0, kind="rest")]
    spread.listed([gateway("a", 8), *others])
    assert spread.choose(sessions, 1.0) == []
    spread.listed([gateway("b", 0)])
    assert spread.choose(sessions, 1.0) == [], "it does not rank itself"


def test_what_is_asked_stands_in_one_message():
    desk = Desk()
    (session,) = open_(desk, 1)
    session.ask_to_move()
    assert [message.move for message in messages_of(session)] == [True]
    assert messages_of(session) == []
