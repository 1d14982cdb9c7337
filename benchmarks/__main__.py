"""`python -m benchmarks`: run the scenarios, print a table, keep JSON and Markdown under benchmarks/results/."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.harness import machine, report
from benchmarks.harness.bench import Bench
from benchmarks.harness.server import default_binary
from benchmarks.peers import asynq, python
from benchmarks.peers.bullmq import BullMQ
from benchmarks.scenarios import ALL, bulk, workers

RESULTS = Path(__file__).resolve().parent / "results"
SEED = 20_240_722


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, under two minutes; says nothing of 10 M")
    parser.add_argument("--only", action="append", metavar="NAME", help="one scenario (may be given more than once)")
    parser.add_argument("--list", action="store_true", help="name the scenarios and stop")
    parser.add_argument("--seed", type=int, default=SEED, help="payloads and due times are drawn from it")
    parser.add_argument("--no-save", action="store_true", help="print only, keep no file")
    return parser.parse_args()


def main() -> int:
    asked = arguments()
    if asked.list:
        for scenario in ALL:
            print(f"{scenario.name:16} {scenario.about}")
        return 0
    names = [scenario.name for scenario in ALL]
    unknown = set(asked.only or ()) - set(names)
    if unknown:
        print(f"no scenario named {', '.join(sorted(unknown))}; there are: {', '.join(names)}", file=sys.stderr)
        return 2
    chosen = [scenario for scenario in ALL if not asked.only or scenario.name in asked.only]
    binary, peer = default_binary(), BullMQ()
    about = machine.about(seed=asked.seed, quick=asked.quick, server=binary.label)
    about["peers"] = {"bullmq": peer.version}
    if {workers.SCENARIO, bulk.SCENARIO} & set(chosen):
        about["peers"]["asynq"] = asynq.version()
    if workers.SCENARIO in chosen:
        about["peers"] |= python.versions()
    peers = ", ".join(f"{name} {version}" for name, version in about["peers"].items())
    print(f"server {binary.label}, {peers}, commit {about['commit']}, seed {asked.seed}", file=sys.stderr)
    rows: list[report.Row] = []
    started = time.monotonic()
    for scenario in chosen:
        print(f"{scenario.name}: {scenario.about}", file=sys.stderr, flush=True)
        bench = Bench(asked.quick, asked.seed, binary, peer)
        try:
            scenario.run(bench)
        except KeyboardInterrupt:
            print("stopped; what was measured follows", file=sys.stderr)
            rows += report.judge(bench.rows, scenario.name)
            break
        rows += report.judge(bench.rows, scenario.name)
    about["seconds"] = round(time.monotonic() - started)
    if asked.only:
        about["only"] = ", ".join(asked.only)
    show(rows)
    if not asked.no_save:
        for path in report.write(rows, about, RESULTS):
            print(f"kept {path.relative_to(RESULTS.parents[1])}", file=sys.stderr)
    return 0


def show(rows: list[report.Row]) -> None:
    """The table. Not cut to the width of a pipe: a log keeps every column."""
    console = Console() if sys.stdout.isatty() else Console(width=220)
    table = Table(title="DelayBox beside its floor and its peers", show_lines=False)
    for name in report.COLUMNS:
        table.add_column(name, overflow="fold", justify="right" if name == "value" else "left")
    for row in rows:
        missed = False in row.verdicts
        style = "bold" if row.subject == report.OURS else "dim"
        table.add_row(*report.cells(row), style="red" if missed else style)
    console.print(table)
    held = [verdict for row in rows for verdict in row.verdicts]
    console.print(f"targets met {held.count(True)}, missed {held.count(False)}, not measured {held.count(None)}")


if __name__ == "__main__":
    sys.exit(main())
