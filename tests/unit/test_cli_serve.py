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


def test_the_configuration_file_is_named(run: Command, tmp_path: Path) -> None:
    assert "configuration file" not in run("serve").err
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "config.yaml").write_text("partitions: 8\n")
    assert "configuration file: config/config.yaml" in run("serve").err


def test_the_nodes_of_clients_are_no_unknown_key(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DELAYBOX_GRPC_SERVERS", "a:1,b:2")
    assert "unknown" not in run("serve").err
