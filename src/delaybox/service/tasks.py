"""The use-cases every front end shares: submit, query, control. No front end talks to the store past this."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

from msgspec import structs

from delaybox.core import ids
from delaybox.core.errors import (
    DelayBoxError,
    InvalidTask,
    StoreUnavailable,
    TaskFinished,
    TaskNotFound,
    TaskRunning,
)
from delaybox.core.events import NO_EVENTS, EventRules
from delaybox.core.history import NO_HISTORY, HistoryPage, HistoryQuery, HistoryRules
from delaybox.core.limits import DEFAULT_PAGE
from delaybox.core.membership import LivingNode, nodes_of
from delaybox.core.query import ForecastStep, Page, QueueList, QueueWait, TaskQuery
from delaybox.core.queue import RuleBook
from delaybox.core.scaling import ScalingAnswer, ScalingQuery
from delaybox.core.task import NewTask, Priority, Submitted, TaskState, TaskType, TaskView
from delaybox.service.bulk import Bulk
from delaybox.service.counts import StoreCounts, counts_of, counts_there
from delaybox.service.dead import DeadByReason
from delaybox.service.feed import Feed
from delaybox.service.health import ServerWatch, StoreHealth
from delaybox.service.history import History
from delaybox.service.queues import QueueFigures
from delaybox.service.readiness import Readiness, look
from delaybox.service.refusals import PLACES, UNREADABLE, no_dead_letter, refusal
from delaybox.service.rules import Rules
from delaybox.service.scaling import Scaler
from delaybox.service.served import LIVE_NODE_MS, living
from delaybox.service.shedding import Shedding
from delaybox.service.submit import BatchItem, Submitter, Then, submitter_kind
from delaybox.service.watch import Watch, Watcher
from delaybox.service.why_waiting import Serving, put_off
from delaybox.store import by_key, dashboard_secret, offset_pages, task_lists
from delaybox.store.apart import Apart
from delaybox.store.by_id import Lookup
from delaybox.store.outlook import Outlook, outlook
from delaybox.store.publish import ask_to_stop
from delaybox.store.record import UnreadableRecord, read
from delaybox.store.store import Found, Store, Stored
from delaybox.store.views import changed, of_found
from delaybox.store.writable import SERVER_PATIENCE_S
from delaybox.wire.topics import TopicRules

MAX_STEPS = 10_000
_UPDATE_TRIES = 5
_STOPPABLE = (TaskType.WORKER, TaskType.SHELL_CMD)
"""Types of running tasks that can be stopped."""


class _Parts:
    """The parts that the use-cases need, made once there is a store."""

    __slots__ = (
        "apart",
        "bulk",
        "dead",
        "feed",
        "health",
        "history",
        "lookup",
        "probed",
        "queues",
        "rules",
        "scaler",
        "serving",
        "store",
        "submitter",
        "watcher",
    )

    def __init__(
        self,
        store: Store,
        submitter: Callable[[Store], Submitter],
        queues: RuleBook | None,
        history: HistoryRules,
        events: EventRules,
    ) -> None:
        self.store = store
        self.apart = Apart(lambda: store.shards.of)
        self.probed = Apart(lambda: store.shards.of, patience_s=SERVER_PATIENCE_S)
        self.feed = Feed(store, events)
        self.history = History(store, history)
        self.rules = Rules(store, queues)
        self.queues = QueueFigures(store, self.rules)
        self.submitter = submitter(store)
        self.lookup = Lookup(store)
        self.watcher = Watcher(store)
        self.bulk = Bulk(store, self.history)
        self.dead = DeadByReason(store, self.history)
        self.serving = Serving(store)
        self.health = ServerWatch(store)
        self.scaler = Scaler(store, self.rules)


class Service:
    """Use-cases over one store, which may come later: until `open` every call raises StoreUnavailable.

    ``node_id``: the node that `check` looks for; None where this process belongs to none. ``engines``: the ids of its
    members that must be alive; None: the node's own. ``queues``: their rules by this
    node's configuration. ``history``: whether ends that callers cause are noted. ``events``: how the feed
    of events is kept. ``shedding``: which calls are refused. The other arguments are the `Submitter`'s.
    """

    def __init__(
        self,
        store: Store | None = None,
        *,
        max_waiting: int = 20_000,
        node_id: str | None = None,
        engines: Collection[str] | None = None,
        on_scheduled: Callable[[int, int], None] | None = None,
        topics: TopicRules | None = None,
        queues: RuleBook | None = None,
        history: HistoryRules = NO_HISTORY,
        events: EventRules = NO_EVENTS,
        shedding: Shedding | None = None,
    ) -> None:
        self.shedding = shedding or Shedding()
        self._history = history
        self._events = events
        self._queues = queues
        self._submitter = partial(
            submitter_kind(), max_waiting=max_waiting, on_scheduled=on_scheduled, topics=topics, shedding=self.shedding
        )
        self._node_id = node_id
        self._engines = (node_id or "",) if engines is None else engines
        self._parts: _Parts | None = None
        self._why_closed = "the store is being opened"
        if store is not None:
            self.open(store)

    def open(self, store: Store) -> None:
        """Sets the store: calls are answered from now on."""
        self._parts = _Parts(store, self._submitter, self._queues, self._history, self._events)
        store.events.start(self._events)

    def not_open(self, reason: str) -> None:
        """Gives the reason with which calls are refused until `open`."""
        self._why_closed = reason

    @property
    def _opened(self) -> _Parts:
        if self._parts is None:
            raise StoreUnavailable(self._why_closed)
        return self._parts

    @property
    def bulk(self) -> Bulk:
        """Changes of every task that a filter matches. StoreUnavailable before the store is open."""
        return self._opened.bulk

    @property
    def feed(self) -> Feed:
        """Reads the feed of events. StoreUnavailable before the store is open."""
        return self._opened.feed

    @property
    def dead(self) -> DeadByReason:
        """Dead letters in groups. StoreUnavailable before the store is open."""
        return self._opened.dead

    @property
    def rules(self) -> Rules:
        """The rules of queues. StoreUnavailable before the store is open."""
        return self._opened.rules

    # -- schedule -----------------------------------------------------------------------------------------------

    async def submit(self, task: NewTask) -> Submitted:
        """As the `Submitter`'s; the answer warns where workers serve its function from other queues only."""
        parts = self._opened
        mark = parts.watcher.mark
        stored = await parts.submitter.submit(task)
        if stored.created:
            parts.watcher.stored(stored.task_id, mark)
        if task.type is TaskType.WORKER and stored.created:
            # The task is stored. If the warning cannot be looked up now, the answer comes without it.
            with suppress(DelayBoxError):
                return structs.replace(stored, warning=await parts.serving.elsewhere(task.name, stored.queue))
        return stored

    def submit_soon(self, task: NewTask, then: Then) -> bool:
        """As the `Submitter`'s."""
        return task.type is not TaskType.WORKER and self._opened.submitter.submit_soon(task, then)

    async def submit_many(self, tasks: Sequence[NewTask]) -> list[Submitted | DelayBoxError]:
        """As the `Submitter`'s."""
        return await self._opened.submitter.submit_many(tasks)

    async def submit_batch(self, tasks: Iterable[BatchItem]) -> list[Stored | DelayBoxError]:
        """As the `Submitter`'s."""
        return await self._opened.submitter.submit_batch(tasks)

    # -- query --------------------------------------------------------------------------------------------------

    async def list_pending(self, *, limit: int, skip: int = 0) -> list[TaskView]:
        """Tasks that wait, soonest due first, after skipping ``skip`` of them."""
        return await offset_pages.pending(self._opened.store, limit=limit, skip=skip)

    async def list_tasks(
        self, wanted: TaskQuery, *, cursor: str = "", limit: int = DEFAULT_PAGE, in_time_s: float = 0.0
    ) -> Page:
        """Tasks in pages; see store.pages for the order. InvalidTask for a bad cursor."""
        found = await task_lists.page(self._opened.store, wanted, cursor=cursor, limit=limit, in_time_s=in_time_s)
        items = await self._opened.rules.with_reason(await self._opened.serving.all_completed(found.items))
        return replace(found, items=await self._opened.history.put_off(items))

    async def dead_letters(self, wanted: TaskQuery, *, cursor: str = "", limit: int = DEFAULT_PAGE) -> Page:
        """Dead letters in pages, newest first."""
        return await self.list_tasks(replace(wanted, state=TaskState.FAILED), cursor=cursor, limit=limit)

    async def get(self, task_id: str, *, wait_ms: int = 0) -> TaskView:
        """One task wherever it stands, finished ones while their result is kept or their end is remembered.

        ``wait_ms``: it is answered when the task has ended, or after so long.

        InvalidTask for text that is no id, TaskNotFound, and TaskFinished where there is no record and its time is
        past.
        """
        raw = ids.parse(task_id)
        if wait_ms:
            await self._wait(task_id, wait_ms)
        found = await self._opened.lookup.find(raw)
        shown = of_found(raw, found)
        if shown is not None:
            (shown,) = await self._opened.rules.with_reason([await self._opened.serving.completed(shown)])
            return put_off(await self._opened.history.completed(shown))
        if found.place == "quarantine":
            raise TaskNotFound(f"task {task_id} {UNREADABLE}")
        if found.place:
            raise TaskNotFound(
                f"task {task_id} is there, but was written by a newer DelayBox or is damaged; see `delaybox fsck`"
            )
        remembered = await self._opened.history.view(raw)
        if remembered is not None:
            return remembered
        if ids.due_ms(raw) <= found.now_ms:
            raise TaskFinished(f"task {task_id} has finished, was cancelled, or never was; nothing of it is kept")
        raise TaskNotFound(f"no task {task_id}: it was cancelled, or never was")

    async def id_of_key(self, key: str) -> str:
        """The id of the task that an idempotency key names, wherever that stands. TaskNotFound."""
        return ids.render(await by_key.id_of(self._opened.store, key))

    async def history(self, wanted: HistoryQuery, *, cursor: str = "", limit: int = DEFAULT_PAGE) -> HistoryPage:
        """How tasks ended, in pages, the newest end first. InvalidTask for a bad cursor."""
        return await self._opened.history.page(wanted, cursor=cursor, limit=limit)

    async def _wait(self, task_id: str, for_ms: int) -> None:
        watch = await self.watch([task_id], ends_only=True)
        try:
            # A node that stops ends the wait early: the caller gets the present state, and not an error.
            with suppress(TimeoutError, StoreUnavailable):
                async with asyncio.timeout(for_ms / 1000):
                    async for _ in watch:
                        pass
        finally:
            watch.close()

    async def watch(self, task_ids: Sequence[str], *, ends_only: bool = False) -> Watch:
        """Begins to wait for tasks; InvalidTask for text that is no id. Close the watch if its end is not awaited."""
        return self._opened.watcher.watch([ids.parse(task_id) for task_id in task_ids], ends_only=ends_only)

    async def end_waits(self) -> None:
        """Ends every watch and every reader of events, those of later calls too, so that callers go to another node.
        Everything else is answered on. Harmless when repeated."""
        if self._parts is not None:
            await self._parts.feed.close()
            await self._parts.watcher.close()

    async def close(self) -> None:
        """No call is under way any more: writes what is left. Harmless when repeated."""
        await self.end_waits()
        if self._parts is not None:
            await self._parts.history.close()
            await self._parts.store.events.close()

    async def queues(self, *, pending: bool = True) -> QueueList:
        """Every queue with tasks pending, ready or in flight, or fired in the last minute.

        Without ``pending`` what only waits for its time is not counted, which costs far less.
        """
        return await self._opened.queues.every(pending=pending)

    async def queue_waits(self) -> list[QueueWait]:
        """The queues with due tasks, those first whose oldest waits longest; bounded, about a second old."""
        return await self._opened.queues.waits()

    async def dashboard_secret(self) -> str:
        """What all nodes sign the dashboard's cookies with, where none is configured."""
        return await dashboard_secret.shared(self._opened.store)

    async def nodes(self) -> list[LivingNode]:
        """The living nodes, each with its members."""
        return nodes_of(await living(self._opened.store, LIVE_NODE_MS))

    async def forecast(self, from_ms: int, to_ms: int, step_ms: int) -> list[ForecastStep]:
        """Tasks due per step, in steps of whole buckets from the bucket that holds ``from_ms``.

        InvalidTask for a step that is no multiple of a bucket, a range that ends before it begins, or too many steps.
        """
        width = self._opened.store.bucket_ms
        if step_ms <= 0 or step_ms % width:
            raise InvalidTask(
                "step", f"step {step_ms} ms is not a multiple of {width} ms; give a whole number of those"
            )
        if to_ms <= from_ms:
            raise InvalidTask("to", f"to {to_ms} is not after from {from_ms}; give a later end")
        first = from_ms // width
        size = step_ms // width
        steps = -(-(to_ms - first * width) // step_ms)
        if steps > MAX_STEPS:
            raise InvalidTask(
                "step", f"the range has {steps} steps of {step_ms} ms, over {MAX_STEPS}; give a longer step"
            )
        sums = await self._opened.store.forecast(first, first + steps * size, size)
        return [ForecastStep(first * width + i * step_ms, sums.get(i, 0)) for i in range(steps)]

    async def outlook(self, from_ms: int, to_ms: int, step_ms: int) -> Outlook:
        """As `forecast`, for a picture: in bounded time, however far it goes. Where very many buckets hold tasks, the
        counts are estimates. InvalidTask for more than `outlook.MAX_STEPS` steps."""
        width = self._opened.store.bucket_ms
        size = max(1, step_ms // width)
        first = from_ms // width
        return await outlook(self._opened.store, first, -(-(to_ms - first * width) // (size * width)), size)

    async def scaling(self, asked: ScalingQuery) -> ScalingAnswer:
        """How many processes or workers are needed, with the terms of the figure. StoreUnavailable."""
        return await self._opened.scaler.ask(asked)

    async def due_soon(self) -> dict[str, int]:
        """How many stored tasks become due within some times ahead, by their name such as 1m."""
        return await self._opened.scaler.due()

    async def health(self) -> tuple[StoreHealth, int]:
        """How the servers are, and how many kinds of due tasks (type, function, queue) nobody serves."""
        await self._opened.serving.unserved()
        return await self._opened.health.ask(), self._opened.serving.kinds_unserved

    async def counts(self) -> StoreCounts:
        """How many tasks are in each state, over all partitions."""
        return await counts_of(self._opened.store)

    async def counts_there(self) -> StoreCounts:
        """As `counts`, of the servers that answer. StoreUnavailable where none does."""
        return await counts_there(self._opened.store, self._opened.apart)

    def servers_away(self, counts: StoreCounts) -> dict[str, bool]:
        """For each primary of a cluster whether it is away, also by what could not be counted; none of one server."""
        store = self._opened.store
        silent = {store.shards.of[p] for p in counts.away}
        return {f"{p.address[0]}:{p.address[1]}": p.away or p.shard in silent for p in store.servers.primaries()}

    async def check(self) -> Readiness:
        """Checks three things: whether the store would take a new task now (by a real script), whether this node's
        engines still beat, and whether due tasks wait that nobody serves.
        """
        try:
            parts = self._opened
        except StoreUnavailable as error:
            return Readiness(False, str(error), store=False)
        return await look(parts.store, parts.serving, self._node_id, self._engines, parts.probed)

    # -- control ------------------------------------------------------------------------------------------------

    async def cancel(self, task_id: str, *, running: bool = False, free_key: bool = False) -> bool:
        """Cancels a pending task; TaskRunning while it is leased, TaskNotFound where nothing is pending.

        ``running``: if a worker runs the task, or a node its command, that one is asked to stop it, and the answer is
        True.
        ``free_key``: its idempotency key may be used again at once; also works for a task that is cancelled already.
        """
        raw = ids.parse(task_id)
        before = await self._opened.history.pending([raw])
        word = (await self._opened.store.cancel([raw], free_key=free_key))[0]
        await self._opened.history.cancelled(before, [raw], [word])
        if word == "running" and running:
            found = await self._opened.store.get(raw)
            if found.place == "lease" and read(raw, found.value).type in _STOPPABLE:
                if await ask_to_stop(self._opened.store, ids.render(raw)):
                    return True
                raise TaskRunning(f"task {task_id} is running and nobody who runs tasks hears; wait for it to end")
        if word != "cancelled":
            raise refusal(task_id, word)
        return False

    async def reschedule(
        self,
        task_id: str,
        *,
        due_ms: int | None = None,
        delay_ms: int | None = None,
        priority: Priority | None = None,
    ) -> int:
        """Moves a pending task; returns its new due time (ms). Errors as `cancel`."""
        raw = ids.parse(task_id)
        before = await self._opened.history.before_change([raw])
        word, due = await self._opened.store.reschedule(raw, due_ms=due_ms, delay_ms=delay_ms, priority=priority)
        if word != "moved":
            raise refusal(task_id, word)
        self._opened.history.changed(before, before, due_ms=due)
        return due

    async def update(
        self,
        task_id: str,
        *,
        due_ms: int | None = None,
        delay_ms: int | None = None,
        priority: Priority | None = None,
        payload: bytes | None = None,
        labels: Mapping[str, str] | None = None,
        zone: str | None = None,
    ) -> TaskView:
        """Changes the given parts of a pending task; the task as it is then. Errors as `cancel`."""
        raw = ids.parse(task_id)
        if payload is None and labels is None and zone is None:
            found = await self._opened.store.get(raw)
            due = await self.reschedule(task_id, due_ms=due_ms, delay_ms=delay_ms, priority=priority)
            return await self._changed(raw, found, due, priority)
        await self._opened.submitter.labels.fresh()
        indexed = self._opened.submitter.labels.names
        word = "changed"
        for _ in range(_UPDATE_TRIES):
            found = await self._opened.store.get(raw)
            if found.place != "home":
                raise refusal(task_id, PLACES.get(found.place, "unknown"))
            try:
                new, apart = changed(
                    raw,
                    found,
                    due_ms=due_ms,
                    delay_ms=delay_ms,
                    priority=priority,
                    payload=payload,
                    labels=labels,
                    zone=zone,
                    indexed=indexed,
                )
            except UnreadableRecord:
                raise refusal(task_id, "newer") from None
            word, due = await self._opened.store.update(raw, found.value, new, apart)
            if word == "moved":
                now = structs.replace(read(raw, new), body=apart or read(raw, new).body)
                self._opened.history.changed({raw: now}, [raw], due_ms=due)
                return await self._changed(raw, structs.replace(found, value=new, body=apart), due, priority)
            if word != "changed":
                break
        raise refusal(task_id, word)

    async def _changed(self, raw: bytes, found: Found, due_ms: int, priority: Priority | None) -> TaskView:
        """The task as it is after a change that was made. ``found``: before its time or priority changed."""
        now = None
        with suppress(TaskNotFound):
            now = await self.get(ids.render(raw))
            if not now.remembered:
                return now
        # It was due at once, and was carried out between the change and this look.
        view = of_found(raw, found)
        if view is None:
            if now is None:
                raise refusal(ids.render(raw), "unknown")
            return now
        then = view.priority if priority is None else priority
        return structs.replace(view, due_ms=due_ms, state=TaskState.READY, priority=then)

    async def run_now(self, task_id: str) -> int:
        """Makes a pending task due at once; returns that moment (ms)."""
        return await self.reschedule(task_id, delay_ms=0)

    async def replay(self, task_id: str) -> None:
        """Brings a dead letter back, due at once, its attempts forgotten."""
        raw = ids.parse(task_id)
        before = await self._opened.history.before_replay([raw])
        word = (await self._opened.store.replay([raw]))[0]
        if word == "newer":
            raise refusal(task_id, word)
        if word != "replayed":
            raise no_dead_letter(task_id)
        self._opened.history.changed(before, before, due_ms=self._opened.store.now_ms())

    async def discard(self, task_id: str) -> None:
        """Deletes a dead letter for good."""
        raw = ids.parse(task_id)
        if not await self._opened.store.discard(ids.partition(raw) % self._opened.store.partitions, [raw]):
            raise no_dead_letter(task_id)
