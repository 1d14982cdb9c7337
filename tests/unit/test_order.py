"""The order of a parallel run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.order import SLOW_S, dealt

TESTS = Path(__file__).parents[1]
SLOW = sorted(SLOW_S, key=lambda name: -SLOW_S[name])


def test_what_is_named_exists() -> None:
    assert [name for name in SLOW_S if not (TESTS / name).is_file()] == []


@pytest.mark.parametrize("workers", [1, 2, 3, 8])
def test_each_share_begins_with_slow_files_and_nothing_is_left_out(workers: int) -> None:
    items = [("unit/test_a.py", n) for n in range(500)]
    items += [(name, 1_000 + 10 * at + n) for at, name in enumerate(SLOW) for n in range(3)]
    got = dealt(items, workers)
    assert sorted(got) == sorted(n for _, n in items)
    # xdist cuts it like this.
    start = 0
    for at in range(workers):
        assert got[start] in {1_000 + 10 * slow for slow in range(workers)}, "a share that begins with a quick file"
        start += (len(got) - start) // (workers - at)
    # The tests of a file stay together.
    for at in range(len(SLOW)):
        first = got.index(1_000 + 10 * at)
        assert got[first : first + 3] == [1_000 + 10 * at + n for n in range(3)]
