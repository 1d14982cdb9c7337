"""What a node keeps outside its store."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from delaybox.processes import counters, grace
from delaybox.processes.spawn import KILL_AFTER_S
from delaybox.processes.spec import ProcessKind
from delaybox.worker import Worker
from delaybox.worker.timeouts import STOP_S


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


def test_a_folder_that_another_node_looks_at_is_waited_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A node that starts at the same moment locks it, to see whether it was left behind."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    waits, really = threading.Event(), fcntl.flock
    seen: list[int] = []

    def made(*, prefix: str) -> str:
        path = tmp_path / f"{prefix}new"
        path.mkdir()
        seen.append(os.open(path, os.O_RDONLY))
        really(seen[0], fcntl.LOCK_EX)
        return str(path)

    def flock(fd: int, how: int) -> None:
        try:
            really(fd, how | fcntl.LOCK_NB)
        except BlockingIOError:
            if how & fcntl.LOCK_NB:
                raise
            waits.set()
            really(fd, how)

    monkeypatch.setattr(tempfile, "mkdtemp", made)
    monkeypatch.setattr(fcntl, "flock", flock)
    folder = counters.folder()
    with ThreadPoolExecutor(1) as pool:
        opened = pool.submit(folder.__enter__)
        opened.add_done_callback(lambda _: waits.set())
        assert waits.wait(60) and not opened.done()
        os.close(seen[0])
        assert opened.result(60) == f"{tmp_path}/delaybox-metrics-new"
        folder.__exit__(None, None, None)
    assert not list(tmp_path.iterdir())


def test_nothing_that_a_node_starts_with_imports_the_counters() -> None:
    """Their library looks for their folder when it is imported: what the node counts would be seen by nobody."""
    code = "import sys; import delaybox.node; sys.exit('prometheus_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_node_and_a_worker_end_before_they_are_killed() -> None:
    """Docker kills after 10 s and Kubernetes after 30 s."""
    for kind in ProcessKind:
        late = 0 if kind in grace.CALLERS else grace.CALLERS_FIRST_S
        assert late + grace.grace_s(kind) + KILL_AFTER_S < grace.STOP_S <= 8
    assert Worker("w", servers=["localhost:1"]).grace_s + STOP_S <= 25
