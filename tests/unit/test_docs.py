"""Every link in the documents leads somewhere, and every document can be reached from the README."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
_HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)


def _prose(page: Path) -> str:
    return _FENCE.sub("", page.read_text())


def _links(page: Path) -> Iterator[tuple[Path, str]]:
    for target in _LINK.findall(_prose(page)):
        if not re.match(r"[a-z]+:", target):
            path, _, anchor = target.partition("#")
            yield (page.parent / path).resolve() if path else page, anchor


def _anchors(page: Path) -> set[str]:
    """As the usual hosts make them of headings."""
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in _HEADING.findall(_prose(page)))
    return {heading.replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve(page: Path) -> None:
    for target, anchor in _links(page):
        assert target.exists(), target
        assert not anchor or anchor in _anchors(target), f"{target.name}#{anchor}"


def test_every_page_is_linked_from_the_readme_or_a_page_that_is() -> None:
    seen: set[Path] = set()
    coming = [ROOT / "README.md"]
    while coming:
        page = coming.pop()
        if page not in seen:
            seen.add(page)
            coming += [target for target, _ in _links(page) if target.suffix == ".md"]
    unreached = {page for page in PAGES if page not in seen} - {ROOT / "SECURITY.md"}
    assert not unreached


def test_every_page_stands_in_the_menu_of_the_site() -> None:
    """`make site` refuses otherwise, and needs packages that are not everywhere."""
    menu = set(re.findall(r'"([\w/-]+\.md)"', (ROOT / "scripts/site.py").read_text()))
    pages = {str(page.relative_to(ROOT / "docs")) for page in PAGES if ROOT / "docs" in page.parents}
    assert not {page for page in pages if not page.startswith("adr/")} - menu
