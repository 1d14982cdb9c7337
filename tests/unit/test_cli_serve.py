"""What `delaybox serve` says before the node runs."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

import delaybox.node
from tests.command import Command


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """The command, with a node that ends at once."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(delaybox.node, "run", lambda config: 0)
    return Command(monkeypatch, capsys)


def test_elsewhere_than_on_linux_it_says_what_is_missing(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Linux" not in run("serve").err
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    assert "tested on Linux only, and this is Darwin. Shell commands do not run here" in run("serve").err
