"""Which partitions a round claims from, where more have work than one round takes."""

from __future__ import annotations

from collections import Counter, deque

import pytest

from delaybox.engine.rounds import InTurn
from delaybox.engine.taker import Asked

FULL = 1_000


@pytest.mark.parametrize("partitions", [3, 4, 7, 16])
def test_partitions_with_much_work_get_through_it_together(partitions: int) -> None:
    """Two rounds are under way at a time. What falls behind would be left at the end, with no round beside its own."""
    on, claims, under_way = set[int](), Counter[int](), deque[list[int]]()
    turns = InTurn(Asked(), on)
    for _ in range(200):
        chosen = turns.of([p for p in range(partitions) if p not in on], 0, True)
        assert chosen and len(chosen) <= 4 and len(set(chosen)) == len(chosen)
        claims.update(chosen)
        under_way.append(chosen)
        on.update(chosen)
        assert len(chosen) < partitions, "another round finds something beside this one"
        if len(under_way) == 2:
            on.difference_update(under_way.popleft())
        assert max(claims.values()) - min(claims[p] for p in range(partitions)) <= 1


def test_beside_rounds_at_other_servers_a_round_is_not_divided() -> None:
    asked = Asked()
    asked.trackers = 3
    assert InTurn(asked, ()).of([0, 1, 2, 3, 4], 0, True) == [0, 1, 2, 3]
    assert InTurn(asked, ()).of([0, 1], 0, True) == [0, 1], "each tracker has one round at a time"


def test_with_few_slots_each_gets_its_turn() -> None:
    turns, claims = InTurn(Asked(), ()), Counter[int]()
    for _ in range(30):
        chosen = turns.of(list(range(10)), 1, False)
        assert len(chosen) == 1
        claims.update(chosen)
    assert set(claims.values()) == {3}


def test_where_all_can_be_claimed_from_all_are() -> None:
    assert InTurn(Asked(), ()).of([5, 2, 9], FULL, False) == [5, 2, 9]
