"""What a node keeps outside its store."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from delaybox import node
from delaybox.processes import counters
from delaybox.processes.spawn import KILL_AFTER_S
from delaybox.processes.spec import ProcessKind
from delaybox.worker import Worker
from delaybox.worker.coroutines import STOP_S


def test_folders_of_killed_nodes_are_removed_and_those_of_living_ones_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    long_ago = (1_000_000, 1_000_000)
    killed = tmp_path / "delaybox-metrics-killed"
    young = tmp_path / "delaybox-metrics-young"
    for folder in (killed, young):
        folder.mkdir()
    (killed / "counter_1.db").touch()
    os.utime(killed, long_ago)
    with counters.folder() as living:
        os.utime(living, long_ago)
        assert counters.environment(living)["PROMETHEUS_MULTIPROC_DIR"] == living
        with counters.folder() as mine:
            assert {str(path) for path in tmp_path.iterdir()} == {str(young), living, mine}
    assert list(tmp_path.iterdir()) == [young]
    assert "PROMETHEUS_MULTIPROC_DIR" not in os.environ


def test_nothing_that_a_node_starts_with_imports_the_counters() -> None:
    """Their library looks for their folder when it is imported: what the node counts would be seen by nobody."""
    code = "import sys; import delaybox.node; sys.exit('prometheus_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_node_and_a_worker_end_before_they_are_killed() -> None:
    """Docker kills after 10 s and Kubernetes after 30 s."""
    for kind in ProcessKind:
        late = 0 if kind in node._CALLERS else node._CALLERS_FIRST_S
        assert late + node._grace_s(kind) + KILL_AFTER_S < node.STOP_S <= 8
    assert Worker("w", servers=["localhost:1"]).grace_s + STOP_S <= 25
