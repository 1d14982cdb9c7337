"""docs/bounds.md names every stored key, a test that exists for each bound, and constants that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/bounds.md").read_text()
_ROW = re.compile(r"^\| `([^`]+)`", re.MULTILINE)


def test_every_stored_key_has_a_row() -> None:
    storage = (ROOT / "docs/storage.md").read_text()
    keys = storage.partition("\n## Keys")[2].partition("\n## ")[0]
    stored, _, whole = keys.partition("**Fields of `clock`**")
    names = _ROW.findall(stored) + _ROW.findall(whole.partition("**Of the whole store**")[2])
    assert len(names) > 50
    listed = set(re.findall(r"`([^`]+)`", PAGE))
    assert not [name for name in names if name not in listed]


def test_each_row_names_tests_that_exist() -> None:
    """One at least, and nothing else, in its last column."""
    wrong: list[str] = []
    bodies: dict[Path, str] = {}
    for cells in [*_rows(), *_scripts()]:
        named = cells[-1].split(", ")
        for one in named:
            found = re.fullmatch(r"`((?:unit|integration|property|faults)/\w+\.py)::(test_\w+)`", one)
            file = ROOT / "tests" / (found[1] if found is not None else "none")
            if file not in bodies:
                bodies[file] = file.read_text() if file.exists() else ""
            if found is None or f"def {found[2]}(" not in bodies[file]:
                wrong.append(f"{cells[0]}: {one}")
    assert not wrong


def test_each_script_has_a_test() -> None:
    named = [name for cells in _scripts() for name in re.findall(r"`(\w+)`", cells[0])]
    there = [file.stem for file in (ROOT / "src/delaybox/store/scripts").glob("*.lua")]
    assert sorted(named) == sorted(there)


def test_the_constants_that_it_names_exist() -> None:
    named = re.findall(r"`(\w+)` in `([\w/]+\.(?:py|lua))`", PAGE)
    assert len(named) > 40
    assert not [
        f"{name} in {file}"
        for name, file in named
        if not re.search(rf"\b{name}\b", (ROOT / "src/delaybox" / file).read_text())
    ]


def test_each_row_has_all_columns() -> None:
    assert {len(cells) for cells in _rows()} == {7}
    assert all(cell for cells in _rows() for cell in cells)


def _rows() -> list[list[str]]:
    """The cells of each row of the tables that are written by hand."""
    found = [
        [cell.strip() for cell in line.strip().strip("|").split("|")]
        for line in PAGE.partition("<!-- generated")[0].splitlines()
        if line.startswith("|") and not line.startswith("| ---")
    ]
    rows = [cells for cells in found if cells[-1] != "test"]
    assert len(rows) > 120 and len(found) - len(rows) == 5
    return rows


def _scripts() -> list[list[str]]:
    """Scripts, and the tests that reach their bounds."""
    table = PAGE.partition("| scripts | test")[2].partition("\n\n")[0]
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in table.splitlines()[2:]]
