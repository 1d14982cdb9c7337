"""`delaybox fsck`: the store's invariants, proven or not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from delaybox.cli.server import any_server
from delaybox.core import texts
from delaybox.core.errors import ConfigError
from delaybox.store import keys
from delaybox.store.fsck import fsck
from delaybox.store.store import Store

if TYPE_CHECKING:
    from delaybox.config import Config


async def check(config: Config, *, repair: bool, as_json: bool) -> int:
    """Print the report. Exit code 0 when clean, 1 with a problem; ConfigError where there is no store to check."""
    prefix = config.storage.prefix
    async with any_server(config) as client:
        # Opening would create it.
        if not await client.exists(keys.meta(prefix)):
            raise ConfigError(f"there is no store with storage.prefix {prefix!r} on this server; name the right one")
        store = await Store.open(client, prefix=prefix)
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
