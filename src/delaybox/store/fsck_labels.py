"""What `fsck` looks for in the lists of the index of labels: each task with an indexed label is in one of them, or in a
set. Entries of tasks that have ended are no fault: `relist` drops them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from delaybox.store import label_index, label_lists
from delaybox.store.label_entries import MARK, number_of
from delaybox.store.loader import ScriptCall
from delaybox.store.record import Record, UnreadableRecord, read, read_dead
from delaybox.store.store import Store


class Listed:
    """Of one partition at a time."""

    def __init__(self, store: Store, *, repair: bool) -> None:
        self._store = store
        self._repair = repair
        self._partition = -1
        self._names: Collection[str] = ()
        self._known = label_lists.Known()
        self.repaired = 0

    async def begin(self, partition: int) -> int:
        """Reads the lists of a partition; how many entries there are. StoreUnavailable."""
        (self._names,) = await label_index.complete(self._store, [partition])
        self._partition, self._known = partition, label_lists.Known()
        async for _ in self._known.read(self._store, partition):
            pass
        return self._known.count

    async def missing(self, records: Sequence[Record]) -> list[bytes]:
        """The ids of those that are not in the index, though it is complete. StoreUnavailable."""
        if not self._names:
            return []
        found = await label_index.lacking(self._store, self._partition, records, self._names, self._known)
        return [one[:-MARK] for one in found if await self._really(one)]

    async def _really(self, entry: bytes) -> bool:
        """Whether an entry is missing in one moment, and its task is still there behind that moment."""
        store, p = self._store, self._partition
        task_id, mark = entry[:-MARK], entry[-MARK:]
        # No set has the number -1.
        if task_id in await store.runner.run(ScriptCall("labelled", store.tags[p], (-1, mark, number_of(mark)))):
            return False
        now = await store.get(task_id)
        try:
            if now.place == "dead":
                record = read_dead(task_id, now.value)[2]
            elif now.place in ("home", "lease"):
                record = read(task_id, now.value)
            else:
                return False
        except UnreadableRecord:
            return False
        if entry not in await label_index.lacking(store, p, [record], self._names, label_lists.Known()):
            return False
        if self._repair:
            await label_lists.enter(store, p, [entry])
            self.repaired += 1
        return True
