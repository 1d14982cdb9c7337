"""Which of several lines is next, of each of which only the beginning is known."""

from __future__ import annotations

from collections import Counter

import pytest

from delaybox.core.shares import Part, Shares, Waiting
from delaybox.core.stretches import APART_MS, Stretch, in_order, shorter


def test_the_line_that_waits_longest_is_next_and_goes_on_for_a_moment() -> None:
    old, young = Stretch(0, 10, 100), Stretch(200, 10, 100)
    # All of the older one up to the other's beginning, and those within a moment behind it.
    assert next(in_order([("young", young), ("old", old)])) == ("old", (200 + APART_MS) // 10 + 1)
    sums: Counter[str] = Counter()
    behind = {"old": old, "young": young}
    for key, count in in_order([("young", young), ("old", old)]):
        others = [line for name, line in behind.items() if name != key and line.tasks]
        last = behind[key].at + (count - 1) * behind[key].gap
        assert all(last <= line.at + APART_MS for line in others)
        sums[key] += count
        behind[key] = behind[key].after(count)
    assert sums == {"old": 100, "young": 100}


def test_lines_of_one_moment_go_as_they_are_named_and_empty_ones_are_left_out() -> None:
    lines = [("b", Stretch(5, 0, 3)), ("none", Stretch(0, 0, 0)), ("a", Stretch(5, 0, 4))]
    assert list(in_order(lines)) == [("b", 3), ("a", 4)]
    assert shorter([Stretch(0, 10, 5), Stretch(1_000, 0, 5)], 7) == (Stretch(1_000, 0, 3),)


def lines_of(**lines: Stretch) -> Waiting:
    critical, others = lines.get("critical"), lines.get("others")
    return Waiting(
        critical.tasks if critical else 0,
        others.tasks if others else 0,
        {},
        (critical,) if critical else (),
        (others,) if others else (),
    )


def test_of_two_partitions_the_one_that_waits_longer_is_next() -> None:
    waiting = {
        0: lines_of(critical=Stretch(9_000, 1, 50), others=Stretch(70_000, 100, 500)),
        1: lines_of(critical=Stretch(1_000, 1, 5), others=Stretch(10_000, 100, 500)),
    }
    parts = Shares(lambda _: 1.0).plan(20, waiting, 250)
    assert {p: (part.critical, part.others) for p, part in parts.items()} == {1: (5, 1), 0: (14, 0)}
    left = waiting[1].less(parts[1])
    assert left.critical == 0 and left.critical_lines == () and left.other_lines == (Stretch(10_100, 100, 499),)


def test_within_a_queue_the_lane_that_waits_longer_is_next() -> None:
    waiting = {
        p: Waiting(0, 100, {b"wa:f": 100}, (), (), {b"wa:f": Stretch(at, 10, 100)})
        for p, at in ((0, 5_000), (1, 4_000))
    }
    parts = Shares(lambda _: 2.0).plan(60, waiting, 250)
    assert {p: part.lanes for p, part in parts.items()} == {1: {b"wa:f": 60}}
    assert waiting[1].less(Part(others=60, lanes={b"wa:f": 60})).lane_lines == {b"wa:f": Stretch(4_600, 10, 40)}


@pytest.mark.parametrize("weighted", [False, True])
def test_a_plan_goes_through_no_more_than_it_takes(weighted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much waits. A plan is made in the loop that also fires: 100,000 tasks in four partitions took 0.8 s."""
    steps, after = 0, Stretch.after

    def counted(line: Stretch, taken: int) -> Stretch:
        nonlocal steps
        steps += 1
        return after(line, taken)

    monkeypatch.setattr(Stretch, "after", counted)
    lines = {p: Stretch(p, 10 * APART_MS, 1_000) for p in range(4)}
    waiting = {
        p: Waiting(1_000, 1_000, {b"wa:f": 1_000}, (line,), (), {b"wa:f": line})
        if weighted
        else Waiting(1_000, 1_000, {}, (line,), (line,))
        for p, line in lines.items()
    }
    parts = Shares(lambda _: 1.0).plan(100, waiting, 10)
    assert {p: part.total for p, part in parts.items()} == dict.fromkeys(range(4), 10)
    assert steps <= 40 + len(waiting)
