"""What became of tasks that have ended: looked up, listed, and noted where a caller ends them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence

from msgspec.structs import replace

from delaybox.core import ids
from delaybox.core.events import EventKind
from delaybox.core.history import ENDED, EndedTask, HistoryPage, HistoryQuery, HistoryRules
from delaybox.core.partition import of_id
from delaybox.core.task import Priority, TaskState, TaskView
from delaybox.service.recorder import Recorder
from delaybox.service.why_waiting import put_off
from delaybox.store import failures, history, keys
from delaybox.store.record import Record, UnreadableRecord, read, read_dead
from delaybox.store.store import Store


class History:
    """The history of one store. ``rules``: whether ends that callers cause are noted."""

    def __init__(self, store: Store, rules: HistoryRules) -> None:
        self._store = store
        self._recorder = Recorder(store, rules, store.now_ms)

    async def page(self, wanted: HistoryQuery, *, cursor: str, limit: int) -> HistoryPage:
        """Ends in pages, the newest first. InvalidTask for a bad cursor. StoreUnavailable."""
        return await history.page(self._store, wanted, cursor=cursor, limit=limit)

    async def find(self, task_id: bytes) -> EndedTask | None:
        """How a task ended; None where that is not remembered. StoreUnavailable."""
        noted = self._recorder.waiting(task_id)
        if noted is not None:
            return history.read(task_id, noted)
        return await history.find(self._store, task_id)

    async def view(self, task_id: bytes) -> TaskView | None:
        """A task of which nothing but its end is remembered."""
        one = await self.find(task_id)
        return None if one is None else await self.explained(view_of(one))

    async def explained(self, view: TaskView) -> TaskView:
        """The view with why its last attempts failed, where that is remembered."""
        if not view.attempt and view.deliveries < 2:  # of one that was brought back nothing has failed again yet
            return view
        return replace(view, failures=await failures.of(self._store, ids.parse(view.task_id)))

    async def put_off(self, views: list[TaskView]) -> list[TaskView]:
        """The views; those of webhooks that were put off with that reason. StoreUnavailable."""
        found = [put_off(view) for view in views]
        # Of some of these the last failure says that they wait for their next try.
        doubtful = [at for at, view in enumerate(views) if found[at] is not view and view.deliveries > 1]
        if doubtful:
            failed = await failures.of_many(self._store, [ids.parse(views[at].task_id) for at in doubtful])
            for at, of_one in zip(doubtful, failed, strict=True):
                if put_off(replace(views[at], failures=of_one)).reason == views[at].reason:
                    found[at] = views[at]
        return found

    async def completed(self, view: TaskView) -> TaskView:
        """The view of a task with its failed attempts, and with its moments if it has ended, where remembered."""
        view = await self.explained(view)
        if view.state not in ENDED:
            return view
        one = await self.find(ids.parse(view.task_id))
        if one is None or one.state is not view.state:
            return view
        return replace(view, fired_ms=one.fired_ms, ended_ms=one.ended_ms, node=one.node)

    async def pending(self, task_ids: Sequence[bytes]) -> dict[bytes, Record]:
        """The records of those that are pending, as they are before a cancel; none where nothing is noted."""
        if not self._recorder.on:
            return {}
        store = self._store
        asked = [
            ("HGET", keys.bucket(store.tags[of_id(i, store.partitions)], ids.bucket(i, store.bucket_ms)), i)
            for i in task_ids
        ]
        found: dict[bytes, Record] = {}
        for task_id, raw in zip(task_ids, await store.servers.ask_many(asked), strict=True):
            try:
                if raw:
                    found[task_id] = read(task_id, raw)
            except UnreadableRecord:
                continue
        return found

    async def cancelled(self, before: dict[bytes, Record], task_ids: Sequence[bytes], words: Sequence[str]) -> None:
        """Notes those that were cancelled, by the answers to a cancel and what `pending` found before it."""
        if before:
            gone = [before[i] for i, word in zip(task_ids, words, strict=True) if word == "cancelled" and i in before]
            self._recorder.cancelled(gone)
            await self._recorder.soon()

    async def before_change(self, task_ids: Sequence[bytes]) -> dict[bytes, Record]:
        """The records of those that are pending, as they are before a change; none where nobody wants events."""
        return await self.pending(task_ids) if self._store.events.wanted else {}

    async def before_replay(self, task_ids: Sequence[bytes]) -> dict[bytes, Record]:
        """The same of dead letters."""
        if not self._store.events.wanted:
            return {}
        store = self._store
        asked = [("HGET", keys.dead(store.tags[of_id(i, store.partitions)]), i) for i in task_ids]
        found: dict[bytes, Record] = {}
        for task_id, raw in zip(task_ids, await store.servers.ask_many(asked), strict=True):
            with contextlib.suppress(UnreadableRecord):
                if raw:
                    found[task_id] = read_dead(task_id, raw)[2]
        return found

    def changed(self, before: Mapping[bytes, Record], task_ids: Iterable[bytes], *, due_ms: int | None = None) -> None:
        """Reports those that were changed, by what they were before. ``due_ms``: when they are due from now on."""
        if before:
            records = [before[i] for i in task_ids if i in before]
            self._store.events.records(EventKind.CHANGED, records, due_ms=due_ms)

    async def close(self) -> None:
        """Writes what is left. Harmless when repeated."""
        await self._recorder.close()


def view_of(one: EndedTask) -> TaskView:
    """The view of a task of which nothing but its end is remembered: it has no payload."""
    return TaskView(
        task_id=one.task_id,
        state=one.state,
        due_ms=one.due_ms,
        type=one.type,
        queue=one.queue,
        priority=Priority(one.priority),
        payload=b"",
        header={},
        attempt=one.attempt,
        deliveries=one.deliveries,
        reason=one.reason or ("cancelled" if one.state is TaskState.CANCELLED else ""),
        name=one.name,
        fired_ms=one.fired_ms,
        ended_ms=one.ended_ms,
        node=one.node,
        remembered=True,
    )
