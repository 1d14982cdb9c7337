"""The example in another language: JavaScript schedules and works over gRPC, together with the Python client."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from delaybox import Client
from delaybox.client import TaskFailed
from tests.nodes import Node, node
from tests.waiting import PATIENCE_S

HERE = Path(__file__).parents[2] / "examples" / "node"
pytestmark = [
    pytest.mark.skipif(not (shutil.which("node") and shutil.which("npm")), reason="node or npm is not installed"),
    pytest.mark.timeout(300),
]


@pytest.fixture(scope="module")
def modules(pytestconfig: pytest.Config) -> Path:
    """What package.json pins, installed once into pytest's cache."""
    assert pytestconfig.cache is not None
    cache = pytestconfig.cache.mkdir("node-example")
    wanted, mark = (HERE / "package.json").read_text(), cache / "installed.json"
    if not mark.exists() or mark.read_text() != wanted:
        (cache / "package.json").write_text(wanted)
        command = ["npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts", "--omit=dev"]
        done = subprocess.run(command, cwd=cache, capture_output=True, text=True, timeout=240)
        if done.returncode:
            pytest.skip(f"npm cannot install what the example needs: {done.stderr.strip()[-300:]}")
        mark.write_text(wanted)
    return cache / "node_modules"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("node-example")
    with node("--http-port", "0", "--data-dir", str(folder / "data"), folder=folder) as started:
        yield started


@pytest.fixture
def environment(served: Node, modules: Path) -> dict[str, str]:
    return {**os.environ, "NODE_PATH": str(modules), "DELAYBOX_GRPC": f"127.0.0.1:{served.grpc_port}"}


def test_it_schedules_works_and_drains(served: Node, environment: dict[str, str]):
    worker = subprocess.Popen(["node", "worker.js"], cwd=HERE, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert worker.stdout is not None
        assert worker.stdout.readline().startswith("works for ")
        done = subprocess.run(
            ["node", "schedule.js", "Ada", "Grace"],
            cwd=HERE,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        lines = sorted(line.split(" ", 2)[1:] for line in done.stdout.splitlines())
        assert lines == [["TASK_STATE_SUCCEEDED", '"Hello, Ada!"'], ["TASK_STATE_SUCCEEDED", '"Hello, Grace!"']]

        with Client(f"127.0.0.1:{served.grpc_port}") as client:
            assert client.schedule("greet", {"name": "Python"}, keep_result="1m").result(PATIENCE_S) == "Hello, Python!"
            greetings = list(client.map("greet", [{"name": str(n)} for n in range(3)]))
            assert greetings == ["Hello, 0!", "Hello, 1!", "Hello, 2!"]
            # JSON null has no name to take: the function throws, and the reason arrives.
            failed = client.schedule("greet", [None], retry=0, keep_result="1m")
            with pytest.raises(TaskFailed):
                failed.result(PATIENCE_S)

        worker.send_signal(signal.SIGTERM)
        assert worker.wait(PATIENCE_S) == 0
    finally:
        worker.kill()
        worker.wait()
        if worker.stdout is not None:
            worker.stdout.close()
