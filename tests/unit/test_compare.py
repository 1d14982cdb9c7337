"""`benchmarks.compare`: whose code the processes of a tree run, and what it calls worse."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path

import pytest

compare = importlib.import_module("benchmarks.compare")
OF_THE_TREE = {
    "src/delaybox/__init__.py": "",
    "benchmarks/__init__.py": "",
    "benchmarks/workload.py": "DAY_MS = HOUR_MS = PAYLOAD_BYTES = now_ms = 0",
    "benchmarks/harness/__init__.py": "",
    "benchmarks/harness/load.py": "",
    "benchmarks/harness/report.py": "OURS = 'delaybox'",
    "benchmarks/harness/server.py": "default_binary = object",
    "benchmarks/peers/__init__.py": "",
    "benchmarks/peers/bullmq.py": "BullMQ = object",
    "benchmarks/harness/bench.py": """
from types import SimpleNamespace

class Bench:
    def __init__(self, *_):
        self.rows = []

    def attempt(self, what, subject, value):
        self.rows.append(SimpleNamespace(what=what, unit="", value=value, subject=subject))
""",
    # A worker's process gets a search path that leads to the tree's benchmarks alone, as it did in each tree so far.
    "benchmarks/scenarios/__init__.py": """
import os, subprocess, sys
from types import SimpleNamespace
from benchmarks.harness import load
from benchmarks.harness.process import ROOT

def run(bench):
    environment = {**os.environ, "PYTHONPATH": os.environ.get("SEARCH", str(ROOT))}
    command = [sys.executable, "-c", "import delaybox; print(delaybox.__file__)"]
    found = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    bench.attempt("worker", "delaybox", found.strip())
    bench.attempt("load", "delaybox", load.__file__)

ALL = [SimpleNamespace(name="workers", run=run)]
""",
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name, text in OF_THE_TREE.items():
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    shutil.copy(compare.ROOT / "benchmarks/harness/process.py", tmp_path / "tree/benchmarks/harness/process.py")
    return tmp_path / "tree"


def test_every_process_runs_the_trees_own_code_and_load_comes_from_one_program(tree: Path) -> None:
    rows = compare.measured(tree, ["workers"], ".*", quick=True)
    assert rows == {
        ("worker", ""): str(tree / "src/delaybox/__init__.py"),
        ("load", ""): str(compare.ROOT / "benchmarks/harness/load.py"),
    }


def test_a_process_with_another_trees_code_is_an_error(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other" / "delaybox"
    other.mkdir(parents=True)
    (other / "__init__.py").touch()
    monkeypatch.setenv("SEARCH", str(other.parent))
    with pytest.raises(RuntimeError, match=r"1 of 2 processes run code that is not of .*other.delaybox"):
        compare.measured(tree, ["workers"], ".*", quick=True)


@pytest.mark.parametrize(
    ("unit", "before", "after", "worse"),
    [
        ("tasks/s", 1_000.0, 951.0, False),
        ("tasks/s", 1_000.0, 949.0, True),
        ("tasks/s", 1_000.0, 1_500.0, False),
        ("tasks/s", 2.0, 1.5, True),
        ("ms", 1.4, 2.3, False),
        ("ms", 1.4, 2.5, True),
        ("ms", 40.0, 41.9, False),
        ("ms", 40.0, 42.1, True),
        ("s", 1.0, 1.1, True),
    ],
)
def test_percentiles_within_a_millisecond_pass_for_equal(unit: str, before: float, after: float, worse: bool) -> None:
    (row,) = compare.compared([{("what", unit): before}], [{("what", unit): after}])
    assert row.is_worse(5.0) is worse
