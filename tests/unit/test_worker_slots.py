"""Places shared by sessions: never more than there are, each session its part."""

from __future__ import annotations

from delaybox.worker.slots import Slots


class Holder:
    def __init__(self) -> None:
        self.taken = 0
        self.drained = False

    def drain(self) -> None:
        self.drained = True


def fill(slots: Slots, *holders: Holder) -> list[int]:
    for holder in holders:
        holder.taken += slots.room(holder)
    assert slots.taken <= slots.size
    return [holder.taken for holder in holders]


def test_one_session_has_all_places() -> None:
    slots, only = Slots(10), Holder()
    assert slots.room(only) == 0
    slots.join(only)
    assert fill(slots, only) == [10]
    assert slots.room(only) == 0


def test_a_session_that_comes_later_gets_its_share_when_the_first_took_credit_back() -> None:
    slots, first, second = Slots(10), Holder(), Holder()
    slots.join(first)
    fill(slots, first)
    slots.join(second)
    assert (first.drained, second.drained) == (True, False)
    assert fill(slots, first, second) == [10, 0]
    assert slots.short
    first.taken = 2  # two tasks run, the rest of the credit was forgotten
    assert fill(slots, first, second) == [5, 5]
    assert not slots.short


def test_what_does_not_divide_goes_to_the_first() -> None:
    slots, holders = Slots(8), [Holder(), Holder(), Holder()]
    for holder in holders:
        slots.join(holder)
    assert fill(slots, *holders) == [4, 2, 2]


def test_of_more_sessions_than_places_some_wait() -> None:
    slots, holders = Slots(2), [Holder(), Holder(), Holder()]
    for holder in holders:
        slots.join(holder)
    assert fill(slots, *holders) == [1, 1, 0]
    assert slots.short
    slots.leave(holders[0])
    assert fill(slots, *holders[1:]) == [1, 1]


def test_the_share_of_one_that_left_goes_to_the_others() -> None:
    slots, first, second = Slots(4), Holder(), Holder()
    slots.join(first)
    slots.join(second)
    assert fill(slots, first, second) == [2, 2]
    slots.leave(second)
    assert fill(slots, first) == [4]


def test_lingering_code_takes_places_of_all() -> None:
    slots, only = Slots(4), Holder()
    slots.join(only)
    slots.lingering = 3
    assert fill(slots, only) == [1]
    assert slots.short
    slots.lingering = 0
    assert fill(slots, only) == [4]
