"""`make test-faults`: every row of the fault suite at full size, one after the other, and a table of what came of it.

``python -m tests.faults.suite [ROW …] [--again] [--list] [--docs]``. A row that has passed on this commit with this
seed is not run again, so a run that was stopped goes on where it was. Exit code 1: a row failed.

What a row found is kept as ``build/faults/rows/<row>.json``, and what its runs wrote as ``build/faults/runs/<row>/``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

from tests.faults.harness.report import OUT_VARIABLE
from tests.faults.harness.scale import SEED
from tests.faults.rows import ROWS, Row

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "build" / "faults"
_TABLE = re.compile(r"(<!-- results of make test-faults -->\n).*?(\n<!-- end of results -->)", re.DOTALL)
_PAGE = ROOT / "docs" / "reliability.md"
_SUMS = ("acked", "lost", "early", "dup_sched", "double_completed", "orphans", "stale_acks", "dups", "explained")


class Result(NamedTuple):
    """What came of a row. ``outcome``: passed, failed or skipped. ``figures``: sums over the ``runs`` with records, and
    the longest time until something fired again. ``git``: the commit, with a plus sign where files differed from it;
    ``at``: when it ended, UTC."""

    row: str
    outcome: str
    tests: int
    skipped: list[str]
    failed: list[str]
    seconds: int
    runs: int
    figures: dict[str, float]
    faults: int
    git: str
    seed: int
    server: str
    python: str
    at: str


def commit() -> str:
    """The commit, with a plus sign where files differ from it."""
    head = subprocess.run(["git", "rev-parse", "--short=10", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    changed = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True)
    return (head.stdout.strip() or "no commit") + ("+" if changed.stdout.strip() else "")


def _file(row: str) -> Path:
    return RESULTS / "rows" / f"{row}.json"


def kept(row: str) -> Result | None:
    """The last result of a row."""
    try:
        return Result(**json.loads(_file(row).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def run(row: Row) -> Result:
    """Runs a row's tests at full size and keeps what came of it."""
    out = RESULTS / "runs" / row.name
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("*.json"):
        old.unlink()
    report = out / "tests.xml"
    report.unlink(missing_ok=True)
    began, git = time.monotonic(), commit()
    command = [sys.executable, "-m", "pytest", *row.tests, "-q", "-s", "-p", "no:cacheprovider", "--timeout", "0"]
    command += ["-o", "faulthandler_timeout=0"]  # a test of a row at full size may take longer than one of `make test`
    command += ["-n", str(row.together)] if row.together > 1 else []
    with (out / "log").open("wb") as log:
        code = subprocess.run(
            [*command, f"--junitxml={report}"],
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "DELAYBOX_FAULTS": "full", OUT_VARIABLE: str(out)},
        ).returncode
    tests, skipped, failed = _outcomes(report)
    records = [json.loads(path.read_text()) for path in sorted(out.glob("*.json"))]
    outcome = "failed" if code or failed else "passed" if tests > len(skipped) else "skipped"
    result = Result(
        row.name,
        outcome,
        tests,
        skipped,
        failed or ([f"pytest ended with {code}, see {out / 'log'}"] if code else []),
        round(time.monotonic() - began),
        len(records),
        _sums(records),
        sum(len(record["faults"]) for record in records),
        git,
        SEED,
        next((record["server"] for record in records), ""),
        platform.python_version(),
        datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
    )
    _file(row.name).parent.mkdir(parents=True, exist_ok=True)
    _file(row.name).write_text(json.dumps(result._asdict(), indent=1) + "\n")
    return result


def _outcomes(report: Path) -> tuple[int, list[str], list[str]]:
    """How many tests there were, why some were skipped, and which failed."""
    skipped: list[str] = []
    failed: list[str] = []
    count = 0
    if report.exists():
        for case in ElementTree.parse(report).iter("testcase"):
            count += 1
            name = case.get("name", "")
            if (found := case.find("skipped")) is not None:
                skipped.append(f"{name}: {found.get('message', '')}")
            elif case.find("failure") is not None or case.find("error") is not None:
                failed.append(name)
    return count, skipped, failed


def _sums(records: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Of the runs that must be whole; those of the controls are broken on purpose."""
    whole = [record["figures"] for record in records if not record["row"].startswith("control")]
    if not whole:
        return {}
    sums: dict[str, float] = {name: sum(figures.get(name, 0) for figures in whole) for name in _SUMS}
    return sums | {"recover_ms": max(figures.get("recover_ms", 0) for figures in whole)}


def table(results: Mapping[str, Result | None]) -> str:
    """Markdown: a line for each row, and below it what all of it was made with."""
    columns = ["row", "fault", "what is done", "result", "tasks", "faults", "lost", "early", "run again (explained)"]
    columns += ["fsck", "first fires after", "seconds"]
    lines = [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
    for row in ROWS:
        found = results.get(row.name)
        if not row.tests:
            cells = [f"not run: {row.cannot}", *[""] * 8]
        elif found is None:
            cells = ["not run yet", *[""] * 8]
        else:
            cells = [_word(row, found), *_figures(found), str(found.seconds)]
        lines.append(f"| {row.name} | {row.fault} | {row.done} | {' | '.join(cells)} |")
    return "\n".join(lines + _made_with([found for found in results.values() if found is not None]))


def _made_with(done: Sequence[Result]) -> list[str]:
    """Seed, versions, machine, and which commits of the tree when."""
    if not done:
        return []
    servers = ", ".join(sorted({found.server for found in done if found.server}))
    seeds = ", ".join(sorted({str(found.seed) for found in done}))
    pythons = ", ".join(sorted({found.python for found in done}))
    minutes = round(sum(found.seconds for found in done) / 60)
    rows_on: dict[str, list[Result]] = {}
    for found in done:
        rows_on.setdefault(found.git, []).append(found)
    by_count = sorted(rows_on.items(), key=lambda item: -len(item[1]))
    parts = [
        f"{'all rows' if len(by_count) == 1 else ', '.join(found.row for found in rows)} on commit {git} "
        f"({min(found.at for found in rows)} to {max(found.at for found in rows)} UTC)"
        for git, rows in by_count
    ]
    machine = f"Python {pythons}; {os.cpu_count()} cores; {minutes} minutes in all"
    return ["", f"Seed {seeds}; {servers or 'no server'}; {machine}. Run: {'; '.join(parts)}."]


def _word(row: Row, found: Result) -> str:
    ran = found.tests - len(found.skipped)
    if found.outcome == "failed":
        return f"**failed**: {', '.join(found.failed[:3])}"
    if found.outcome == "skipped":
        return f"not run: {found.skipped[0] if found.skipped else 'no test was found'}"
    words = f"{ran} of {ran} tests passed"
    if found.skipped:
        words += f", {len(found.skipped)} not run ({found.skipped[0]})"
    return words + (f"; {row.cannot}" if row.cannot else "")


def _figures(found: Result) -> list[str]:
    """Empty where the tests of a row judge themselves and leave no records."""
    f = found.figures
    if not f:
        return [""] * 7
    return [
        f"{f['acked']:,.0f}",
        f"{found.faults:,}",
        *(f"{f[n]:,.0f}" for n in ("lost", "early")),
        f"{f['dups']:,.0f} ({f['explained']:,.0f})",
        f"{f['orphans']:.0f}",
        f"{f['recover_ms'] / 1000:.1f} s" if found.faults else "",
    ]


def write_page(text: str) -> None:
    """Puts the table into docs/reliability.md."""
    _PAGE.write_text(_TABLE.sub(lambda found: found[1] + text + found[2], _PAGE.read_text()))


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.suite", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help="only these (T7, controls, …)")
    parser.add_argument("--again", action="store_true", help="run also what has passed on this commit with this seed")
    parser.add_argument("--list", action="store_true", help="show the table of the results that are there, run nothing")
    parser.add_argument("--docs", action="store_true", help="put the table into docs/reliability.md as well")
    asked = parser.parse_args(arguments)
    if unknown := set(asked.rows) - {row.name for row in ROWS}:
        parser.error(f"no row is called {', '.join(sorted(unknown))}; there are {', '.join(row.name for row in ROWS)}")
    failed = False
    for row in ROWS if not asked.list else ():
        if not row.tests or (asked.rows and row.name not in asked.rows):
            continue
        before = kept(row.name)
        passed = before is not None and (before.outcome, before.git, before.seed) == ("passed", commit(), SEED)
        if passed and not asked.again:
            print(f"{row.name}: passed on this commit before", flush=True)
            continue
        print(f"{row.name}: {row.fault} …", flush=True)
        found = run(row)
        failed |= found.outcome == "failed"
        print(f"{row.name}: {_word(row, found)} in {found.seconds} s", flush=True)
    text = table({row.name: kept(row.name) for row in ROWS})
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "table.md").write_text(text + "\n")
    print("\n" + text if asked.list else f"The table: {RESULTS / 'table.md'}")
    if asked.docs:
        write_page(text)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
