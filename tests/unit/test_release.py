"""What `make release` refuses, and what it writes of the changelog. `make check-install` looks at wheel and sdist."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from delaybox import __version__
from scripts import release
from scripts.check_install import Wrong

CHART = 'version: {0}\nappVersion: "{0}"\n'
LOG = """# Changelog

## [Unreleased]
{0}
## [0.2.0] - 2026-12-01

### Added
- A thing.

## [0.1.0] - 2026-11-28
Old.
"""


def tree(folder: Path, *, version: str = "0.2.0", chart: str = "0.2.0", log: str = LOG.format("")) -> Path:
    for name, text in (
        ("src/delaybox/__init__.py", f'"""x"""\n__version__ = "{version}"\n'),
        ("deploy/helm/delaybox/Chart.yaml", CHART.format(chart)),
        ("CHANGELOG.md", log),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_notes_are_what_the_changelog_says_of_the_version(tmp_path: Path) -> None:
    words = release.changes(tree(tmp_path))
    assert words.endswith("### Added\n- A thing.")
    assert "Old." not in words


def test_notes_name_each_file_and_lead_to_the_versions_own_documents() -> None:
    made = ["delaybox-0.2.0-py3-none-any.whl", "delaybox-0.2.0.tar.gz", "delaybox-0.2.0.cdx.json"]
    words = release.notes("0.2.0", "### Added\n- A [thing](docs/thing.md).", made)
    assert words.startswith("# DelayBox 0.2.0\n")
    assert "pip install './delaybox-0.2.0-py3-none-any.whl[all]'" in words and "sha256sum --check" in words
    assert "image.tar" not in words and "image.tar" in release.notes("0.2.0", "", [*made, "delaybox-0.2.0-image.tar"])
    assert words.endswith("- A [thing](https://github.com/delaybox/delaybox/blob/v0.2.0/docs/thing.md).\n")


def test_a_version_whose_tag_names_another_commit_is_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(release, "ROOT", tmp_path)
    # Under `git rebase --exec` or a hook these name the repository itself, which would get the commits and the tag.
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@localhost"]

    def run(*command: str) -> None:
        subprocess.run([*git, *command], cwd=tmp_path, check=True, capture_output=True)

    run("init")
    run("commit", "--allow-empty", "--message", "one")
    assert not release.tagged("0.2.0")
    run("tag", "--annotate", "v0.2.0", "--message", "x")
    assert release.tagged("0.2.0")
    run("commit", "--allow-empty", "--message", "two")
    with pytest.raises(Wrong, match=r"v0\.2\.0 names another commit"):
        release.tagged("0.2.0")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": "0.3.0", "chart": "0.3.0"}, "its newest version is 0.2.0, and the package is 0.3.0"),
        ({"chart": "0.1.9"}, "Chart.yaml: version is 0.1.9, and the package is 0.2.0"),
        ({"log": LOG.format("\n### Fixed\n- More.\n")}, "there are changes under [Unreleased], which would be in no"),
        ({"log": LOG.format("").replace(" - 2026-12-01", "")}, "the section of 0.2.0 has no date"),
        ({"log": LOG.format("").replace("### Added\n- A thing.\n", "")}, "the section of 0.2.0 is empty"),
        ({"log": "# Changelog\n"}, "its newest version is none"),
    ],
)
def test_a_release_is_refused_when_version_changelog_and_chart_differ(
    tmp_path: Path, changes: dict[str, str], words: str
) -> None:
    with pytest.raises(Wrong) as refused:
        release.changes(tree(tmp_path, **changes))
    assert words in str(refused.value)


def test_a_rehearsal_takes_changes_that_are_in_no_version_yet(tmp_path: Path) -> None:
    words = release.changes(tree(tmp_path, log=LOG.format("\n### Fixed\n- More.\n")), rehearsed=True)
    assert words.endswith("- A thing.") and "More." not in words


def test_this_tree_has_one_version() -> None:
    assert release.version_of(release.ROOT) == __version__
    assert release.chart_versions(release.ROOT) == {"version": __version__, "appVersion": __version__}


def test_checksums_are_those_that_sha256sum_reads(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"2")
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / release.SUMS).write_text("old")
    one, two = (hashlib.sha256(data).hexdigest() for data in (b"1", b"2"))
    assert release.sums(tmp_path) == f"{one}  a\n{two}  b\n"
