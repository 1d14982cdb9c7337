"""The pages for engineers: the paths that they name exist; keys and cited rule numbers stand in storage.md."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "delaybox"
PAGES = [page for page in (ROOT / "docs" / "storage.md", ROOT / "docs" / "architecture.md") if page.exists()]
_BASES = (ROOT, PACKAGE, PACKAGE / "store", PACKAGE / "store" / "scripts")
STORAGE = (ROOT / "docs" / "storage.md").read_text()
_PATH = re.compile(r"`((?:[\w.*-]+/)+[\w.*-]*|[\w*-]+\.(?:py|lua|md|proto|toml))`")
_RULE = re.compile(r"\b[Rr]ules? (\d+)(?:,? (?:to|and|or) (\d+))?")
_INVARIANT = re.compile(r"\bI(\d{1,2})\b")


def _cited(folders: tuple[str, ...], pattern: re.Pattern[str], endings: tuple[str, ...]) -> Iterator[tuple[Path, int]]:
    for folder in folders:
        for file in (ROOT / folder).rglob("*"):
            if file.suffix in endings and "gen" not in file.parts:
                for match in pattern.finditer(file.read_text()):
                    yield from ((file.relative_to(ROOT), int(number)) for number in match.groups() if number)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_exist(page: Path) -> None:
    missing = [path for path in _PATH.findall(page.read_text()) if not any(any(base.glob(path)) for base in _BASES)]
    assert not missing


def test_every_cited_rule_stands_in_storage() -> None:
    rules = {int(n) for n in re.findall(r"^(\d+)\. ", STORAGE.split("## Rules")[1], re.MULTILINE)}
    cited = list(_cited(("src", "docs", "tests", "benchmarks"), _RULE, (".py", ".lua", ".md")))
    assert cited
    assert not [(str(file), number) for file, number in cited if number not in rules]


def test_every_cited_invariant_stands_in_storage() -> None:
    known = {int(number) for number in re.findall(r"^\| I(\d+) \|", STORAGE, re.MULTILINE)}
    cited = list(_cited(("tests/faults",), _INVARIANT, (".py",)))
    assert cited
    assert not [(str(file), number) for file, number in cited if number not in known]


def test_every_key_stands_in_storage() -> None:
    spelled = [(PACKAGE / "store" / file).read_text() for file in ("keys.py", "scripts/lib/keys.lua")]
    names = set(re.findall(r"\{(?:tag_|prefix)\}:([a-z]+(?::[a-z]+)*)", spelled[0])) | set(
        re.findall(r"':([a-z]+)", spelled[1])
    )
    assert len(names) > 20
    assert not [name for name in names if not re.search(rf"[`:]{name}\b", STORAGE)]
