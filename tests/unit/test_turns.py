"""Which partition gets tasks that may lie in any."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import groupby

from delaybox.service.pace import MOST_SLEEPS, WINDOW, BulkPace
from delaybox.service.turns import AHEAD_BEHIND, AHEAD_IN_A_ROW, BEHIND, IN_A_ROW, Turns


class Placed:
    """As `store.shards.Shards`."""

    def __init__(self, of: Iterable[int], away: Iterable[int] = ()) -> None:
        self.of = list(of)
        self.away = set(away)

    @property
    def several(self) -> bool:
        return len(set(self.of)) > 1

    def group(self, partitions: Iterable[int]) -> dict[int, list[int]]:
        found: dict[int, list[int]] = {}
        for p in partitions:
            found.setdefault(self.of[p], []).append(p)
        return found

    def reachable(self, partition: int) -> bool:
        return partition not in self.away


class Ahead(BulkPace):
    """Of a process for which all servers wait."""

    def __init__(self) -> None:
        super().__init__(lambda: 0, known=True)
        self.ahead = True


class Behind(BulkPace):
    """Of a process that waits for the servers."""

    def __init__(self) -> None:
        super().__init__(known=False)


def free(_: int) -> bool:
    return False


def drawn(turns: Turns, count: int) -> list[int]:
    return [turns.next(free) for _ in range(count)]


def turns_of(placed: Placed, pace: BulkPace | None = None) -> Turns:
    return Turns(placed, pace or Behind())  # type: ignore[arg-type]


THREE = [p * 7 % 3 for p in range(64)]


def test_of_one_server_each_partition_has_its_turn() -> None:
    assert drawn(turns_of(Placed([0] * 4)), 9) == [0, 1, 2, 3, 0, 1, 2, 3, 0]


def test_each_partition_once_in_a_round_and_a_server_several_times_in_a_row() -> None:
    placed = Placed(THREE)
    turns = turns_of(placed)
    rounds = [drawn(turns, 64) for _ in range(3)]
    assert all(sorted(found) == list(range(64)) for found in rounds)
    rows = [len(list(row)) for _, row in groupby(placed.of[p] for found in rounds for p in found)]
    assert rows[:15] == [IN_A_ROW] * 15 and max(rows) == IN_A_ROW and len(rows) <= 54


def test_a_server_has_longer_rows_while_all_wait_for_this_process() -> None:
    placed = Placed(THREE)
    turns = turns_of(placed, Ahead())
    found = drawn(turns, 64)
    assert sorted(found) == list(range(64))
    assert [len(list(row)) for _, row in groupby(placed.of[p] for p in found)][:3] == [AHEAD_IN_A_ROW] * 3
    turns.sent([placed.of[p] for p in drawn(turns, 1)] * (AHEAD_BEHIND - 1))
    same = placed.of[turns.next(free)]
    turns.sent([same])
    assert placed.of[turns.next(free)] != same, "that many batches are too many for one server"


def test_what_somebody_waits_for_goes_to_a_server_with_the_fewest_batches() -> None:
    placed = Placed(THREE)
    turns = turns_of(placed)
    first = placed.of[turns.next(free)]
    turns.sent([first])
    others = {placed.of[turns.next(free, waits=True)] for _ in range(8)}
    assert others and first not in others
    assert placed.of[turns.next(free)] == first, "the row of bulk goes on after it"
    least = next(iter(others))
    turns.sent([server for server in range(3) if server != least] * 5)
    assert {placed.of[turns.next(free, waits=True)] for _ in range(8)} == {least}
    assert placed.of[turns.next(lambda server: server == least, waits=True)] != least


def test_single_round_trips_alone_give_each_partition_its_turn() -> None:
    placed = Placed(THREE)
    turns = turns_of(placed)
    found = [turns.next(free, waits=True) for _ in range(128)]
    assert sorted(found[:64]) == sorted(found[64:]) == list(range(64))
    rows = [len(list(row)) for _, row in groupby(placed.of[p] for p in found)]
    assert rows[:15] == [IN_A_ROW] * 15


def test_a_process_is_ahead_while_it_seldom_sleeps() -> None:
    slept = 0
    pace = BulkPace(lambda: slept, known=True)

    def after(sleeps: Iterable[int]) -> list[bool]:
        nonlocal slept
        found = []
        for n in sleeps:
            slept += n
            pace.batch()
            found.append(pace.ahead)
        return found

    assert after([0, 2, 0, 0] * (WINDOW // 4)) == [False] * (WINDOW - 1) + [True]
    # It waits for the servers, and need not wait for the window's end to know.
    assert after([3] * (MOST_SLEEPS + 1)) == [True] * MOST_SLEEPS + [False]
    # It never sleeps, so it is tried again after a while.
    assert after([0] * 4 * WINDOW) == [False] * (4 * WINDOW - 1) + [True]


def test_where_nobody_says_how_often_it_sleeps_no_process_is_ahead() -> None:
    pace = BulkPace(lambda: 0, known=False)
    for _ in range(10 * WINDOW):
        pace.batch()
    assert not pace.ahead


def test_a_server_that_is_behind_has_its_turns_later_in_the_round() -> None:
    placed = Placed(THREE)
    turns = turns_of(placed)
    found = drawn(turns, 2)
    turns.sent([0] * BEHIND)
    found += (others := drawn(turns, 20))
    assert {placed.of[p] for p in others} == {1, 2}
    turns.answered([0])
    assert sorted(found + drawn(turns, 42)) == list(range(64))


def test_a_round_ends_without_a_server_that_stays_behind() -> None:
    placed = Placed(THREE)
    turns = turns_of(placed)
    turns.sent([0] * BEHIND)
    for _ in range(3):
        others = drawn(turns, 42)
        assert sorted(others) == [p for p in range(64) if placed.of[p]]
    turns.sent([1, 2] * BEHIND)
    drawn(turns, 22)
    assert sorted(drawn(turns, 64)) == list(range(64)), "all are behind, and have their turns as ever"


def test_what_a_server_was_passed_over_for_falls_on_all_of_its_partitions_alike() -> None:
    placed = Placed(THREE)
    turns = turns_of(placed)
    found: Counter[int] = Counter()
    for n in range(6_400):
        # It falls behind again and again, wherever it stands.
        turns.sent([0] * BEHIND if n % 11 < 7 else ())
        found[turns.next(free)] += 1
        turns.answered([0] * BEHIND if n % 11 < 7 else ())
    slow = [found[p] for p in range(64) if placed.of[p] == 0]
    assert max(slow) - min(slow) <= 1


def test_what_is_away_is_passed_over_and_busy_servers_where_another_answers() -> None:
    placed = Placed(THREE, away=[p for p in range(64) if THREE[p] == 1] + [0])
    turns = turns_of(placed)
    found = Counter(drawn(turns, 420))
    assert 0 not in found and {placed.of[p] for p in found} == {0, 2}
    assert {placed.of[turns.next(lambda server: server == 2)] for _ in range(64)} == {0}
    assert {placed.of[turns.next(lambda server: True)] for _ in range(64)} == {0, 2}
    placed.away = set(range(64))
    assert len({placed.of[p] for p in drawn(turns, 64)}) == 3, "nothing answers: any is as good"


def test_partitions_that_moved_have_their_turns_at_their_new_server() -> None:
    placed = Placed([0, 0, 1, 1])
    turns = turns_of(placed)
    drawn(turns, 3)
    placed.of = [0, 0, 0, 0, 0, 0]
    assert sorted(drawn(turns, 6)) == list(range(6))
    placed.of = [2, 3]
    assert sorted(drawn(turns, 2)) == [0, 1]
