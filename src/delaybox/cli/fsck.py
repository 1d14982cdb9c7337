"""`delaybox fsck`: the store's invariants, proven or not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from delaybox.cli.server import existing_store
from delaybox.core import texts
from delaybox.store.fsck import fsck

if TYPE_CHECKING:
    from delaybox.config import Config


async def check(config: Config, *, repair: bool, as_json: bool) -> int:
    """Print the report. Exit code 0 when clean, 1 with a problem; ConfigError where there is no store to check."""
    async with existing_store(config) as store:
        report = await fsck(store, repair=repair)
    if as_json:
        print(json.dumps({"problems": report.problems, "counts": report.counts}))  # noqa: T201
    else:
        _print(report.problems, report.counts)
    return 1 if report.problems else 0


def _print(problems: list[str], counts: dict[str, int]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    table = Table("what", "how many", box=None, pad_edge=False)
    table.columns[1].justify = "right"
    for name, number in counts.items():
        table.add_row(name, f"{number:,}")
    console.print(table)
    for problem in problems:
        console.print(f"problem: {texts.line(problem)}", style="red", markup=False, soft_wrap=True)
    console.print(f"{len(problems):,} problems" if problems else "clean: every invariant holds", style="bold")
