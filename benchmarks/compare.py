"""`python -m benchmarks.compare COMMIT`: this tree beside an earlier one, by turns on this machine.

Each round measures both trees, and the next one in the opposite order, so that what the machine does meanwhile meets
both alike. Each tree runs its own benchmarks, of which only those of DelayBox itself are taken, and only rows that both
have. Every process of a tree runs that tree's code, which is checked, but HTTP load comes from this tree's program in
both. A row is worse when the median over all rounds is; one in ms by more than a millisecond as well. Take it on a
machine that does nothing else.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
SCENARIOS = ("bulk", "post", "herd", "lateness", "workers", "kafka")
ROWS = (
    "schedule in bulk|POST one by one, 64 connections|herd, .*|p99 lateness at 1,000/s, .*|no-op tasks to workers|"
    "p99 lateness in the worker's function at 1,000/s|out, herd, .*"
)
SEED = 20_240_722
NO_DIFFERENCE_MS = 1.0
"""Percentiles of a few milliseconds that differ by no more pass for equal, whatever their ratio: another run of the
same tree differs by as much."""
LESS_IS_BETTER = ("ms", "µs", "s", "MB", "bytes")
# Runs at the start of each process: notes which file it would import as the package.
NOTE = """
import importlib.util, sys
found = importlib.util.find_spec("delaybox")
with open({log!r}, "a") as log:
    log.write(f"{{found and found.origin}} {{' '.join(sys.orig_argv[1:4])}}\\n")
"""

Rows = dict[tuple[str, str], float]
"""(what, unit) -> value."""


class Compared(NamedTuple):
    """One row: medians of each tree, and by which share the later is worse (negative: better)."""

    what: str
    unit: str
    before: float
    after: float
    worse: float
    rounds: int

    def is_worse(self, percent: float) -> bool:
        """Whether the later tree is worse by more than this."""
        equal = self.unit == "ms" and self.after - self.before <= NO_DIFFERENCE_MS
        return self.worse * 100 > percent and not equal


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    parser.add_argument("commit", help="the earlier tree; it is unpacked into a temporary folder")
    parser.add_argument("--rounds", type=int, default=5, help="of both trees (5)")
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--only", action="append", metavar="NAME", help=f"one scenario of {', '.join(SCENARIOS)}")
    parser.add_argument("--rows", default=ROWS, metavar="REGEX", help="rows to measure, by what they are called")
    parser.add_argument("--worse", type=float, default=5.0, metavar="PERCENT", help="fail where a row is worse by more")
    asked = parser.parse_args()
    scenarios = asked.only or list(SCENARIOS)
    found: tuple[list[Rows], list[Rows]] = ([], [])
    with tempfile.TemporaryDirectory(prefix="delaybox-before-") as folder:
        trees = (unpacked(asked.commit, Path(folder)), ROOT)
        for number in range(asked.rounds):
            for which in (0, 1) if number % 2 == 0 else (1, 0):
                started = time.monotonic()
                found[which].append(measured(trees[which], scenarios, asked.rows, quick=asked.quick))
                name = ("before", "after")[which]
                print(f"round {number + 1}, {name}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    rows = compared(*found)
    for row in rows:
        mark = "  WORSE" if row.is_worse(asked.worse) else ""
        print(
            f"{row.what:62} {row.before:12,.2f} -> {row.after:12,.2f} {row.unit:10} "
            f"{-row.worse:+7.1%} (of {row.rounds}){mark}"
        )
    return int(not rows or any(row.is_worse(asked.worse) for row in rows))


def unpacked(commit: str, folder: Path) -> Path:
    """The tree of a commit, in the folder."""
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, check=True, capture_output=True).stdout
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive, check=True)
    return folder


def measured(tree: Path, scenarios: Sequence[str], rows: str, *, quick: bool) -> Rows:
    """One round of a tree; raises where one of its processes runs code of another one."""
    asked = json.dumps({"tree": str(tree), "scenarios": scenarios, "rows": rows, "quick": quick})
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with tempfile.TemporaryDirectory(prefix="delaybox-python-") as folder:
        log = Path(folder, "processes")
        command = [interpreter(tree, Path(folder), log), "-P", __file__, "--one-round", asked]
        done = subprocess.run(command, cwd=tree, env=environment, check=True, stdout=subprocess.PIPE)
        started = log.read_text().splitlines()
    if others := [line for line in started if not line.startswith(f"{tree / 'src'}{os.sep}")]:
        raise RuntimeError(f"{len(others)} of {len(started)} processes run code that is not of {tree}: {others[0]}")
    print(f"  {len(started)} processes, all with code of {tree}", file=sys.stderr, flush=True)
    return {(what, unit): value for what, unit, value in json.loads(done.stdout)}


def interpreter(tree: Path, folder: Path, log: Path) -> str:
    """A Python to which the tree is installed, with the packages of this one. A search path in the environment would
    not do: benchmarks set one for some of their processes. Each process notes in the log what it runs."""
    venv.create(folder, symlinks=True)
    paths = sysconfig.get_paths("venv", vars={"base": str(folder), "platbase": str(folder)})
    own = Path(paths["purelib"])
    (own / "_whose_code.py").write_text(NOTE.format(log=str(log)))
    # Of a folder named here the .pth files don't count: none leads to the tree that this Python has installed.
    packages = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    (own / "tree.pth").write_text("\n".join([str(tree / "src"), str(tree), *packages, "import _whose_code", ""]))
    return str(Path(paths["scripts"]) / "python")


def compared(before: Sequence[Rows], after: Sequence[Rows]) -> list[Compared]:
    """The rows that were measured in both."""
    sides: list[dict[tuple[str, str], list[float]]] = []
    for rounds in (before, after):
        values: dict[tuple[str, str], list[float]] = defaultdict(list)
        for one in rounds:
            for row, value in one.items():
                values[row].append(value)
        sides.append(values)
    rows = []
    for (what, unit), olds in sides[0].items():
        if news := sides[1].get((what, unit)):
            old, new = median(olds), median(news)
            loss = new - old if unit in LESS_IS_BETTER else old - new
            worse = loss / old if old else math.copysign(math.inf, loss) if loss else 0.0
            rows.append(Compared(what, unit, old, new, worse, min(len(olds), len(news))))
    return rows


def one_round(tree: str, scenarios: Sequence[str], rows: str, *, quick: bool) -> list[tuple[str, str, float]]:
    """In a process of its own: (what, unit, value) of the tree's own rows. Its modules are those of the tree, but for
    the one that sends HTTP load: two programs would differ by more than the trees do."""
    import benchmarks.harness

    name, path = "benchmarks.harness.load", ROOT / "benchmarks" / "harness" / "load.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    benchmarks.harness.load = sys.modules[name] = importlib.util.module_from_spec(spec)  # type: ignore[attr-defined]
    spec.loader.exec_module(benchmarks.harness.load)

    from benchmarks.harness import bench as harness
    from benchmarks.harness.report import OURS
    from benchmarks.harness.server import default_binary
    from benchmarks.peers.bullmq import BullMQ
    from benchmarks.scenarios import ALL

    assert harness.__file__.startswith(tree), f"{harness.__file__} is not of {tree}"
    attempt, wanted = harness.Bench.attempt, re.compile(rows)

    def ours_alone(self: harness.Bench, what: str, subject: str, *more: object, **options: object) -> None:
        if subject == OURS and wanted.fullmatch(what):
            attempt(self, what, subject, *more, **options)  # type: ignore[arg-type]

    harness.Bench.attempt = ours_alone  # type: ignore[assignment, method-assign]
    bench = harness.Bench(quick, SEED, default_binary(), BullMQ())
    for scenario in ALL:
        if scenario.name in scenarios:
            scenario.run(bench)
    return [(row.what, row.unit, row.value) for row in bench.rows if row.value is not None and row.subject == OURS]


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one-round"]:
        print(json.dumps(one_round(**json.loads(sys.argv[2]))))
    else:
        sys.exit(main())
