"""`delaybox import-legacy`: the Go original's pending tasks become DelayBox's."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from delaybox.cli import messages
from delaybox.cli.server import any_server
from delaybox.core.errors import DelayBoxError
from delaybox.service.import_original import Import, ImportProgress
from delaybox.store.address import ServerSettings
from delaybox.store.durability_check import check_durability
from delaybox.store.original import OriginalSet
from delaybox.store.servers import Servers
from delaybox.store.store import Store

if TYPE_CHECKING:
    from delaybox.config import Config


async def take_over(
    config: Config, *, source: str | None, key: str | None, dedupe: bool, dry_run: bool, as_json: bool
) -> int:
    """Imports, shows progress and the outcome. Exit code 1 when members were left where they are."""
    name = key or config.storage.scheduler_key_name
    async with any_server(config) as servers, _source(source, servers) as original:
        # The original's copy of a task is deleted when it is stored here, so it must be as safe by then as it is asked.
        durability = config.durability.rules()
        store = await Store.open(
            servers,
            prefix=config.storage.prefix,
            partitions=config.new_partitions,
            key_keep_ms=config.keys.keep,
            durability=durability,
        )
        if not dry_run:
            await check_durability(servers, store.tags, durability)
        work = Import(OriginalSet(original, name), store, fold=dedupe, dry=dry_run)
        try:
            with _bar(quiet=as_json) as report:
                await work.run(report)
        except DelayBoxError:
            messages.warning(
                f"stopped after {work.progress.seen:,} of {work.progress.total:,}; run the same command again to go on"
            )
            raise
    p = work.progress
    if as_json:
        print(json.dumps({"key": name, "dry_run": dry_run, **asdict(p)}))  # noqa: T201
    else:
        _print(p, name, dry_run=dry_run)
    return 1 if p.left else 0


@contextlib.asynccontextmanager
async def _source(url: str | None, same: Servers) -> AsyncIterator[Servers]:
    if url is None:
        yield same
        return
    # Not probed: it only has to hold a sorted set, and may be too old for a store.
    servers = Servers.connect(ServerSettings.from_url(url))
    try:
        yield servers
    finally:
        await servers.close()


@contextlib.contextmanager
def _bar(*, quiet: bool) -> Iterator[Callable[[ImportProgress], None]]:
    """A progress bar on a terminal's stderr; nothing elsewhere."""
    if quiet or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("import"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True)) as bar:
        line = bar.add_task("import", total=None)
        yield lambda p: bar.update(line, completed=p.seen, total=max(p.total, p.seen))


def _print(p: ImportProgress, key: str, *, dry_run: bool) -> None:
    if not p.seen:
        print(f"{key} holds no tasks; nothing to do")  # noqa: T201
        return
    words = [f"{p.created:,} {'would be ' if dry_run else ''}imported"]
    if p.known:
        words.append(f"{p.known:,} were stored by an earlier run")
    if p.folded:
        words.append(f"{p.folded:,} {'would be ' if dry_run else ''}folded as copies of others")
    if p.left:
        words.append(f"{p.left:,} {'would be ' if dry_run else ''}left in {key}")
    print(f"{p.seen:,} tasks in {key}: {', '.join(words)}")  # noqa: T201
    if p.shell:
        messages.note(f"{p.shell:,} of them are shell commands: they run only on a node started with --enable-shell")
    for reason in p.reasons:
        messages.warning(f"left: {reason}")
    if p.left > len(p.reasons):
        messages.warning(f"left: and {p.left - len(p.reasons):,} more")
