"""delaybox.v1.Scheduler. Each call parses, asks the service and renders."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import aclosing
from typing import Protocol

from google.protobuf.descriptor import ServiceDescriptor

from delaybox.api import call_scopes, changing
from delaybox.api.grpc.calls import Caller, Serialized
from delaybox.api.grpc.status import error_of
from delaybox.core.errors import DelayBoxError, IdempotencyConflict, InvalidTask, StoreUnavailable
from delaybox.core.limits import MAX_PAGE
from delaybox.core.query import Page, TaskQuery
from delaybox.core.task import NewTask, TaskType
from delaybox.service import Selection, Service, ShownRules
from delaybox.service import feed as following
from delaybox.store.store import Store, Stored
from delaybox.wire import scaling
from delaybox.wire.gen import scheduler_pb2 as pb
from delaybox.wire.in_trace import each_with_trace, with_trace
from delaybox.wire.json import queue_rules
from delaybox.wire.json.tasks import TaskRules, check_key, queue_of
from delaybox.wire.proto import feed, queries, rules, tasks, views
from delaybox.wire.proto.bulk import BatchReader
from delaybox.wire.proto.bulk import stored as stored_entry
from delaybox.wire.trace import NAMES, trace_in

MAX_WATCHED = 10_000
BATCHES_UNDER_WAY = 3
"""Requests of one stream that are under way: while one is stored, another is read and a third one's answers are
written."""

_WORDS_BYTES = 2 << 20
"""Most bytes of all error messages in the answer to a batch: clients accept 4 MiB by default."""
_NO_MORE_WORDS = "as said of others in this answer"

_Naming = (
    pb.GetRequest
    | pb.CancelRequest
    | pb.RescheduleRequest
    | pb.RunNowRequest
    | pb.ReplayDeadRequest
    | pb.DiscardDeadRequest
)
"""Requests that name one task, by its id or by its idempotency key."""

_Batches = asyncio.Queue[asyncio.Task[Serialized] | None]
"""Of one stream, in order; None: no more are taken."""


class _Ask(Protocol):
    """A call that lists tasks."""

    def __call__(self, wanted: TaskQuery, *, cursor: str, limit: int) -> Awaitable[Page]: ...


_ROOM_S = 5.0
"""For so long a stream of batches waits where calls with new tasks are refused."""


class Scheduler:
    """The calls. ``rules``: which tasks are taken."""

    def __init__(self, service: Service, rules: TaskRules) -> None:
        self._service = service
        self._streams: set[_Batches] = set()
        self._rules = rules
        self._reader = BatchReader(rules.max_payload_bytes)
        admit = service.shedding.admit
        self.before = {"Schedule": admit, "ScheduleBatch": admit}

    @property
    def descriptor(self) -> ServiceDescriptor:
        found: ServiceDescriptor = pb.DESCRIPTOR.services_by_name["Scheduler"]
        return found

    async def start(self, store: Store) -> None:
        """Does nothing, because the service itself is opened."""

    async def stop(self) -> None:
        """Ends watches and open streams, so that their callers go to another node."""
        for batches in self._streams:
            batches.put_nowait(None)
        await self._service.end_waits()

    paths: Mapping[str, str] = {"Schedule": "task"}
    """The path in a method's request of the fields that the checks name."""
    unparsed = frozenset({"ScheduleBatch", "ScheduleStream"})
    """Their requests are taken as bytes: see wire.proto.bulk."""

    # -- schedule -----------------------------------------------------------------------------------------------

    async def schedule(self, request: pb.ScheduleRequest, caller: Caller) -> pb.ScheduleResponse:
        if not request.HasField("task"):
            raise InvalidTask("task", "task is missing; say what is to be scheduled")
        with self._service.shedding.taken():
            stored = await self._service.submit(with_trace(self._new(request.task, caller), _trace(caller)))
        return pb.ScheduleResponse(
            id=stored.task_id,
            due_ms=stored.due_ms,
            created=stored.created,
            queue=stored.queue,
            warning=stored.warning,
        )

    async def schedule_batch(self, request: bytes, caller: Caller) -> Serialized:
        def read(asked: pb.NewTask) -> NewTask:
            return self._new(asked, caller)

        tasks = self._reader.tasks(request, read)
        if trace := _trace(caller):
            tasks = each_with_trace(tasks, trace)
        with self._service.shedding.taken(len(request)):
            return self._answer(await self._service.submit_batch(tasks))

    @staticmethod
    def _answer(answers: Sequence[Stored | DelayBoxError]) -> Serialized:
        words = 0
        results: list[bytes] = []
        for answer in answers:
            if not isinstance(answer, DelayBoxError):
                results.append(stored_entry(answer.task_id, answer.due_ms, created=answer.created))
                continue
            refused = pb.ScheduleResult()
            refused.error.CopyFrom(error_of(answer))
            if isinstance(answer, IdempotencyConflict):
                refused.id = answer.task_id
            if words > _WORDS_BYTES:
                refused.error.message = _NO_MORE_WORDS
            words += len(refused.error.message)
            results.append(pb.ScheduleBatchResponse(results=[refused]).SerializeToString())
        return Serialized(b"".join(results))

    async def schedule_stream(self, requests: AsyncIterator[bytes], caller: Caller) -> AsyncIterator[Serialized]:
        room = asyncio.Semaphore(BATCHES_UNDER_WAY)
        batches: _Batches = asyncio.Queue()

        async def take() -> None:
            await self._room()
            async for request in requests:
                batches.put_nowait(asyncio.create_task(self._of_stream(request, caller)))
                await room.acquire()

        taking = asyncio.create_task(take())
        taking.add_done_callback(lambda _: batches.put_nowait(None))
        self._streams.add(batches)
        try:
            while (batch := await batches.get()) is not None:
                response = await batch
                room.release()
                yield response
            if not taking.done():
                raise StoreUnavailable("this node is stopping; open the stream again at another one")
            await taking
        finally:
            self._streams.discard(batches)
            taking.cancel()
            while not batches.empty():
                if (batch := batches.get_nowait()) is not None:
                    batch.cancel()

    async def _room(self) -> None:
        """Returns when a stream may begin, of which nothing is read before. It waits first, because a client that sends
        before it hears may lose the status: asyncio's of grpc says "Internal error" then, as if something may have been
        done."""
        await self._service.shedding.room(_ROOM_S)

    async def _of_stream(self, request: bytes, caller: Caller) -> Serialized:
        with caller.hold(len(request)):
            return await self.schedule_batch(request, caller)

    def _new(self, asked: pb.NewTask, caller: Caller) -> NewTask:
        task = tasks.new_task(asked, self._rules)
        if task.type is TaskType.SHELL_CMD:
            call_scopes.require_type(caller.grant, task.type)
        return task

    # -- one task -----------------------------------------------------------------------------------------------

    async def get(self, request: pb.GetRequest, caller: Caller) -> pb.TaskInfo:
        return views.info(await self._service.get(await self._named(request)))

    async def cancel(self, request: pb.CancelRequest, caller: Caller) -> pb.CancelResponse:
        return pb.CancelResponse(
            signalled=await self._service.cancel(
                await self._named(request), running=request.running, free_key=request.free_key
            )
        )

    async def reschedule(self, request: pb.RescheduleRequest, caller: Caller) -> pb.TaskInfo:
        wanted = tasks.change(request, self._rules)
        task_id = await self._named(request)
        return views.info(await changing.change(self._service, caller.grant, task_id, wanted, self._rules.shell))

    async def _named(self, request: _Naming) -> str:
        """The id that a request names, or that its idempotency key does."""
        if not request.idempotency_key:
            return request.id
        if request.id:
            raise InvalidTask("idempotency_key", "id and idempotency_key are both given; give one of them")
        return await self._of_key(request.idempotency_key)

    async def _of_key(self, key: str) -> str:
        check_key("idempotency_key", key)
        return await self._service.id_of_key(key)

    async def run_now(self, request: pb.RunNowRequest, caller: Caller) -> pb.RunNowResponse:
        return pb.RunNowResponse(due_ms=await self._service.run_now(await self._named(request)))

    # -- many ---------------------------------------------------------------------------------------------------

    async def cancel_many(self, request: pb.CancelManyRequest, caller: Caller) -> pb.BulkResponse:
        if not request.ids:
            selection = _selection(request.selection)
            return views.changed(await self._service.bulk.cancel(selection, free_keys=request.free_keys))
        if request.HasField("selection"):
            raise InvalidTask("ids", "ids and selection are both given; give one of them")
        if len(request.ids) > MAX_WATCHED:
            raise InvalidTask("ids", f"ids holds {len(request.ids)} ids; send at most {MAX_WATCHED}")
        return views.changed(await self._service.bulk.cancel_ids(request.ids, free_keys=request.free_keys))

    async def reschedule_many(self, request: pb.RescheduleManyRequest, caller: Caller) -> pb.BulkResponse:
        when = tasks.when_of(request)
        if when == tasks.WhenAsked():
            raise InvalidTask("when", "neither due_ms nor delay_ms is given; give one of them")
        selection = _selection(request.selection)
        return views.changed(await self._service.bulk.reschedule(selection, due_ms=when.due_ms, delay_ms=when.delay_ms))

    async def run_now_many(self, request: pb.RunNowManyRequest, caller: Caller) -> pb.BulkResponse:
        return views.changed(await self._service.bulk.run_now(_selection(request.selection)))

    async def replay_dead_many(self, request: pb.ReplayDeadManyRequest, caller: Caller) -> pb.BulkResponse:
        return views.changed(await self._service.bulk.replay(_selection(request.selection)))

    async def discard_dead_many(self, request: pb.DiscardDeadManyRequest, caller: Caller) -> pb.BulkResponse:
        return views.changed(await self._service.bulk.discard(_selection(request.selection)))

    # -- lists --------------------------------------------------------------------------------------------------

    async def list(self, request: pb.ListRequest, caller: Caller) -> AsyncIterator[pb.ListResponse]:
        wanted, cursor, left = queries.listing(request)
        async for response in self._pages(self._service.list_tasks, wanted, cursor, left):
            yield response

    async def list_dead(self, request: pb.ListRequest, caller: Caller) -> AsyncIterator[pb.ListResponse]:
        wanted, cursor, left = queries.listing(request)
        async for response in self._pages(self._service.dead_letters, wanted, cursor, left):
            yield response

    async def history(self, request: pb.HistoryRequest, caller: Caller) -> pb.HistoryResponse:
        wanted, cursor, limit = queries.history(request)
        return views.history(await self._service.history(wanted, cursor=cursor, limit=limit))

    @staticmethod
    async def _pages(ask: _Ask, wanted: TaskQuery, cursor: str, left: int) -> AsyncIterator[pb.ListResponse]:
        most = MAX_PAGE
        while True:
            found = await ask(wanted, cursor=cursor, limit=min(left, most))
            response = views.page(found)
            fits = views.fitting(response)
            if fits < len(found.items):
                # Read again with a smaller limit, so that the cursor is that of the last task.
                most = fits
                continue
            if response.ByteSize() < views.ANSWER_BYTES // 2:
                most = min(2 * most, MAX_PAGE)
            cursor, left = found.cursor, left - len(found.items)
            # A page may be empty and still have a cursor; of several empty pages only the last is sent.
            if found.items or not cursor or left <= 0:
                yield response
            if not cursor or left <= 0:
                return

    async def watch(self, request: pb.WatchRequest, caller: Caller) -> AsyncIterator[Serialized]:
        ids: Sequence[str] = request.ids
        if request.idempotency_key:
            if ids:
                raise InvalidTask("idempotency_key", "ids and idempotency_key are both given; give one of them")
            ids = [await self._of_key(request.idempotency_key)]
        count = len(ids)
        if not 1 <= count <= MAX_WATCHED:
            raise InvalidTask("ids", f"ids holds {count} ids; send 1 to {MAX_WATCHED}, and more in further calls")
        watch = await self._service.watch(ids, ends_only=request.ends_only)
        try:
            async for changes in watch:
                for response in views.events(changes):
                    yield Serialized(response)
        finally:
            watch.close()

    async def events(self, request: pb.EventsRequest, caller: Caller) -> AsyncIterator[pb.EventsResponse]:
        wanted, after = feed.wanted(request)
        reader = await self._service.feed.read(wanted, after=after)
        async with aclosing(following.batches(reader)) as found:
            async for items in found:
                for response in feed.responses(items, reader.position):
                    yield response

    # -- dead letters -------------------------------------------------------------------------------------------

    async def replay_dead(self, request: pb.ReplayDeadRequest, caller: Caller) -> pb.ReplayDeadResponse:
        await self._service.replay(await self._named(request))
        return pb.ReplayDeadResponse()

    async def discard_dead(self, request: pb.DiscardDeadRequest, caller: Caller) -> pb.DiscardDeadResponse:
        await self._service.discard(await self._named(request))
        return pb.DiscardDeadResponse()

    # -- the node -----------------------------------------------------------------------------------------------

    async def queues(self, request: pb.QueuesRequest, caller: Caller) -> pb.QueuesResponse:
        if request.queue:
            queue_of("queue", request.queue)
        return views.queues(await self._service.queues(), request.queue)

    async def queue_rules(self, request: pb.QueueRulesRequest, caller: Caller) -> pb.QueueRulesResponse:
        if request.queue:
            return views.ruled([_ruled(await self._service.rules.of(queue_rules.queue_of("queue", request.queue)))])
        return views.ruled(map(_ruled, await self._service.rules.every()))

    async def set_queue(self, request: pb.SetQueueRequest, caller: Caller) -> pb.SetQueueResponse:
        name = queue_rules.queue_of("queue", request.queue)
        wanted, clear = rules.wanted(request)
        shown = await self._service.rules.set(name, wanted, clear=clear, whole=request.replace)
        return pb.SetQueueResponse(queue=_ruled(shown))

    async def unset_queue(self, request: pb.UnsetQueueRequest, caller: Caller) -> pb.UnsetQueueResponse:
        await self._service.rules.unset(queue_rules.queue_of("queue", request.queue))
        return pb.UnsetQueueResponse()

    async def forecast(self, request: pb.ForecastRequest, caller: Caller) -> pb.ForecastResponse:
        start, end, step = queries.forecast(request, time.time_ns() // 1_000_000)
        return views.forecast(await self._service.forecast(start, end, step))

    async def scaling(self, request: pb.ScalingRequest, caller: Caller) -> pb.ScalingResponse:
        return scaling.scaling_message(await self._service.scaling(scaling.asked_by(request)))

    async def nodes(self, request: pb.NodesRequest, caller: Caller) -> pb.NodesResponse:
        return views.nodes(await self._service.nodes())


def _ruled(shown: ShownRules) -> pb.RuledQueue:
    return views.ruled_queue(shown.queue, shown.own, shown.effect, shown.waits, shown.newer, shown.version)


def _selection(asked: pb.Selection) -> Selection:
    return Selection(wanted=queries.selected(asked), limit=asked.limit, dry_run=asked.dry_run)


def _trace(caller: Caller) -> Mapping[str, bytes]:
    given = {
        name: value.encode("latin-1", "replace") if isinstance(value, str) else value
        for name, value in caller.context.invocation_metadata() or ()
        if name in NAMES
    }
    return trace_in(given)
