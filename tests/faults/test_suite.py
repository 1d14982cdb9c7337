"""The rows of `make test-faults`: all faults have one, all tests of faults are in one, and what they name is there."""

from __future__ import annotations

from pathlib import Path

from tests.faults.rows import ROWS
from tests.faults.suite import Result, table

_ROOT = Path(__file__).parents[2]


def test_every_fault_has_a_row_and_every_test_is_in_one() -> None:
    named = {name for row in ROWS for name in row.name.split("-")}
    assert {f"T{n}" for n in range(1, 35)} <= named
    assert all((row.done and row.tests) or row.cannot for row in ROWS)
    in_rows = {test.partition("::")[0] for row in ROWS for test in row.tests}
    assert {f"tests/faults/{file.name}" for file in Path(__file__).parent.glob("test_*.py")} <= in_rows


def test_what_rows_name_is_there() -> None:
    for row in ROWS:
        for test in row.tests:
            file, _, function = test.partition("::")
            assert f"def {function}" in (_ROOT / file).read_text(), test


def test_the_table_shows_what_passed_failed_and_was_not_run() -> None:
    zero = dict.fromkeys(("acked", "lost", "early", "dups", "explained", "orphans", "recover_ms"), 0.0)
    figures = zero | {"acked": 1_000.0, "recover_ms": 1_620.0}
    same = (90, 3, figures, 12, "abc", 417, "valkey 9", "3.11", "2026-11-28 17:00")
    text = table(
        {
            "T6": Result("T6", "passed", 2, [], [], *same),
            "T8": Result("T8", "failed", 2, [], ["test_x"], *same),
            "T25": Result("T25", "skipped", 1, ["test_y: no broker"], [], *same),
        }
    )
    lines = {line.split(" | ")[0].removeprefix("| "): line for line in text.splitlines()}
    assert lines["T6"].endswith("| 2 of 2 tests passed | 1,000 | 12 | 0 | 0 | 0 (0) | 0 | 1.6 s | 90 |")
    assert "**failed**: test_x" in lines["T8"]
    assert "not run: test_y: no broker" in lines["T25"]
    assert "not run yet" in lines["T30"]
    assert "not run yet" in lines["T1"]
    assert "Seed 417; valkey 9; Python 3.11" in text
    assert "all rows on commit abc (2026-11-28 17:00 to 2026-11-28 17:00 UTC)" in text
