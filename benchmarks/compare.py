"""`python -m benchmarks.compare COMMIT`: this tree beside an earlier one, by turns on this machine.

Each round measures both trees, and the next one in the opposite order, so that what the machine does meanwhile meets
both alike. Each tree runs its own benchmarks, of which only those of DelayBox itself are taken, and only rows that both
have. A row is worse when the median over all rounds is. Take it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
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
LESS_IS_BETTER = ("ms", "µs", "s", "MB", "bytes")

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
        mark = "  WORSE" if row.worse * 100 > asked.worse else ""
        print(
            f"{row.what:62} {row.before:12,.2f} -> {row.after:12,.2f} {row.unit:10} "
            f"{-row.worse:+7.1%} (of {row.rounds}){mark}"
        )
    return int(not rows or any(row.worse * 100 > asked.worse for row in rows))


def unpacked(commit: str, folder: Path) -> Path:
    """The tree of a commit, in the folder."""
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, check=True, capture_output=True).stdout
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive, check=True)
    return folder


def measured(tree: Path, scenarios: Sequence[str], rows: str, *, quick: bool) -> Rows:
    """One round of a tree, in processes that see nothing of the other."""
    asked = json.dumps({"tree": str(tree), "scenarios": scenarios, "rows": rows, "quick": quick})
    environment = {**os.environ, "PYTHONPATH": f"{tree / 'src'}{os.pathsep}{tree}"}
    command = [sys.executable, "-P", __file__, "--one-round", asked]
    done = subprocess.run(command, cwd=tree, env=environment, check=True, stdout=subprocess.PIPE)
    return {(what, unit): value for what, unit, value in json.loads(done.stdout)}


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
    """In a process of its own: (what, unit, value) of the tree's own rows. Its modules are those of the tree."""
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
