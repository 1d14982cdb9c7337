"""Stores what `export_store` wrote, into the same store or another one, beside nodes that work for it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import BinaryIO

from delaybox.core import ids
from delaybox.core.errors import InvalidTask
from delaybox.core.partition import of_key
from delaybox.store import rules, transfer
from delaybox.store.batches import MAX_BODY_BYTES
from delaybox.store.record import UnreadableRecord, read, read_dead_raw
from delaybox.store.store import MAX_RECORD_BYTES, Store
from delaybox.store.transfer import MOST_ITEMS, Item
from delaybox.wire.exported import LONGEST, Damaged, ExportedLine, Header, read_line

_MOST_AT_ONCE = 4_000
_SHOWN = 20


@dataclass(slots=True)
class StoreImportProgress:
    """How far an import is. ``seen`` = ``stored`` + ``known`` (here already, or stored by an earlier run) + ``ended``
    (their key says that they ended here) + ``taken`` (their key names another task) + ``past`` (left out) + ``bad``.

    ``overdue``: of those stored, how many were due when they were stored, and so at once. ``renamed``: how many got
    another id. ``whole``: the file's end was there.
    """

    lines: int = 0
    seen: int = 0
    stored: int = 0
    known: int = 0
    ended: int = 0
    taken: int = 0
    bad: int = 0
    past: int = 0
    overdue: int = 0
    renamed: int = 0
    dead: int = 0
    keys: int = 0
    queues: int = 0
    damaged: int = 0
    whole: bool = False
    reasons: list[str] = field(default_factory=list)

    def note(self, why: str) -> None:
        """Keeps the first reasons; never what a task carries."""
        if len(self.reasons) < _SHOWN:
            self.reasons.append(why)


class ImportStore:
    """One run of an exported file into ``store``. ``file``: behind the ``header``, which was read from it; ``name``: of
    the file, for messages.

    A line that is sent again stores nothing: each partition remembers how far it has the export, for 30 days. So an
    import that ended is simply run again. ``skip_past``: leaves out tasks whose time is over; otherwise they are due at
    once. ``skip_damaged``: goes on behind a damaged line. ``renamed``: called with the old and the new id of each task
    that got another one.
    """

    def __init__(
        self,
        store: Store,
        file: BinaryIO,
        name: str,
        header: Header,
        *,
        skip_past: bool = False,
        skip_damaged: bool = False,
        renamed: Callable[[bytes, bytes], None] = lambda *_: None,
    ) -> None:
        self._store = store
        self._file = file
        self._name = name
        self._header = header
        self._skip_past = skip_past
        self._skip_damaged = skip_damaged
        self._renamed = renamed
        self.progress = StoreImportProgress()
        self._groups: defaultdict[int, list[Item]] = defaultdict(list)
        self._sizes: defaultdict[int, list[int]] = defaultdict(lambda: [0, 0])
        self._count = 0
        self._now = 0

    async def run(self, report: Callable[[StoreImportProgress], None] = lambda _: None) -> StoreImportProgress:
        """Stores everything; calls ``report`` after each round trip. Damaged, with the line; StoreUnavailable;
        StoreFull."""
        store, p = self._store, self.progress
        p.lines = 1
        self._now = await store.ping()
        has = await transfer.covered(store, self._header.export)
        while raw := self._file.readline(LONGEST):
            p.lines += 1
            try:
                line = read_line(raw, self._name, p.lines)
            except Damaged as error:
                if not self._skip_damaged:
                    await self._send(p.lines - 1, report)
                    raise
                p.damaged += 1
                p.note(str(error).partition(";")[0])
                continue
            if line.queue is not None:
                await self._queue(line.queue, line.value)
            elif line.end is not None:
                p.whole = True
            elif (placed := self._placed(line)) is not None:
                await self._take(*placed, has, report)
        await self._send(p.lines, report)
        return p

    def _placed(self, line: ExportedLine) -> tuple[int, Item] | None:
        """The partition of a line, and what to store there; None: nothing."""
        p, store = self.progress, self._store
        if line.key is not None:
            if line.until_ms <= self._now:
                return None
            p.keys += 1
            until = b"%d" % line.until_ms
            return of_key(line.key, store.partitions), Item(p.lines, "k", line.key, line.value, until)
        shown = line.task or line.dead
        if shown is None:
            return None
        p.seen += 1
        dead = line.dead is not None
        try:
            task_id = ids.parse(shown)
            record = read(task_id, read_dead_raw(line.value) if dead else line.value)
        except (UnreadableRecord, InvalidTask) as error:
            p.bad += 1
            p.note(f"{self._name}, line {p.lines}: {error}")
            return None
        if not dead and record.due_ms <= self._now and self._skip_past:
            p.past += 1
            return None
        mine = transfer.home(task_id, record, self._header.partitions, store.partitions)
        kind = "d" if dead else "p"
        return ids.partition(mine), Item(p.lines, kind, mine, line.value, line.body, line.print, task_id)

    async def _take(
        self, partition: int, item: Item, has: list[int], report: Callable[[StoreImportProgress], None]
    ) -> None:
        p = self.progress
        if item.line <= has[partition]:
            if item.kind != "k":
                p.known += 1
            return
        sizes = self._sizes[partition]
        small, large = len(item.value), len(item.body)
        over = sizes[0] + small > MAX_RECORD_BYTES or sizes[1] + large > MAX_BODY_BYTES
        if self._count and (over or len(self._groups[partition]) >= MOST_ITEMS or self._count >= _MOST_AT_ONCE):
            await self._send(item.line - 1, report)
            sizes = self._sizes[partition]
        self._groups[partition].append(item)
        sizes[0] += small
        sizes[1] += large
        self._count += 1

    async def _send(self, up_to: int, report: Callable[[StoreImportProgress], None]) -> None:
        """Stores what was collected, each partition's in one call: what is behind a call that failed must not count as
        covered."""
        p = self.progress
        groups, self._groups = dict(self._groups), defaultdict(list)
        self._sizes.clear()
        self._count = 0
        answers = await transfer.bring(self._store, self._header.export, groups, up_to) if groups else {}
        for partition, words in answers.items():
            for item, word in zip(groups[partition], words, strict=True):
                if item.kind != "k":
                    self._counted(item, word)
        report(p)

    def _counted(self, item: Item, word: str) -> None:
        p = self.progress
        setattr(p, word, getattr(p, word) + 1)
        if word in ("stored", "known") and item.task_id != item.before:
            p.renamed += 1
            self._renamed(item.before, item.task_id)
        if word == "stored":
            p.dead += item.kind == "d"
            record = read(item.task_id, read_dead_raw(item.value) if item.kind == "d" else item.value)
            p.overdue += item.kind == "p" and record.due_ms <= self._now
        elif word in ("taken", "bad"):
            why = "its idempotency key belongs to another task here" if word == "taken" else "the record cannot be read"
            p.note(f"{self._name}, line {item.line}: not stored: {why}")

    async def _queue(self, queue: str, value: bytes) -> None:
        """The rules of a queue, where it has none of its own here; in force before its tasks are stored."""
        word, number = await rules.change(self._store, [(queue, b"", value)])
        if word == "stored":
            self.progress.queues += 1
            _, stored = await rules.every(self._store, {})
            codes = rules.codes({name: one.rules for name, one in stored.items()})
            found = await rules.copies(self._store, range(self._store.partitions), number)
            await rules.copy(self._store, found.behind + found.away, number, codes)
