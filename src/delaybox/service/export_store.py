"""Writes a live store to a file, line by line, beside nodes that go on working: as a backup, to move it to another
server or a cluster, or to give it another number of partitions."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass, field
from typing import BinaryIO

from delaybox import __version__
from delaybox.core import ids
from delaybox.core.errors import ConfigError
from delaybox.store import rules, transfer
from delaybox.store.store import Store
from delaybox.store.transfer import Passed, StoredTask
from delaybox.wire.exported import FORMAT, LONGEST, Damaged, ExportedLine, Header, encode, read_header, read_line

PARTITION_DONE = -1
_SOON_MS = 300_000
"""Tasks due within this time may be handed out while their partition is read."""
_MOST_SEEN = 500_000


@dataclass(slots=True)
class ExportProgress:
    """How far an export is. ``total``: what lay in the store when it began.

    Passed over are records that a newer version wrote (``newer``), that cannot be read (``bad``), and ``quarantined``
    ones.
    """

    total: int = 0
    tasks: int = 0
    dead: int = 0
    keys: int = 0
    queues: int = 0
    newer: int = 0
    bad: int = 0
    quarantined: int = 0

    @property
    def seen(self) -> int:
        return self.tasks + self.dead


@dataclass(slots=True)
class Unfinished:
    """What a file holds that an export was writing. ``size``: up to the last line that can be gone on from."""

    header: Header | None = None
    size: int = 0
    after: tuple[int, int] | None = None
    progress: ExportProgress = field(default_factory=ExportProgress)
    whole: bool = False


def look(file: BinaryIO, name: str) -> Unfinished:
    """Reads an unfinished export from its beginning. Damaged for a file that is none."""
    found = Unfinished()
    raw = file.readline(LONGEST)
    if not raw:
        return found
    header = read_header(raw, name)
    at, number = len(raw), 1
    counted = ExportProgress()
    while raw := file.readline(LONGEST):
        number += 1
        try:
            line = read_line(raw, name, number)
        except Damaged:
            break  # what was being written when it ended
        at += len(raw)
        if line.task is not None:
            counted.tasks += 1
        elif line.dead is not None:
            counted.dead += 1
        elif line.queue is not None:
            counted.queues += 1
        elif line.end is not None:
            found.whole = True
        if line.done is not None or line.end is not None:
            found.header = header
            found.size, found.after = at, line.done or found.after
            found.progress = ExportProgress(**asdict(counted))
    return found


class Export:
    """One run over ``store`` into ``file``.

    Each task stands in it as it was at one moment. Those that wait for the whole time are all in it; those that begin
    to run, are tried again, are moved by callers or are scheduled meanwhile may be missing or as they were before. One
    that is running is written as one that waits.
    """

    def __init__(self, store: Store, file: BinaryIO, *, found: Unfinished | None = None) -> None:
        self._store = store
        self._file = file
        self._found = found or Unfinished()
        self.progress = self._found.progress
        self._passed = Passed()
        self._seen: set[bytes] = set()

    async def run(self, report: Callable[[ExportProgress], None] = lambda _: None) -> ExportProgress:
        """Writes everything, or what a found file lacks; calls ``report`` after each page. StoreUnavailable;
        ConfigError where the file is of another store."""
        store, header = self._store, self._found.header
        counts = await store.counts()
        self.progress.total = sum(one.pending + one.in_flight + one.dead for one in counts)
        self.progress.quarantined = sum(one.quarantined for one in counts)
        if header is None:
            self._begin(await store.ping())
            await self._queues()
            self._done(-1, PARTITION_DONE)
        elif header.store != store.store_id:
            raise ConfigError(
                f"the file holds an export of store {header.store}, and this is store {store.store_id}; name the right "
                "--redis or storage.prefix, or another file"
            )
        first, after = (0, None) if self._found.after is None else self._found.after
        if after == PARTITION_DONE:
            first, after = first + 1, None
        for partition in range(first, store.partitions):
            await self._partition(partition, after, report)
            after = None
        await self._keys(report)
        p = self.progress
        p.newer, p.bad = self._passed.newer, self._passed.bad
        self._write(ExportedLine(end={"tasks": p.tasks, "dead": p.dead, "keys": p.keys, "queues": p.queues}))
        self._file.flush()
        return p

    def _begin(self, now: int) -> None:
        s = self._store
        self._write(
            Header(
                delaybox_export=FORMAT,
                export=os.urandom(8).hex(),
                store=s.store_id,
                partitions=s.partitions,
                bucket_ms=s.bucket_ms,
                at_ms=now,
                by=__version__,
            )
        )

    def _write(self, line: Header | ExportedLine) -> None:
        self._file.write(encode(line))

    def _done(self, partition: int, bucket: int) -> None:
        """From here an export that ended can be gone on with."""
        self._write(ExportedLine(done=(partition, bucket)))
        self._file.flush()

    async def _queues(self) -> None:
        _, stored = await rules.every(self._store, {})
        for queue, one in sorted(stored.items()):
            self._write(ExportedLine(queue=queue, value=one.raw))
            self.progress.queues += 1

    async def _partition(self, p: int, after: int | None, report: Callable[[ExportProgress], None]) -> None:
        store = self._store
        self._seen.clear()
        soon = await store.ping() + _SOON_MS
        for bucket in await transfer.buckets(store, p):
            if after is not None and bucket <= after:
                continue
            async for page in transfer.waiting(store, p, bucket, self._passed):
                self._tasks(page, soon, "")
                report(self.progress)
            self._done(p, bucket)
        # Behind the buckets: what is handed out in between is met here.
        async for page in transfer.leased(store, p, self._passed):
            self._tasks([one for one in page if one.task_id not in self._seen], soon, "leased")
        async for page in transfer.dead(store, p, self._passed):
            for one in page:
                self._write(_line(one, dead=True))
                self.progress.dead += 1
            report(self.progress)
        self._done(p, PARTITION_DONE)

    def _tasks(self, page: list[StoredTask], soon: int, was: str) -> None:
        for one in page:
            if one.record.due_ms < soon and len(self._seen) < _MOST_SEEN:
                if one.task_id in self._seen:
                    continue
                self._seen.add(one.task_id)
            self._write(_line(one, was=was))
            self.progress.tasks += 1

    async def _keys(self, report: Callable[[ExportProgress], None]) -> None:
        async for page in self._ended():
            for key, entry, until in page:
                self._write(ExportedLine(key=key, value=entry, until_ms=until))
                self.progress.keys += 1
            report(self.progress)

    def _ended(self) -> AsyncIterator[list[tuple[bytes, bytes, int]]]:
        return transfer.ended_keys(self._store)


def _line(one: StoredTask, *, dead: bool = False, was: str = "") -> ExportedLine:
    shown = ids.render(one.task_id)
    return ExportedLine(
        task=None if dead else shown,
        dead=shown if dead else None,
        was=was,
        due_ms=one.record.due_ms,
        lane=one.record.lane.decode("utf-8", "replace"),
        value=one.value,
        body=one.body,
        print=one.print,
    )
