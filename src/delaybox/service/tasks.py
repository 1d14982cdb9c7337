"""The use-cases every front end shares: submit, query, control. No front end talks to the store past this."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from google.protobuf.message import DecodeError

from delaybox.core import ids
from delaybox.core.errors import (
    DelayBoxError,
    IdempotencyConflict,
    InvalidTask,
    Overloaded,
    PastDue,
    PayloadTooLarge,
    StoreUnavailable,
    TaskFinished,
    TaskNotFound,
    TaskRunning,
)
from delaybox.core.lane import split
from delaybox.core.query import ForecastStep, Page, QueueStats, TaskFilter
from delaybox.core.task import NewTask, Priority, Submitted, TaskState, TaskType, TaskView
from delaybox.service.bulk import Bulk
from delaybox.service.quick import QuickDrafts, Read
from delaybox.service.serving import Serving, functions_unserved, live_nodes, served_lanes
from delaybox.service.watch import Watch, Watcher
from delaybox.store import lanes, listing, nodes, pages
from delaybox.store.lookup import Lookup
from delaybox.store.publish import ask_to_stop
from delaybox.store.record import Draft, UnreadableRecord, draft, read
from delaybox.store.store import MAX_BODY_BYTES, MAX_ITEMS, MAX_RECORD_BYTES, Batch, Store, Stored
from delaybox.store.views import changed, of_found
from delaybox.wire.grpc.bulk import frames
from delaybox.wire.topics import TopicRules

STALE_HEARTBEAT_MS = 5_000
MAX_STEPS = 10_000
_CHUNKS_UNDER_WAY = 2
_UPDATE_TRIES = 5
_Item = TypeVar("_Item")
_MOST_TURNS = 16
"""Turns of the event loop that a round waits for more tasks, while some come in each."""


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether this node can take and fire tasks, and if not, why; or what it cannot do all the same."""

    ok: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class StoreCounts:
    """Sums over all partitions."""

    pending: int
    ready: int
    in_flight: int
    dead: int
    quarantined: int


class Service:
    """Use-cases over one store.

    Calls of `submit` that arrive together share one round trip; each is answered only after its own task is stored.
    ``max_waiting``: tasks that may wait for the store before callers get Overloaded.
    ``node_id``: the node whose engine `check` asks after; None where no engine belongs to this process.
    ``on_scheduled``: told how many were created and how many were duplicates by key.
    ``topics``: what Kafka topics tasks may name, where Kafka is on. PUB_SUB tasks of one message key then lie in one
    partition, so that they are sent in the order of their due times.
    """

    def __init__(
        self,
        store: Store,
        *,
        max_waiting: int = 20_000,
        node_id: str | None = None,
        on_scheduled: Callable[[int, int], None] | None = None,
        topics: TopicRules | None = None,
    ) -> None:
        self._store = store
        self._lookup = Lookup(store)
        self._max_waiting = max_waiting
        self._node_id = node_id
        self._on_scheduled = on_scheduled
        self._topics = topics
        self._watcher = Watcher(store)
        self.bulk = Bulk(store)
        """Changes of every task that a filter matches."""
        self._serving = Serving(store)
        self._quick: QuickDrafts | None = None
        self._waiting: list[tuple[Draft, asyncio.Future[Stored]]] = []
        self._pump_task: asyncio.Task[None] | None = None
        self._turn = 0

    # -- submit -------------------------------------------------------------------------------------------------

    async def submit(self, task: NewTask) -> Submitted:
        """Stores one task. IdempotencyConflict, Overloaded, StoreFull, or StoreUnavailable (outcome unknown)."""
        answer = _submitted(task, await self._enqueue(self._draft(task)))
        if isinstance(answer, DelayBoxError):
            raise answer
        return answer

    def _enqueue(self, new: Draft) -> asyncio.Future[Stored]:
        if len(self._waiting) >= self._max_waiting:
            raise Overloaded(f"{len(self._waiting)} tasks already wait for Redis; try again in a second")
        future: asyncio.Future[Stored] = asyncio.get_running_loop().create_future()
        self._waiting.append((new, future))
        if self._pump_task is None:
            self._pump_task = asyncio.ensure_future(self._pump())
        return future

    async def _pump(self) -> None:
        # One round trip at a time: with two under way each would carry half as many tasks.
        while self._waiting:
            await self._gather()
            taken, self._waiting = self._waiting[:MAX_ITEMS], self._waiting[MAX_ITEMS:]
            answers: Sequence[Stored | BaseException]
            try:
                answers = await self._store_all([new for new, _ in taken])
            except Exception as error:  # noqa: BLE001 - a defect here must not leave callers waiting for ever
                answers = [error] * len(taken)
            for (_, future), answer in zip(taken, answers, strict=True):
                if future.done():
                    continue  # the caller went away; its task is stored all the same
                if isinstance(answer, BaseException):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)
        self._pump_task = None

    async def _gather(self) -> None:
        """Lets those arrive that the loop has in hand: a round trip costs 0.23 ms of CPU before it carries anything."""
        seen = 0
        for _ in range(_MOST_TURNS):
            if seen == len(self._waiting) or len(self._waiting) >= MAX_ITEMS:
                return
            seen = len(self._waiting)
            await asyncio.sleep(0)

    async def submit_many(self, tasks: Sequence[NewTask]) -> list[Submitted | DelayBoxError]:
        """Stores many; per task, in order, its answer or its error. One chunk is encoded while others are stored."""
        return list(map(_submitted, tasks, await self._store_many(tasks, self._draft)))

    async def submit_batch(
        self, raw: bytes, read: Read, *, payload_limit: int, most: int
    ) -> list[Stored | DelayBoxError]:
        """As `submit_many`, of a serialized ScheduleBatchRequest of 1 to ``most`` tasks. What ``read`` raises, too.

        InvalidTask for what is no batch, PayloadTooLarge for one with too many tasks.
        """
        if self._quick is None:
            self._quick = QuickDrafts(self._draft, payload_limit)
        try:
            raw, places = frames(raw)
        except DecodeError:
            raise InvalidTask(
                "request", "the request is not a delaybox.v1.ScheduleBatchRequest; see the contract"
            ) from None
        if not 1 <= len(places) <= most:
            if not places:
                raise InvalidTask("tasks", f"tasks is empty; send 1 to {most}")
            raise PayloadTooLarge("tasks", f"tasks holds {len(places)} tasks; send 1 to {most}", limit=most)
        quick = self._quick.of
        return await self._store_many(places, lambda place: quick(raw, place[0], place[1], read))

    async def _store_many(self, items: Sequence[_Item], make: Callable[[_Item], Draft]) -> list[Stored | DelayBoxError]:
        out: list[Stored | DelayBoxError] = []
        running: deque[asyncio.Task[list[Stored | DelayBoxError]]] = deque()
        for at in range(0, len(items), MAX_ITEMS):
            running.append(asyncio.create_task(self._store_each(items[at : at + MAX_ITEMS], make)))
            await asyncio.sleep(0)  # lets it leave before the next one is encoded
            if len(running) > _CHUNKS_UNDER_WAY:
                out += await running.popleft()
        for storing in running:
            out += await storing
        return out

    async def _store_each(self, items: Sequence[_Item], make: Callable[[_Item], Draft]) -> list[Stored | DelayBoxError]:
        """As `_store_all`; an item that no draft can be made of is answered with its error, the others are stored."""
        answers: list[Stored | DelayBoxError] = []
        drafts: list[Draft] = []
        for item in items:
            try:
                drafts.append(make(item))
                answers.append(_NO_ANSWER)
            except DelayBoxError as error:
                answers.append(error)
        replies = await self._store_all(drafts)
        if len(replies) == len(items):
            return replies
        stored = iter(replies)
        return [next(stored) if answer is _NO_ANSWER else answer for answer in answers]

    def _draft(self, task: NewTask) -> Draft:
        if task.reject_past and task.delay_ms is None:
            now = time.time_ns() // 1_000_000 + self._store.clock_offset_ms
            if (task.due_ms or 0) < now:
                raise PastDue(
                    "at", f"the due time {task.due_ms} is {now - (task.due_ms or 0)} ms in the past; give a later one"
                )
        new = draft(task)
        if self._topics is not None and task.header and task.type is TaskType.PUB_SUB:
            self._topics.topic(task.header)
            new.group = self._topics.key(task.header)
        return new

    async def _store_all(self, drafts: list[Draft]) -> list[Stored | DelayBoxError]:
        batches, places = self._batches(drafts)
        answers: list[Stored | DelayBoxError] = [_NO_ANSWER] * len(drafts)
        created = 0
        for replies, where in zip(await self._store.schedule(batches), places, strict=True):
            if isinstance(replies, BaseException):
                if not isinstance(replies, DelayBoxError):
                    raise replies
                for i in where:
                    answers[i] = replies
                continue
            for i, stored in zip(where, replies, strict=True):
                answers[i] = stored
                created += stored.created
        if self._on_scheduled is not None:
            duplicates = (
                sum(1 for a in answers if isinstance(a, Stored) and not a.created) if created < len(drafts) else 0
            )
            self._on_scheduled(created, duplicates)
        return answers

    def _batches(self, drafts: list[Draft]) -> tuple[list[Batch], list[Sequence[int]]]:
        """Splits by partition (that of the key or group, else one a call in turn) and by bytes; with each, the drafts'
        places."""
        self._turn = (self._turn + 1) % self._store.partitions
        plain = all(d.key is None and d.body is None and d.group is None for d in drafts)
        if plain and sum(len(d.record) for d in drafts) <= MAX_RECORD_BYTES:
            return [Batch(self._turn, drafts)], [range(len(drafts))]
        batches: list[Batch] = []
        places: list[Sequence[int]] = []
        open_: dict[int, tuple[Batch, list[int], list[int]]] = {}
        for i, d in enumerate(drafts):
            decides = d.group if d.key is None else d.key
            p = self._turn if decides is None else self._store.partition_of(decides)
            size, extra = len(d.record), len(d.body or b"")
            entry = open_.get(p)
            if entry is None or entry[2][0] + size > MAX_RECORD_BYTES or entry[2][1] + extra > MAX_BODY_BYTES:
                entry = (Batch(p, []), [], [0, 0])
                open_[p] = entry
                batches.append(entry[0])
                places.append(entry[1])
            entry[0].drafts.append(d)
            entry[1].append(i)
            entry[2][0] += size
            entry[2][1] += extra
        return batches, places

    # -- query --------------------------------------------------------------------------------------------------

    async def list_pending(self, *, limit: int, skip: int = 0) -> list[TaskView]:
        """Tasks that wait, soonest due first, after skipping ``skip`` of them."""
        return await listing.pending(self._store, limit=limit, skip=skip)

    async def list_tasks(self, wanted: TaskFilter, *, cursor: str = "", limit: int = 100) -> Page:
        """Tasks in pages; see store.pages for the order. InvalidTask for a bad cursor."""
        return await pages.page(self._store, wanted, cursor=cursor, limit=limit)

    async def dead_letters(self, wanted: TaskFilter, *, cursor: str = "", limit: int = 100) -> Page:
        """Dead letters in pages, newest first."""
        return await self.list_tasks(replace(wanted, state=TaskState.FAILED), cursor=cursor, limit=limit)

    async def get(self, task_id: str) -> TaskView:
        """One task wherever it stands, finished ones while their result is kept.

        InvalidTask for what is no id, TaskNotFound, and TaskFinished where there is no record and its time is past.
        """
        raw = ids.parse(task_id)
        found = await self._lookup.find(raw)
        shown = of_found(raw, found)
        if shown is not None:
            return await self._serving.completed(shown)
        if not found.place and ids.due_ms(raw) <= found.now_ms:
            raise TaskFinished(f"task {task_id} has finished, was cancelled, or never was; nothing of it is kept")
        raise TaskNotFound(f"no task {task_id}: it was cancelled, or never was")

    async def watch(self, task_ids: Sequence[str], *, ends_only: bool = False) -> Watch:
        """Begins to wait for tasks; InvalidTask for what is no id. Close the watch where its end is not awaited."""
        return self._watcher.watch([ids.parse(task_id) for task_id in task_ids], ends_only=ends_only)

    async def close(self) -> None:
        """Ends every watch. Harmless when repeated."""
        await self._watcher.close()

    async def queues(self) -> list[QueueStats]:
        """Every queue with tasks pending, ready or in flight, or fired in the last minute."""
        found = {(q.type, q.queue): q for q in await lanes.queues(self._store)}
        rates: dict[tuple[TaskType, str], float] = {}
        untold: set[TaskType] = set()
        complete = all(q.complete for q in found.values())
        living = await self.nodes()
        served = served_lanes(living)
        for node in living:
            if node.get("fires_in_place"):
                untold.add(TaskType.PUB_SUB)
            for key, rate in node.get("fired_per_s", {}).items():
                with suppress(ValueError):  # a newer node's task type
                    lane = split(key.encode())
                    rates[lane.type, lane.queue] = rates.get((lane.type, lane.queue), 0.0) + rate
        for task_type, queue in rates.keys() - found.keys():
            found[task_type, queue] = QueueStats(
                queue=queue, type=task_type, pending=0, ready=0, in_flight=0, complete=complete
            )
        return [
            replace(
                q,
                fired_per_s=None if q.type in untold else round(rates.get(at, 0.0), 3),
                unserved=functions_unserved(q.ready_lanes, served) if q.type is TaskType.WORKER else (),
            )
            for at, q in sorted(found.items(), key=lambda item: (item[0][0].value, item[0][1]))
        ]

    async def nodes(self) -> list[dict[str, Any]]:
        """The nodes heard of lately, each with what it said of itself."""
        return await live_nodes(self._store)

    async def forecast(self, from_ms: int, to_ms: int, step_ms: int) -> list[ForecastStep]:
        """Tasks due per step, in steps of whole buckets from the bucket that holds ``from_ms``.

        InvalidTask for a step that is no multiple of a bucket, a range that ends before it begins, or too many steps.
        """
        width = self._store.bucket_ms
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
        sums = await self._store.forecast(first, first + steps * size, size)
        return [ForecastStep(first * width + i * step_ms, sums.get(i, 0)) for i in range(steps)]

    async def counts(self) -> StoreCounts:
        """How much lies where, over all partitions."""
        all_ = await self._store.counts()
        return StoreCounts(
            sum(c.pending for c in all_),
            sum(c.due for c in all_),
            sum(c.in_flight for c in all_),
            sum(c.dead for c in all_),
            sum(c.quarantined for c in all_),
        )

    async def check(self) -> Readiness:
        """Runs a real script, and asks whether this node's engine still says it lives."""
        try:
            now = await self._store.ping()
            if self._node_id is None:
                return Readiness(True)
            facts = await nodes.facts(self._store, self._node_id)
        except DelayBoxError as error:
            return Readiness(False, str(error))
        if facts is None:
            return Readiness(False, "the engine of this node has not reported yet")
        if (ago := now - int(facts["seen_ms"])) > STALE_HEARTBEAT_MS:
            return Readiness(False, f"the engine of this node was last heard of {ago / 1000:.1f} s ago")
        return Readiness(True, "; ".join(facts.get("troubles", ())))

    # -- control ------------------------------------------------------------------------------------------------

    async def cancel(self, task_id: str, *, running: bool = False) -> bool:
        """Cancels a pending task; TaskRunning while it is leased, TaskNotFound where nothing is pending.

        ``running``: of one that a worker runs that worker is told to stop it, and the answer is True.
        """
        raw = ids.parse(task_id)
        word = (await self._store.cancel([raw]))[0]
        if word == "running" and running:
            found = await self._store.get(raw)
            if found.place == "lease" and read(raw, found.value).type is TaskType.WORKER:
                if await ask_to_stop(self._store, ids.render(raw)):
                    return True
                raise TaskRunning(f"task {task_id} is running and no node with workers hears; wait for it to end")
        if word != "cancelled":
            raise _refusal(task_id, word)
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
        word, due = await self._store.reschedule(
            ids.parse(task_id), due_ms=due_ms, delay_ms=delay_ms, priority=priority
        )
        if word != "moved":
            raise _refusal(task_id, word)
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
    ) -> TaskView:
        """Changes what is given of a pending task. Errors as `cancel`."""
        if payload is None and labels is None:
            await self.reschedule(task_id, due_ms=due_ms, delay_ms=delay_ms, priority=priority)
            return await self.get(task_id)
        raw = ids.parse(task_id)
        word = "changed"
        for _ in range(_UPDATE_TRIES):
            found = await self._store.get(raw)
            if found.place != "home":
                raise _refusal(task_id, _WORDS.get(found.place, "unknown"))
            try:
                new, apart = changed(
                    raw, found, due_ms=due_ms, delay_ms=delay_ms, priority=priority, payload=payload, labels=labels
                )
            except UnreadableRecord:
                raise _refusal(task_id, "newer") from None
            word, _ = await self._store.update(raw, found.value, new, apart)
            if word == "moved":
                return await self.get(task_id)
            if word != "changed":
                break
        raise _refusal(task_id, word)

    async def run_now(self, task_id: str) -> int:
        """Makes a pending task due at once; returns that moment (ms)."""
        return await self.reschedule(task_id, delay_ms=0)

    async def replay(self, task_id: str) -> None:
        """Brings a dead letter back, due at once, its attempts forgotten."""
        word = (await self._store.replay([ids.parse(task_id)]))[0]
        if word != "replayed":
            raise _refusal(task_id, word)

    async def replay_many(self, wanted: TaskFilter, *, limit: int = 1_000) -> int:
        """Brings back the dead letters that match, newest first, at most ``limit``; returns how many."""
        replayed = 0
        cursor = ""
        while replayed < limit:
            found = await self.dead_letters(wanted, cursor=cursor, limit=min(MAX_ITEMS, limit - replayed))
            by: dict[int, list[bytes]] = {}
            for shown in found.items:
                raw = ids.parse(shown.task_id)
                by.setdefault(ids.partition(raw), []).append(raw)
            for group in by.values():
                replayed += (await self._store.replay(group)).count("replayed")
            cursor = found.cursor
            if not cursor:
                break
        return replayed

    async def discard(self, task_id: str) -> None:
        """Deletes a dead letter for good."""
        raw = ids.parse(task_id)
        if not await self._store.discard(ids.partition(raw) % self._store.partitions, [raw]):
            raise _refusal(task_id, "unknown")


_NO_ANSWER = StoreUnavailable("the store gave no answer for this task")


def _submitted(task: NewTask, stored: Stored | DelayBoxError) -> Submitted | DelayBoxError:
    if isinstance(stored, DelayBoxError):
        return stored
    task_id = ids.render(stored.task_id)
    if stored.conflict:
        return IdempotencyConflict(task.idempotency_key or "", task_id)
    return Submitted(task_id, stored.due_ms, stored.created)


_WORDS = {"lease": "running", "dead": "dead", "quarantine": "quarantined"}


def _refusal(task_id: str, word: str) -> DelayBoxError:
    if word == "running":
        return TaskRunning(f"task {task_id} is running right now, so it cannot be changed; wait for it to end")
    if word == "newer":
        return TaskRunning(f"task {task_id} was written by a newer DelayBox; ask a node of that version")
    where = {"dead": "is a dead letter", "quarantined": "lies in quarantine"}.get(word, "is not pending")
    return TaskNotFound(f"task {task_id} {where}: it has finished, was cancelled, or never was pending")
