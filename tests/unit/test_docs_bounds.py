"""docs/bounds.md names every stored key, tests that exist, and constants that exist."""

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


def test_the_tests_that_it_names_exist() -> None:
    named = re.findall(r"`((?:unit|integration|faults)/\w+\.py)::(\w+)`", PAGE)
    assert len(named) > 40
    assert not [f"{file}::{name}" for file, name in named if f"def {name}(" not in (ROOT / "tests" / file).read_text()]


def test_the_constants_that_it_names_exist() -> None:
    named = re.findall(r"`(\w+)` in `([\w/]+\.(?:py|lua))`", PAGE)
    assert len(named) > 40
    assert not [
        f"{name} in {file}"
        for name, file in named
        if not re.search(rf"\b{name}\b", (ROOT / "src/delaybox" / file).read_text())
    ]


def test_each_row_has_all_columns() -> None:
    for line in PAGE.partition("<!-- generated")[0].splitlines():
        if line.startswith("|"):
            assert line.count("|") == 8, line
