"""Takes over what the Go original left pending: a sorted set of serialized tasks, scored by their due time in ms."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from delaybox import failpoints
from delaybox.core.errors import DelayBoxError, IdempotencyConflict, InvalidTask
from delaybox.core.task import NewTask, Submitted, TaskType
from delaybox.service import Service
from delaybox.store.original import OriginalSet, keep_folded
from delaybox.store.store import Store
from delaybox.wire.original import message

MOST_AT_ONCE = 4_000
_FIRST = 128
_CHUNK_BYTES = 4 << 20
_REMOVE_AT_ONCE = 500
_SHOWN = 20


@dataclass(slots=True)
class ImportProgress:
    """How far an import is. ``left``: members that stay where they are; ``reasons`` names the first of them.

    ``seen`` = ``created`` + ``known`` (an earlier run stored them) + ``folded`` (copies of another) + ``left``.
    """

    total: int = 0
    seen: int = 0
    created: int = 0
    known: int = 0
    folded: int = 0
    left: int = 0
    shell: int = 0
    reasons: list[str] = field(default_factory=list)

    def leave(self, rank: int, raw: bytes, why: str) -> None:
        """Counts a member that stays, and keeps the reason of the first ones; never what the task carries."""
        self.left += 1
        if len(self.reasons) < _SHOWN:
            self.reasons.append(f"member {rank} ({len(raw)} bytes): {why}")


class _Item(NamedTuple):
    """A member that is a task."""

    rank: int
    raw: bytes
    uuid: str
    task: NewTask
    copy: bool


class Import:
    """One run over the set ``source``.

    Each task is stored under an idempotency key made of its old uuid (of its content with ``fold``) before its member
    is removed. So a run that was killed is simply run again: nothing is lost and nothing stored twice, as long as that
    is done within the 24 hours that keys outlive their tasks. The original must be stopped, or it also fires some.
    """

    def __init__(self, source: OriginalSet, store: Store, *, fold: bool = False, dry: bool = False) -> None:
        self._source = source
        self._store = store
        self._service = Service(store)
        self._fold = fold
        self._dry = dry
        self.progress = ImportProgress()
        self._size = _FIRST
        self._due_ms: int | None = -1
        self._keys: set[str | None] = set()

    async def run(self, report: Callable[[ImportProgress], None] = lambda _: None) -> ImportProgress:
        """Imports the whole set; calls ``report`` after each chunk. StoreRefused where the key holds something else."""
        p = self.progress
        p.total = await self._source.size()
        report(p)
        storing: asyncio.Task[None] | None = None
        members = await self._members(0)
        try:
            while members:
                # A chunk is read while the one before it is being stored.
                chunk = self._read(members)
                if storing is not None:
                    await storing
                    report(p)
                # Skips members that stay in the set, and the present chunk, which has not been removed yet.
                members = await self._members(p.seen if self._dry else p.left + len(chunk))
                storing = asyncio.create_task(self._take(chunk))
                await asyncio.sleep(0)
            if storing is not None:
                await storing
        finally:
            if storing is not None:
                await asyncio.wait({storing})
        report(p)
        return p

    async def _members(self, at: int) -> list[tuple[bytes, float]]:
        """The next members, soonest due first, so that the most urgent tasks are safe first."""
        members = await self._source.members(at, self._size)
        # A member may be 1 MiB, so a chunk grows only as far as the size of the last one allows.
        mean = sum(len(raw) for raw, _ in members) // max(len(members), 1)
        self._size = max(1, min(self._size * 2, MOST_AT_ONCE, _CHUNK_BYTES // max(mean, 1)))
        return members

    def _read(self, members: list[tuple[bytes, float]]) -> list[_Item]:
        chunk: list[_Item] = []
        p = self.progress
        for raw, score in members:
            p.seen += 1
            try:
                uuid, task = message.of_pending(raw, score, fold=self._fold)
            except InvalidTask as error:
                p.leave(p.seen, raw, str(error))
                continue
            copy = self._fold and self._is_copy(task)
            p.folded += copy
            p.shell += task.type is TaskType.SHELL_CMD and not copy
            chunk.append(_Item(p.seen, raw, uuid, task, copy))
        return chunk

    def _is_copy(self, task: NewTask) -> bool:
        # Copies are due at the same time, so they follow each other in the set.
        if task.due_ms != self._due_ms:
            self._due_ms = task.due_ms
            self._keys.clear()
        if task.idempotency_key in self._keys:
            return True
        self._keys.add(task.idempotency_key)
        return False

    async def _take(self, chunk: list[_Item]) -> None:
        """Stores a chunk, then removes from the set what is stored; after that raises the store's error, if any."""
        p = self.progress
        if self._dry:
            p.created += sum(not item.copy for item in chunk)
            return
        # Keys decide partitions. Sorted by partition, one call of the store carries many tasks and not a sixteenth of
        # them.
        chunk.sort(key=lambda item: self._store.partition_of((item.task.idempotency_key or "").encode()))
        answers = await self._service.submit_many([item.task for item in chunk])
        failpoints.hit("after_import_store")
        stored: list[bytes] = []
        folded: dict[str, str] = {}
        problem: DelayBoxError | None = None
        for item, answer in zip(chunk, answers, strict=True):
            if isinstance(answer, Submitted):
                stored.append(item.raw)
                if item.copy:
                    folded[item.uuid] = answer.task_id
                elif answer.created:
                    p.created += 1
                else:
                    p.known += 1
                continue
            p.folded -= item.copy
            if isinstance(answer, IdempotencyConflict | InvalidTask):
                p.leave(item.rank, item.raw, f"{answer.code}: {item.uuid} stands for another task already")
            else:
                problem = answer
        if folded:
            await keep_folded(self._store, folded)
        for at in range(0, len(stored), _REMOVE_AT_ONCE):
            await self._source.remove(stored[at : at + _REMOVE_AT_ONCE])
        failpoints.hit("after_import_remove")
        if problem is not None:
            raise problem
