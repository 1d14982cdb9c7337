"""When most of all holders went away at once, and when it was chance or one task's work."""

from __future__ import annotations

from typing import Any

import pytest

from delaybox.core.fleet import holders, most_left

NOW, LEASE = 1_000_000, 15_000
ALIVE = (0, NOW - 500)


def gone(ms_ago: int) -> tuple[int, int]:
    return (0, NOW - ms_ago)


@pytest.mark.parametrize(
    ("lives", "failing"),
    [
        ([gone(16_000)] * 3, True),
        ([gone(16_000)] * 2, False),
        ([gone(16_000)] * 3 + [ALIVE] * 2, True),
        ([gone(16_000)] * 3 + [ALIVE] * 3, False),
        ([gone(20_000), gone(28_000), gone(34_900)], True),
        ([gone(10_000), gone(26_000), gone(42_000)], False),
        ([gone(16_000)] * 3 + [(NOW - 10_000, NOW)] * 9, True),
        ([gone(600_000)] * 3 + [ALIVE], False),
        ([ALIVE] * 9, False),
        ([], False),
    ],
    ids=[
        "all three", "two", "three of five", "half", "one after the other within a lease", "one a lease",
        "others took their place", "long ago", "all live", "nobody",
    ],
)  # fmt: skip
def test_most_left(lives: list[tuple[int, int]], failing: bool) -> None:
    assert most_left(lives, NOW, LEASE) is failing


def test_a_node_and_the_engine_beside_its_workers_are_one() -> None:
    beats: dict[str, dict[str, Any]] = {
        "a": {"started_ms": 5, "seen_ms": 90},
        "a.workers": {"started_ms": 7, "seen_ms": 80},
        "b": {"started_ms": 6, "seen_ms": 70},
        "strange": {"seen_ms": "?"},
    }
    assert sorted(holders(beats)) == [(5, 90), (6, 70)]
