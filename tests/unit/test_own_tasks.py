"""What is known of tasks that were just stored: only what is certain, and not for long."""

from __future__ import annotations

from delaybox.service.own_tasks import KEPT_S, MOST_ENDED, OwnTasks


def name(number: int) -> bytes:
    return number.to_bytes(16, "big")


def test_a_stored_task_has_not_ended_until_its_end_is_announced():
    own = OwnTasks()
    own.stored(name(1), own.mark, 0.0)
    own.stored(name(2), own.mark, 0.0)
    own.ended(name(2), b"message")
    assert (own.take(name(1), 0.1), own.take(name(2), 0.1)) == (b"", b"message")
    assert (own.take(name(1), 0.1), own.take(name(2), 0.1)) == (None, None)


def test_an_end_may_be_announced_before_the_call_that_stored_it_is_answered():
    own = OwnTasks()
    mark = own.mark
    own.ended(name(1), b"message")
    own.stored(name(1), mark, 0.0)
    assert own.take(name(1), 0.0) == b"message"


def test_ends_without_results_leave_their_tasks_and_those_on_their_way_unknown():
    own = OwnTasks()
    mark = own.mark
    own.stored(name(1), mark, 0.0)
    own.stored(name(2), mark, 0.0)
    own.several_ended(name(2) + name(3))
    own.stored(name(3), mark, 0.0)
    assert [own.take(name(n), 0.0) for n in (1, 2, 3)] == [b"", None, None]


def test_whatever_may_have_been_missed_is_unknown():
    own = OwnTasks()
    mark = own.mark
    own.stored(name(1), mark, 0.0)
    own.ended(name(2), b"message")
    own.missed()
    own.stored(name(2), mark, 0.0)
    assert (own.take(name(1), 0.0), own.take(name(2), 0.0)) == (None, None)


def test_it_is_forgotten_after_a_moment():
    own = OwnTasks()
    own.stored(name(1), own.mark, 5.0)
    assert own.take(name(1), 5.0 + KEPT_S) is None


def test_what_is_kept_is_bounded():
    own = OwnTasks()
    mark = own.mark
    own.stored(name(0), mark, 0.0)
    for number in range(MOST_ENDED + 1):
        own.ended(name(number), b"message")
    # The first one was forgotten; so might be one that was on its way meanwhile.
    own.stored(name(1), mark, 0.0)
    own.stored(name(2), mark + 1, 0.0)
    assert [own.take(name(n), 0.0) for n in (0, 1, 2)] == [None, None, b"message"]
    for number in range(2_000):
        own.stored(name(number), own.mark, 0.0)
    assert len(own._stored) == 1_024 and len(own._ended) <= MOST_ENDED
