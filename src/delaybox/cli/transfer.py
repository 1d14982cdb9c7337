"""`delaybox export` and `delaybox import`: a store as a file, and back."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from delaybox.cli import messages
from delaybox.cli.server import any_server, existing_store
from delaybox.core import ids
from delaybox.core.errors import ConfigError, DelayBoxError
from delaybox.service.export_store import Export, Unfinished, look
from delaybox.service.import_store import ImportStore, StoreImportProgress
from delaybox.store.durability_check import check_durability
from delaybox.store.store import Store
from delaybox.wire.exported import LONGEST, read_header

if TYPE_CHECKING:
    from delaybox.config import Config

_PIPE = "-"


async def write(config: Config, file: str, *, resume: bool, as_json: bool) -> int:
    """Exports the store into a file, or to stdout. Exit code 1 when records were passed over."""
    async with existing_store(config) as store:
        with _to(file, resume=resume) as (out, found):
            if found.whole:
                raise ConfigError(f"{file} holds a whole export already; name another file for a new one")
            work = Export(store, out, found=found)
            try:
                with _bar("export", quiet=as_json or file == _PIPE) as report:
                    done = await work.run(lambda p: report(p.seen, max(p.total, p.seen)))
            except (DelayBoxError, OSError):
                if file != _PIPE:
                    messages.warning(f"stopped after {work.progress.seen:,} tasks; --resume goes on")
                raise
            if file != _PIPE:
                os.fsync(out.fileno())
    if as_json and file != _PIPE:
        messages.out_json({"file": file, **asdict(done)})
    else:
        messages.note(
            f"tasks that wait or run: {done.tasks:,}, dead letters: {done.dead:,}, keys of tasks that have ended: "
            f"{done.keys:,}, queues with rules: {done.queues:,}"
        )
    for count, what in (
        (done.newer, "written by a newer version: export with that one"),
        (done.bad, "cannot be read: the scrubber moves them to quarantine"),
        (done.quarantined, "in quarantine: `delaybox quarantine` shows them"),
    ):
        if count:
            messages.warning(f"passed over: {count:,} {what}")
    return 1 if done.newer or done.bad or done.quarantined else 0


@contextlib.contextmanager
def _to(file: str, *, resume: bool) -> Iterator[tuple[BinaryIO, Unfinished]]:
    if file == _PIPE:
        if resume:
            raise ConfigError("--resume needs a file to go on with; name one in place of -")
        yield sys.stdout.buffer, Unfinished()
        sys.stdout.buffer.flush()
        return
    path = Path(file)
    try:
        if not resume:
            # Payloads are for whoever may read the store.
            path.touch(0o600, exist_ok=False)
        out = path.open("r+b")
    except FileExistsError:
        raise ConfigError(f"{file} is there already; --resume goes on with it, or name another file") from None
    except OSError as error:
        if resume and isinstance(error, FileNotFoundError):
            raise ConfigError(f"{file} is not there, so there is nothing to go on with; leave --resume out") from None
        raise _cannot(file, error) from None
    with out:
        found = look(out, file) if resume else Unfinished()
        out.truncate(found.size)
        out.seek(found.size)
        yield out, found


def _cannot(file: str | Path, error: OSError) -> ConfigError:
    return ConfigError(f"{file}: {error.strerror}; name a file, in a folder that is there")


async def read(
    config: Config, file: str, *, skip_past: bool, skip_damaged: bool, ids_file: Path | None, as_json: bool
) -> int:
    """Imports a file, or stdin. Exit code 1 when something of it was not stored."""
    durability = config.durability.rules()
    async with any_server(config) as servers:
        with _from(file) as source, _written(ids_file) as note:
            # A file that is none must not make a store.
            header = read_header(source.readline(LONGEST), file)
            store = await Store.open(
                servers,
                prefix=config.storage.prefix,
                partitions=config.new_partitions,
                key_keep_ms=config.keys.keep,
                durability=durability,
            )
            await check_durability(servers, store.tags, durability)
            work = ImportStore(
                store, source, file, header, skip_past=skip_past, skip_damaged=skip_damaged, renamed=note
            )
            try:
                with _bar("import", quiet=as_json) as report:
                    p = await work.run(lambda p: report(p.seen, None))
            except (DelayBoxError, OSError):
                messages.warning(f"stopped at line {work.progress.lines:,}; the same command goes on")
                raise
    if as_json:
        messages.out_json({"file": file, **asdict(p)})
    else:
        _print(p, file)
    if not p.whole:
        messages.warning(f"{file} has no last line: the export was not finished, so tasks may be missing in it")
    return 1 if p.taken or p.bad or p.damaged or not p.whole else 0


@contextlib.contextmanager
def _from(file: str) -> Iterator[BinaryIO]:
    if file == _PIPE:
        yield sys.stdin.buffer
        return
    try:
        source = Path(file).open("rb")  # noqa: SIM115 - only the errors of opening are told here
    except FileNotFoundError:
        raise ConfigError(f"{file} is not there; name a file that `delaybox export` wrote") from None
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}; name a file that `delaybox export` wrote") from None
    with source:
        yield source


@contextlib.contextmanager
def _written(file: Path | None) -> Iterator[Callable[[bytes, bytes], None]]:
    """What is called with the old and the new id of a task, to write both into a file."""
    if file is None:
        yield lambda *_: None
        return
    try:
        out = file.open("a", encoding="ascii")
    except OSError as error:
        raise _cannot(file, error) from None
    with out:
        yield lambda old, new: print(ids.render(old), ids.render(new), file=out)


@contextlib.contextmanager
def _bar(what: str, *, quiet: bool) -> Iterator[Callable[[int, int | None], None]]:
    """A progress bar on a terminal's stderr; nothing elsewhere."""
    if quiet or not sys.stderr.isatty():
        yield lambda *_: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        line = bar.add_task(what, total=None)
        yield lambda seen, total: bar.update(line, completed=seen, total=total)


def _print(p: StoreImportProgress, file: str) -> None:
    words = [f"{p.stored:,} stored"]
    for count, what in (
        (p.known, "were here already, or stored by an earlier run"),
        (p.ended, "have ended here, by their keys"),
        (p.past, "left out, because their time is over"),
        (p.taken, "not stored: their keys belong to other tasks here"),
        (p.bad, "not stored: they cannot be read"),
    ):
        if count:
            words.append(f"{count:,} {what}")
    messages.out(f"{p.seen:,} tasks in {file}: {', '.join(words)}")
    if p.overdue:
        messages.note(f"due already: {p.overdue:,}, which go out now, at catchUp.rate")
    if p.renamed:
        messages.note(f"{p.renamed:,} have another id here, because the store has another number of partitions (--ids)")
    if p.queues:
        messages.note(f"queues whose rules were stored: {p.queues:,}; queues that had rules here keep theirs")
    for reason in p.reasons:
        messages.warning(reason)
