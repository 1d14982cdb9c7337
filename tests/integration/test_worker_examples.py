"""The worker examples as a user runs them: a node, one or two workers, and their commands."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.nodes import Node, node
from tests.waiting import PATIENCE_S, until

EXAMPLES = Path(__file__).parents[2] / "examples"


class Place:
    """A folder with a node, and the examples run in it."""

    def __init__(self, folder: Path, served: Node) -> None:
        self.folder = folder
        self.node = served
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("DELAYBOX_", "APP_"))}
        self._environ = {
            **kept, "DELAYBOX_GRPC_SERVERS": f"127.0.0.1:{served.grpc_port}", "PYTHONUNBUFFERED": "1"
        }  # fmt: skip

    def run(self, script: str, *arguments: str) -> str:
        """What the command prints."""
        done = subprocess.run(
            [sys.executable, str(EXAMPLES / script), *arguments],
            capture_output=True, text=True, timeout=100, cwd=self.folder, env=self._environ, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @contextlib.contextmanager
    def workers(self, script: str, count: int = 1) -> Iterator[Path]:
        """``SCRIPT worker``, so many times; yields the file that what they print goes to. They end in order."""
        output = self.folder / "workers.out"
        with output.open("a") as out:
            started = [
                subprocess.Popen(
                    [sys.executable, str(EXAMPLES / script), "worker"],
                    stdout=out, stderr=subprocess.DEVNULL, cwd=self.folder, env=self._environ,
                )
                for _ in range(count)
            ]  # fmt: skip
        try:
            yield output
            for worker in started:
                worker.send_signal(signal.SIGTERM)
            assert [worker.wait(PATIENCE_S) for worker in started] == [0] * count
        finally:
            for worker in started:
                worker.kill()
                worker.wait()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with node("--http-port", "0", "--data-dir", str(tmp_path / "data"), folder=tmp_path) as served:
        yield Place(tmp_path, served)


def test_a_parameter_sweep_runs_on_several_processes(place: Place) -> None:
    with place.workers("parameter_sweep.py", count=2):
        output = place.run("parameter_sweep.py", "sweep", "--points", "144")
    found = re.search(
        r"^144 points in \S+ s on (\d+) processes\nbest: transmission 0\.\d+, recovery 0\.\d+, peak 0\.2", output
    )
    assert found, output
    assert int(found[1]) >= 2


def test_a_pipeline_gets_over_failures_and_rejects_what_cannot_be_mended(place: Place) -> None:
    with place.workers("data_pipeline.py"):
        assert place.run("data_pipeline.py", "start", "2026-11-01", "2026-11-02", "2026-11-13").count("started") == 3
        assert "was started before" in place.run("data_pipeline.py", "start", "2026-11-01")
        until(
            lambda: place.run("data_pipeline.py", "report") == "2026-11-01 21.0\n2026-11-02 22.0\n",
            lambda: place.run("data_pipeline.py", "report"),
        )

        def dead() -> list[dict[str, str]]:
            found: list[dict[str, str]] = place.node.call("GET", "/v1/dead")[2]["tasks"]
            return found

        until(lambda: len(dead()) == 1, lambda: str(dead()))
        assert "2026-11-13 cannot be cleaned: could not convert string to float: 'oops'" in str(dead())


def test_windows_close_on_time(place: Place) -> None:
    with place.workers("sliding_window.py") as output:
        windows = 0

        def closed() -> list[tuple[str, str, str]]:
            return re.findall(r"window (\d+): (\d+) events, closed (-?\d+) ms late", output.read_text())

        # On a machine that stands still for a moment an event may be noted later than its windows wait for it.
        for _ in range(3):
            before = closed()
            sent = place.run("sliding_window.py", "send", "--events", "60", "--over", "2")
            windows += int(re.search(r"60 events sent, in (\d+) windows", sent)[1])  # type: ignore[index]
            until(lambda: len(closed()) >= windows, output.read_text)  # noqa: B023 - waited for at once
            counted = sum(int(count) for _, count, _ in closed()[len(before) :])
            if counted == 120:
                break
    # Each event lies in two windows; none is closed before its end.
    assert counted == 120
    assert len({start for start, _, _ in closed()}) == windows
    assert all(int(late) >= 0 for _, _, late in closed())


@pytest.mark.parametrize(
    ("page", "written", "way"),
    [
        ("README.md", "redis://localhost:6379", "redis"),
        ("docs/python.md", "localhost:9088", "grpc"),
        pytest.param("README.md", "redis://localhost:6379", "grpc", id="or-over-a-node"),
    ],
)
def test_a_worker_pasted_from_the_documents_works(place: Place, page: str, written: str, way: str) -> None:
    text = (EXAMPLES.parent / page).read_text()
    here = place.node.address(way)
    for mark, name in (("app.py", "app.py"), ("with app.py", "caller.py")):
        block = re.search(rf"^<!-- {re.escape(mark)} -->\n```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        assert block, f"{page} has no block {mark}"
        assert written in block[1]
        (place.folder / name).write_text(block[1].replace(written, here))
    command = [sys.executable, "-m", "delaybox", "worker", "app:worker", "--processes", "2"]
    worker = subprocess.Popen(command, cwd=place.folder, stderr=subprocess.DEVNULL)
    try:
        done = subprocess.run(
            [sys.executable, "caller.py"], cwd=place.folder, capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.returncode, done.stdout) == (0, "Ann: order 17 waits for you\n"), done.stderr
    finally:
        worker.terminate()
        assert worker.wait(PATIENCE_S) == 0
