"""What `delaybox serve` says before the node runs."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

import delaybox.node
from delaybox.config import Config
from delaybox.config.model import ProcessesSection
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


def test_processes_is_a_number_or_auto(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[ProcessesSection] = []

    def keep(config: Config) -> int:
        seen.append(config.processes)
        return 0

    monkeypatch.setattr(delaybox.node, "run", keep)
    run("serve", "--processes", "3")
    run("serve", "--processes", "auto", "--set", "processes.most=4")
    assert (seen[0].clock, seen[0].grpc, seen[0].rest, seen[0].work, seen[0].auto) == (3, 3, 3, 1, False)
    assert (seen[1].clock, seen[1].rest, seen[1].auto, seen[1].most) == (1, 1, True, 4)
    for wrong in ("0", "65", "many", "-1"):
        refused = run("serve", f"--processes={wrong}")
        assert refused.code != 0 and f"--processes {wrong}: write a number from 1 to 64, or auto" in refused.err
    assert len(seen) == 2
