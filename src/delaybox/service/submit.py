"""Stores new tasks: one by one, sharing round trips, or many at once."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from functools import partial
from itertools import islice
from time import perf_counter
from typing import TypeVar

from delaybox.core import ids
from delaybox.core.errors import (
    DelayBoxError,
    IdempotencyConflict,
    KeyCancelled,
    Overloaded,
    PartAway,
    PastDue,
    StoreUnavailable,
)
from delaybox.core.task import NewTask, Submitted, TaskType
from delaybox.otel import tracing
from delaybox.service import arrivals
from delaybox.service.arrivals import Arrivals
from delaybox.service.functions import OwnQueues
from delaybox.service.shedding import Shedding
from delaybox.service.turns import Turns
from delaybox.store.batches import MAX_BODY_BYTES
from delaybox.store.label_entries import draft_with
from delaybox.store.label_index import IndexedLabels
from delaybox.store.loader import PATIENCE_S
from delaybox.store.record import STUB_OVER, Draft, draft, encoded_head
from delaybox.store.replies import MAX_REPLACED
from delaybox.store.store import MAX_ITEMS, MAX_RECORD_BYTES, Batch, Store, Stored
from delaybox.wire import body as wire_body
from delaybox.wire.encoded import EncodedTask, TaskKind
from delaybox.wire.json.moments import render_moment
from delaybox.wire.topics import TopicRules

_CHUNKS_UNDER_WAY = 2
_CHUNKS_AT_SEVERAL = 4
"""The same where there are several servers: one gets several in a row, and another one can begin with the next."""
_UNCONFIRMED = 16
"""Most round trips under way where each waits until it is confirmed, which may take a second or two."""
_SOON_S = 0.002
"""The next one waits this long for the one before, so that it carries more tasks."""
_PATIENCE_S = 0.25
"""The same where nothing is confirmed and there are several servers: one that hangs holds up the others so long."""
_MOST_TURNS = 16
"""Turns of the event loop for which a round waits for more tasks, as long as some come in each turn."""
_MOST_KINDS = 4_096
_AGAIN_S = 0.05
_Item = TypeVar("_Item")

Then = Callable[["Submitted | BaseException"], None]
"""What is done with the answer to one task, or with the error that is its answer. It must not raise."""

BatchItem = EncodedTask | NewTask | DelayBoxError
"""A task of a batch, or the error that is its answer."""


class _Soon:
    """In place of a future, for a caller that does not wait in a coroutine: a future wakes its task one turn later, and
    both cost more than the answer."""

    __slots__ = ("_own", "_task", "_then")

    def __init__(self, task: NewTask, own: OwnQueues, then: Then) -> None:
        self._task = task
        self._own = own
        self._then = then

    def done(self) -> bool:
        """Its caller never goes away."""
        return False

    def set_result(self, stored: Stored) -> None:
        self._then(_submitted(self._task, stored, self._own))

    def set_exception(self, error: BaseException) -> None:
        self._then(error)


_Waiter = asyncio.Future[Stored] | _Soon
_Waiting = tuple[Draft, _Waiter, float]
"""A task, who waits for it, and until when it is sent again."""


class Submitter:
    """Stores tasks in one store.

    Calls of `submit` that arrive together share one round trip; each is answered only after its own task is stored.
    ``max_waiting``: tasks that may wait for the store before callers get Overloaded.
    ``on_scheduled``: called with how many were created and how many were duplicates by key.
    ``topics``: which Kafka topics tasks may name, where Kafka is on. PUB_SUB tasks of one message key then lie in one
    partition, so that they are sent in the order of their due times. ``arriving``: calls for whose tasks a round trip
    waits a moment. ``shedding`` is told how long tasks wait here.
    """

    def __init__(
        self,
        store: Store,
        *,
        max_waiting: int = 20_000,
        on_scheduled: Callable[[int, int], None] | None = None,
        topics: TopicRules | None = None,
        arriving: Arrivals = arrivals.here,
        shedding: Shedding | None = None,
    ) -> None:
        self._store = store
        self._arriving = arriving
        self._max_waiting = max_waiting
        self._shedding = shedding or Shedding()
        self._on_scheduled = on_scheduled
        self._topics = topics
        self._own = OwnQueues(store)
        self.labels = IndexedLabels(store)
        self._heads: dict[TaskKind, tuple[bytes, bytes]] = {}
        self._heads_version = -1
        self._waiting: list[_Waiting] = []
        self._oldest = 0.0
        """Since when the first of these waits for this process, and for no round trip."""
        self._crowded = False  # the last round had no room for all
        self._pump_task: asyncio.Task[None] | None = None
        self._turns = Turns(store.shards)
        self._rounds: set[asyncio.Task[None]] = set()
        self._under_way: Counter[int] = Counter()
        """Round trips by the number of the server, where there are several."""
        self._held: dict[int, list[_Waiting]] = {}
        """What waits for round trips that are under way at its server."""
        self._held_count = 0

    async def submit(self, task: NewTask) -> Submitted:
        """Stores one task. IdempotencyConflict, Overloaded, StoreFull, or StoreUnavailable (outcome unknown)."""
        if task.queue_unstated:
            await self._own.fresh()
        if (task.labels or task.name) and self.labels.stale:
            await self.labels.fresh()
        answer = _submitted(task, await self._enqueue(self._draft(task)), self._own)
        if isinstance(answer, DelayBoxError):
            raise answer
        return answer

    def submit_soon(self, task: NewTask, then: Then) -> bool:
        """As `submit`, where nothing has to be read or waited for before; ``then`` gets the answer when it is there.

        False: call `submit` instead, which also says why a task is refused. Errors of the task itself are raised.
        """
        stale = task.queue_unstated or ((task.labels or task.name) and self.labels.stale)
        if stale or len(self._waiting) + self._held_count >= self._max_waiting:
            return False
        self._put((self._draft(task), _Soon(task, self._own, then), 0.0))
        return True

    def _enqueue(self, new: Draft) -> asyncio.Future[Stored]:
        if (count := len(self._waiting) + self._held_count) >= self._max_waiting:
            raise Overloaded(f"{count} tasks already wait for Redis; try again in a second")
        future: asyncio.Future[Stored] = asyncio.get_running_loop().create_future()
        self._put((new, future, 0.0))
        return future

    def _put(self, waiting: _Waiting) -> None:
        if not self._waiting:
            self._oldest = perf_counter()
        self._waiting.append(waiting)
        if self._pump_task is None:
            self._pump_task = asyncio.ensure_future(self._pump())

    async def _pump(self) -> None:
        # One round trip at a time: with two under way each would carry half as many tasks.
        while self._waiting:
            await self._gather()
            taken = self._take()
            if self._store.shards.several:
                await self._round_at_each(taken)
                self._answered()
                continue
            if not self._store.runner.confirms:
                await self._round(taken)
                self._answered()
                continue
            # A connection that waits carries nothing else, so the next round begins on another one.
            self._rounds.add(begun := asyncio.create_task(self._round(taken)))
            begun.add_done_callback(self._rounds.discard)
            await asyncio.wait({begun}, timeout=_SOON_S)
            if len(self._rounds) >= _UNCONFIRMED:
                await asyncio.wait(self._rounds, return_when=asyncio.FIRST_COMPLETED)
            self._answered()
        self._pump_task = None

    def _take(self) -> list[_Waiting]:
        """The tasks of the next round."""
        now = perf_counter()
        waited = now - self._oldest
        if self._crowded:
            # Each round takes as long as the one before, and the last of these wait for all of them.
            waited *= max(1.0, len(self._waiting) / MAX_ITEMS)
        self._shedding.waited(waited)
        taken, self._waiting = self._waiting[:MAX_ITEMS], self._waiting[MAX_ITEMS:]
        self._crowded, self._oldest = bool(self._waiting), now
        return taken

    def _answered(self) -> None:
        """A round trip is over. Those that came meanwhile have waited for the store, and not for this process; where
        there are more than a round carries, they wait for each other."""
        if not self._crowded:
            self._oldest = perf_counter()

    async def _round_at_each(self, taken: Sequence[_Waiting]) -> None:
        """A round at each server. What goes to one that has not done with those before waits by itself: a server that
        hangs holds up no tasks for others."""
        groups: dict[int, tuple[list[_Waiting], list[Batch], list[Sequence[int]]]] = {}
        for batch, where in zip(*self._batches([new for new, _, _ in taken], waits=True), strict=True):
            mine, batches, places = groups.setdefault(self._store.shards.of[batch.partition], ([], [], []))
            batches.append(batch)
            places.append(range(len(mine), len(mine) + len(where)))
            mine += [taken[i] for i in where]
        begun: set[asyncio.Task[None]] = set()
        for server, (mine, batches, places) in groups.items():
            if self._busy(server):
                self._held.setdefault(server, []).extend(mine)
                self._held_count += len(mine)
                continue
            self._under_way[server] += 1
            begun.add(task := asyncio.create_task(self._round(mine, batches, places)))
            task.add_done_callback(partial(self._over, server))
        self._rounds |= begun
        if begun:
            await asyncio.wait(begun, timeout=_SOON_S if self._store.runner.confirms else _PATIENCE_S)

    def _busy(self, server: int) -> bool:
        """Whether a server gets no further round yet."""
        return self._under_way[server] >= (_UNCONFIRMED if self._store.runner.confirms else 1)

    def _over(self, server: int, round_: asyncio.Task[None]) -> None:
        self._rounds.discard(round_)
        self._under_way[server] -= 1
        if held := self._held.pop(server, []):
            self._held_count -= len(held)
            self._put(held[-1])
            # They came before all that waits: of two tasks that replace one another the later one stays.
            self._waiting = held + self._waiting[:-1]

    async def _round(
        self, taken: Sequence[_Waiting], batches: Sequence[Batch] = (), places: Sequence[Sequence[int]] = ()
    ) -> None:
        """Stores tasks and answers their callers. ``batches``, ``places``: as `_batches` has divided them; none: it is
        yet to do."""
        answers: Sequence[Stored | BaseException]
        drafts = [new for new, _, _ in taken]
        try:
            answers = await (self._store_batches(drafts, batches, places) if batches else self._store_all(drafts))
        except Exception as error:  # noqa: BLE001 - a defect here must not leave callers waiting for ever
            answers = [error] * len(taken)
        for (new, future, until), answer in zip(taken, answers, strict=True):
            if future.done():
                continue  # the caller has gone; its task is stored all the same
            if isinstance(answer, PartAway) and self._later(new, future, until):
                continue
            if isinstance(answer, BaseException):
                future.set_exception(answer)
            else:
                future.set_result(answer)

    def _later(self, new: Draft, future: _Waiter, until: float) -> bool:
        """Sends a task again in a moment: its part of the store is away, so nothing of it was sent. False: it has been
        tried for long enough."""
        loop = asyncio.get_running_loop()
        until = until or loop.time() + PATIENCE_S
        if loop.time() > until:
            return False
        loop.call_later(_AGAIN_S, self._put, (new, future, until))
        return True

    async def _gather(self) -> None:
        """Waits for tasks that other coroutines are about to submit, because a round trip costs 0.23 ms of CPU even
        when empty."""
        await self._arriving.wait()
        seen = 0
        for _ in range(_MOST_TURNS):
            if seen == len(self._waiting) or len(self._waiting) >= MAX_ITEMS:
                return
            seen = len(self._waiting)
            await asyncio.sleep(0)

    async def submit_many(self, tasks: Sequence[NewTask]) -> list[Submitted | DelayBoxError]:
        """Stores many; per task, in order, its answer or its error. One chunk is encoded while others are stored."""
        if any(task.queue_unstated for task in tasks):
            try:
                await self._own.fresh()
            except DelayBoxError as error:
                return [error] * len(tasks)
        if self.labels.stale and any(task.labels or task.name for task in tasks):
            try:
                await self.labels.fresh()
            except DelayBoxError as error:
                return [error] * len(tasks)
        answers = await self._store_many(tasks, self._draft)
        return [_submitted(task, answer, self._own) for task, answer in zip(tasks, answers, strict=True)]

    async def submit_batch(self, tasks: Iterable[BatchItem]) -> list[Stored | DelayBoxError]:
        """As `submit_many`, for tasks that a front end has read only as far as storing needs.

        The iterable is read chunk by chunk, so one chunk is read while another is stored.
        """
        try:
            await self._own.fresh()
            if self.labels.stale:
                await self.labels.fresh()
        except DelayBoxError as error:
            return [error for _ in tasks]
        if self._heads_version != self._own.version or len(self._heads) > _MOST_KINDS:
            # A function's own queue may have changed since.
            self._heads_version = self._own.version
            self._heads.clear()
        return await self._store_many(tasks, self._draft_of)

    def _draft_of(self, item: BatchItem) -> Draft:
        if not isinstance(item, EncodedTask):
            if isinstance(item, NewTask):
                return self._draft(item)
            raise item
        kind, body = item.kind, item.body
        if self.labels.names and self.labels.may_have(kind.name, body):
            return self._labelled(item)
        known = self._heads.get(kind)
        if known is None:
            known = self._heads[kind] = encoded_head(kind, self._own.queue(kind))
        if len(body) > STUB_OVER:
            return Draft(item.due48, known[1], None, b"", body)
        return Draft(item.due48, known[0] + body, None, b"", None)

    def _labelled(self, item: EncodedTask) -> Draft:
        """A task that may have a label that is indexed."""
        kind, body = item.kind, item.body
        with_body, apart = encoded_head(kind, self._own.queue(kind))
        large = len(body) > STUB_OVER
        new = Draft(item.due48, apart if large else with_body + body, None, b"", body if large else None)
        new.labels = self.labels.entry_of(kind.name, body)
        return new

    async def _store_many(self, items: Iterable[_Item], make: Callable[[_Item], Draft]) -> list[Stored | DelayBoxError]:
        out: list[Stored | DelayBoxError] = []
        running: deque[asyncio.Task[list[Stored | DelayBoxError]]] = deque()
        coming = iter(items)
        most = _CHUNKS_AT_SEVERAL if self._store.shards.several else _CHUNKS_UNDER_WAY
        if self._store.runner.confirms:
            most = _UNCONFIRMED
        while chunk := list(islice(coming, MAX_ITEMS)):
            running.append(asyncio.create_task(self._store_each(chunk, make)))
            began = perf_counter()
            await asyncio.sleep(0)  # lets the event loop send it before the next one is encoded
            self._shedding.waited(perf_counter() - began)
            if len(running) > most:
                out += await running.popleft()
        for storing in running:
            out += await storing
        return out

    async def _store_each(self, items: Sequence[_Item], make: Callable[[_Item], Draft]) -> list[Stored | DelayBoxError]:
        """As `_store_all`. An item of which no draft can be made is answered with its error; the others are stored."""
        answers: list[Stored | DelayBoxError] = []
        drafts: list[Draft] = []
        for item in items:
            try:
                drafts.append(make(item))
                answers.append(_NO_ANSWER)
            except DelayBoxError as error:
                answers.append(error)
        replies = await self._store_patiently(drafts)
        if len(replies) == len(items):
            return replies
        stored = iter(replies)
        return [next(stored) if answer is _NO_ANSWER else answer for answer in answers]

    async def _store_patiently(self, drafts: list[Draft]) -> list[Stored | DelayBoxError]:
        """As `_store_all`; what belongs to a part of the store that is away is sent again for a moment."""
        replies = await self._store_all(drafts)
        loop = asyncio.get_running_loop()
        until = loop.time() + PATIENCE_S
        while away := [i for i, reply in enumerate(replies) if isinstance(reply, PartAway)]:
            if loop.time() > until:
                break
            await asyncio.sleep(_AGAIN_S)
            for i, reply in zip(away, await self._store_all([drafts[i] for i in away]), strict=True):
                replies[i] = reply
        return replies

    def _draft(self, task: NewTask) -> Draft:
        if task.reject_past and task.delay_ms is None:
            now = self._store.now_ms()
            due_ms = now if task.due_ms is None else task.due_ms
            if due_ms < now:
                ago = timedelta(seconds=-(-(now - due_ms) // 1_000))
                raise PastDue(
                    "at",
                    f"at {render_moment(due_ms)} is {ago} (h:mm:ss) in the past; "
                    "give a later moment, or leave reject_past out to run it at once",
                )
        asked, task = task, self._own.resolved(task)
        new = draft(task)
        if self.labels.names and (task.labels or task.name):
            draft_with(new, self.labels.names, task.labels, task.name)
        if task is not asked and new.key is not None:
            # The fingerprint is that of the request, so that the same request finds the same task again, even if a
            # queue was announced meanwhile.
            new.fingerprint = wire_body.fingerprint(asked)
        if self._topics is not None and task.header and task.type is TaskType.PUB_SUB:
            self._topics.topic(task.header)
            new.message_key = self._topics.key(task.header)
        return new

    async def _store_all(self, drafts: list[Draft]) -> list[Stored | DelayBoxError]:
        return await self._store_batches(drafts, *self._batches(drafts))

    async def _store_batches(
        self, drafts: list[Draft], batches: Sequence[Batch], places: Sequence[Sequence[int]]
    ) -> list[Stored | DelayBoxError]:
        answers: list[Stored | DelayBoxError] = [_NO_ANSWER] * len(drafts)
        created = known = 0
        with self._turns.under_way([batch.partition for batch in batches]):
            found = await self._store.schedule(batches)
        for replies, where in zip(found, places, strict=True):
            if isinstance(replies, BaseException):
                if not isinstance(replies, DelayBoxError):
                    raise replies
                for i in where:
                    answers[i] = replies
                continue
            for i, stored in zip(where, replies, strict=True):
                if stored.created:
                    answers[i] = stored
                    created += 1
                else:
                    answers[i] = _key_error(stored, drafts[i]) if stored.refused else stored
                    known += 1
        if self._on_scheduled is not None:
            self._on_scheduled(created, known)
        if self._store.events.wanted:
            self._store.events.scheduled(zip(drafts, answers, strict=True))
        return answers

    def _batches(self, drafts: list[Draft], *, waits: bool = False) -> tuple[list[Batch], list[Sequence[int]]]:
        """Splits by partition (that of a key, else one a call in turn) and by bytes; with each, the drafts' places.
        ``waits``: as of `Turns.next`."""
        turn = self._turns.next(self._busy, waits=waits)
        plain = all(d.key is None and d.body is None and d.message_key is None for d in drafts)
        if plain and sum(len(d.record) for d in drafts) <= MAX_RECORD_BYTES:
            return [Batch(turn, drafts)], [range(len(drafts))]
        batches: list[Batch] = []
        places: list[Sequence[int]] = []
        open_: dict[tuple[int, bool], tuple[Batch, list[int], list[int]]] = {}
        for i, d in enumerate(drafts):
            decides = d.message_key if d.key is None else d.key
            p = turn if decides is None else self._store.partition_of(decides)
            size, extra = len(d.record), len(d.body or b"")
            entry = open_.get((p, d.replace))
            if d.replace and entry is not None and len(entry[1]) >= MAX_REPLACED:
                entry = None
            if entry is None or entry[2][0] + size > MAX_RECORD_BYTES or entry[2][1] + extra > MAX_BODY_BYTES:
                entry = (Batch(p, [], d.replace), [], [0, 0])
                open_[p, d.replace] = entry
                batches.append(entry[0])
                places.append(entry[1])
            entry[0].drafts.append(d)
            entry[1].append(i)
            entry[2][0] += size
            entry[2][1] += extra
        return batches, places


def submitter_kind() -> type[Submitter]:
    """What stores tasks: within spans where this process traces."""
    if tracing.spans is None:
        return Submitter
    from delaybox.service.traced import TracedSubmitter

    return TracedSubmitter


_NO_ANSWER = StoreUnavailable("the store gave no answer for this task")


def _submitted(task: NewTask, stored: Stored | DelayBoxError, own: OwnQueues) -> Submitted | DelayBoxError:
    if isinstance(stored, DelayBoxError):
        return stored
    task_id = ids.render(stored.task_id)
    return Submitted(task_id, stored.due_ms, stored.created, own.queue(task) if stored.created else "")


def _key_error(stored: Stored, new: Draft) -> IdempotencyConflict:
    """The error for a task whose idempotency key belongs to another task."""
    kind = KeyCancelled if stored.cancelled else IdempotencyConflict
    return kind((new.key or b"").decode(), ids.render(stored.task_id))
