"""Changes of every task that a filter matches: one pass, in batches, and in bounded memory."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from delaybox.core import ids
from delaybox.core.errors import InvalidTask
from delaybox.core.limits import MAX_DUE_MS
from delaybox.core.partition import of_id
from delaybox.core.query import BulkResult, TaskQuery
from delaybox.core.task import TaskState, TaskView
from delaybox.service.history import History
from delaybox.store import label_index, page_cursors, task_lists
from delaybox.store.store import MAX_ITEMS, Store

SAMPLE = 10

_Change = Callable[[Sequence[bytes]], Awaitable[int]]
"""Changes tasks of one partition. Returns how many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which tasks, how many at most (0: all of them), and whether only to count.

    ``in_time_s``: end after about this time (0: never before it is through); ``cursor``: where to go on then.
    """

    wanted: TaskQuery
    limit: int = 0
    dry_run: bool = False
    in_time_s: float = 0.0
    cursor: str = ""


class Bulk:
    """The bulk changes of one store."""

    def __init__(self, store: Store, history: History) -> None:
        self._store = store
        self._history = history

    async def cancel(self, selection: Selection, *, free_keys: bool = False) -> BulkResult:
        """Cancels the pending tasks that match. InvalidTask for a filter by a state that is not pending, and for a
        cursor that is none of ours.

        ``free_keys``: their idempotency keys may be used again at once.
        """

        change = self._cancelling(free_keys, selection.wanted.group)
        by = await self._label(selection)
        return await _apply(self._waiting(selection, by), selection, change, scanned=self._scans(selection, by))

    async def cancel_ids(self, task_ids: Sequence[str], *, free_keys: bool = False) -> BulkResult:
        """Cancels those of these tasks that are pending. InvalidTask for text that is no id."""
        wanted = list(dict.fromkeys(ids.parse(task_id) for task_id in task_ids))
        changed = await _by_partition(wanted, self._cancelling(free_keys))
        return BulkResult(matched=len(wanted), changed=changed, skipped=len(wanted) - changed)

    def _cancelling(self, free_keys: bool, group: str = "") -> _Change:
        async def change(task_ids: Sequence[bytes]) -> int:
            before = await self._history.pending(task_ids)
            words = await self._store.cancel(task_ids, free_key=free_keys, group=group)
            await self._history.cancelled(before, task_ids, words)
            return words.count("cancelled")

        return change

    async def reschedule(
        self, selection: Selection, *, due_ms: int | None = None, delay_ms: int | None = None
    ) -> BulkResult:
        """Moves the pending tasks that match to one moment; those that are due then anyway are left out."""
        now = await self._store.ping()
        target = min(max(now, now + (delay_ms or 0) if due_ms is None else due_ms), MAX_DUE_MS)
        # This also keeps it to one pass: a task that was moved is met again at its new time, and is left out then.
        return await self._move(selection, target, lambda view: view.due_ms != target)

    async def moment(self, delay_ms: int) -> int:
        """The moment so long from now (Unix ms), by the store's clock."""
        return min(await self._store.ping() + delay_ms, MAX_DUE_MS)

    async def run_now(self, selection: Selection) -> BulkResult:
        """Makes due the tasks that match and still wait for their time."""
        return await self._move(selection, await self._store.ping(), lambda view: view.state is TaskState.SCHEDULED)

    async def replay(self, selection: Selection) -> BulkResult:
        """Brings back the dead letters that match, newest first. InvalidTask for a filter by another state, and for a
        cursor that is none of ours."""

        async def change(task_ids: Sequence[bytes]) -> int:
            before = await self._history.before_replay(task_ids)
            words = await self._store.replay(task_ids)
            back = [i for i, word in zip(task_ids, words, strict=True) if word == "replayed"]
            self._history.changed(before, back, due_ms=self._store.now_ms())
            return len(back)

        return await _apply(self._dead(selection), selection, change)

    async def discard(self, selection: Selection) -> BulkResult:
        """Deletes the dead letters that match for good, newest first. InvalidTask as `replay`."""

        async def change(task_ids: Sequence[bytes]) -> int:
            return await self._store.discard(of_id(task_ids[0], self._store.partitions), task_ids)

        return await _apply(self._dead(selection), selection, change)

    async def _move(self, selection: Selection, target: int, applies: Callable[[TaskView], bool]) -> BulkResult:
        async def change(task_ids: Sequence[bytes]) -> int:
            before = await self._history.before_change(task_ids)
            words = await self._store.reschedule_many(task_ids, target, selection.wanted.group)
            moved = [i for i, (word, _) in zip(task_ids, words, strict=True) if word == "moved"]
            self._history.changed(before, moved, due_ms=target)
            return len(moved)

        by = await self._label(selection)

        async def found() -> AsyncIterator[task_lists.Chunk]:
            async for cursor, views in self._waiting(selection, by):
                yield cursor, [view for view in views if applies(view)]

        return await _apply(found(), selection, change, scanned=self._scans(selection, by))

    async def _label(self, selection: Selection) -> str:
        """The label by whose index tasks are found; "" for none."""
        if selection.cursor:
            # It goes on as it began, whatever became of the index.
            return page_cursors.label_of(selection.cursor)
        wanted = selection.wanted
        return "" if wanted.group else await label_index.usable(self._store, label_index.asked(wanted))

    @staticmethod
    def _scans(selection: Selection, by: str) -> bool:
        return bool(label_index.asked(selection.wanted)) and not selection.wanted.group and not by

    def _waiting(self, selection: Selection, by: str) -> AsyncIterator[task_lists.Chunk]:
        wanted, cursor = selection.wanted, selection.cursor
        if wanted.state not in (None, TaskState.SCHEDULED, TaskState.READY):
            raise InvalidTask(
                "state", f"state {wanted.state.value} is not one of pending tasks; use scheduled or ready"
            )
        # A group is found by its index, in time that grows with the group and not with what is pending.
        if wanted.group:
            return task_lists.group_chunks(self._store, wanted, cursor)
        # So are tasks by a label that is indexed.
        if by:
            return task_lists.label_chunks(self._store, wanted, by, cursor)
        return task_lists.waiting_chunks(self._store, wanted, cursor)

    async def _dead(self, selection: Selection) -> AsyncIterator[task_lists.Chunk]:
        wanted, cursor = selection.wanted, selection.cursor
        if wanted.state not in (None, TaskState.FAILED):
            raise InvalidTask("state", f"state {wanted.state.value} is not that of dead letters; leave it out")
        wanted = replace(wanted, state=TaskState.FAILED)
        while True:
            found = await task_lists.page(
                self._store, wanted, cursor=cursor, limit=MAX_ITEMS, in_time_s=selection.in_time_s
            )
            cursor = found.cursor
            yield cursor, found.items
            if not cursor:
                return


async def _apply(
    found: AsyncIterator[task_lists.Chunk], selection: Selection, change: _Change, *, scanned: bool = False
) -> BulkResult:
    out = BulkResult(scanned=scanned)
    ends_at = time.monotonic() + selection.in_time_s if selection.in_time_s else math.inf
    before = selection.cursor
    async for cursor, views in found:
        left = selection.limit - (out.matched if selection.dry_run else out.changed) if selection.limit else len(views)
        taken = views[:left]
        out.matched += len(taken)
        out.sample += [view.task_id for view in taken[: SAMPLE - len(out.sample)]]
        if not selection.dry_run:
            changed = await _by_partition([ids.parse(view.task_id) for view in taken], change)
            out.changed += changed
            out.skipped += len(taken) - changed
        if selection.limit and (out.matched if selection.dry_run else out.changed) >= selection.limit:
            # Of a part of a chunk it goes on with the whole again: what was changed does not match any more.
            out.cursor = cursor if len(taken) == len(views) else before
            break
        if time.monotonic() >= ends_at:
            out.cursor = cursor
            break
        before = cursor
    return out


async def _by_partition(task_ids: Sequence[bytes], change: _Change) -> int:
    groups: dict[int, list[bytes]] = {}
    for task_id in task_ids:
        groups.setdefault(ids.partition(task_id), []).append(task_id)
    changed = 0
    for group in groups.values():
        for at in range(0, len(group), MAX_ITEMS):
            changed += await change(group[at : at + MAX_ITEMS])
    return changed
