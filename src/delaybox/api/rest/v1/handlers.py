"""The calls of ``/v1``. Each parses, asks the service and renders."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass

from msgspec import Struct

from delaybox.api import call_scopes, changing
from delaybox.api.rest.asgi import Headers, Receive, Scope
from delaybox.api.rest.problems import problem_of
from delaybox.api.rest.request_body import RequestBodies
from delaybox.api.rest.traces import trace_of_request
from delaybox.core.errors import DelayBoxError, InvalidTask, TaskNotFound
from delaybox.core.limits import MAX_BATCH, MAX_BATCH_BYTES
from delaybox.core.query import BulkResult
from delaybox.core.scopes import Grant
from delaybox.core.task import NewTask, Submitted, TaskType
from delaybox.service import Selection, Service, ShownRules
from delaybox.service.feed import Reader, batches
from delaybox.wire import members, scaling
from delaybox.wire.bounds import check_batch_count
from delaybox.wire.in_trace import with_trace
from delaybox.wire.json import bulk_types, events, history, queries, queue_rules, queue_types, rendering, tasks, types
from delaybox.wire.json.reading import JsonReader

_PARSED_AT_ONCE = 100
"""Tasks of a batch that are parsed before other requests get their turn (about 1 ms)."""

_PUB_SUB = TaskType.PUB_SUB
"""Looking an enum's member up takes Python 3.11 0.2 us."""

_read_batch = JsonReader(types.BatchRequest, where="a field of a batch", max_containers=200_000)


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer of a call, not encoded yet, because `routes` removes what the caller may not see. ``value`` None: no
    body."""

    value: Struct | None
    status: int = 200
    headers: tuple[tuple[bytes, bytes], ...] = ()
    parts: AsyncGenerator[bytes, None] | None = None
    """In place of a value: a stream of server-sent events."""


_STREAMED = ((b"x-accel-buffering", b"no"),)
"""nginx would otherwise keep a stream back until its buffer is full."""


async def _server_sent(reader: Reader, source: str) -> AsyncGenerator[bytes, None]:
    """A reader's part of the feed as server-sent events; the id without data tells browsers where to go on."""
    first = b"retry: 2000\n"
    async with aclosing(batches(reader)) as found:
        async for items in found:
            parts = [b"id: %b\ndata: %b\n\n" % (i.position.encode(), events.encode(i, source)) for i in items]
            yield first + (b"".join(parts) or b": alive\nid: %b\n\n" % reader.position.encode())
            first = b""


Replier = Callable[[Scope, Headers, Receive], Awaitable[Reply]]


class V1:
    """The handlers. ``root``: the context path, for Location."""

    def __init__(self, service: Service, bodies: RequestBodies, rules: tasks.TaskRules, root: str) -> None:
        self._service = service
        self._bodies = bodies
        self._rules = rules
        self._location = f"{root}/v1/tasks/".encode()

    # -- schedule -----------------------------------------------------------------------------------------------

    async def create(self, scope: Scope, headers: Headers, receive: Receive) -> Reply:
        if scope["query_string"]:
            queries.parse_none(scope["query_string"])
        self._service.shedding.admit()
        body = await self._bodies.read_json(headers, receive)
        with self._service.shedding.taken():
            task = self.new_task(body, headers, scope["auth"])
            stored = await self._service.submit(task)
        if stored.created:
            return self.created(task, stored)
        try:
            view = await self._service.get(stored.task_id)
            answer = rendering.found(view) if not view.remembered else rendering.gone(task, stored, view.state)
        except TaskNotFound:
            answer = rendering.gone(task, stored)
        return Reply(answer, 200, (self._location_of(stored),))

    def new_task(self, body: bytes, headers: Headers, grant: Grant) -> NewTask:
        """The task that a body asks for. DelayBoxError."""
        task = with_trace(tasks.parse_task(body, self._rules, key=_key(headers)), trace_of_request(headers))
        if task.type is not _PUB_SUB:
            call_scopes.require_type(grant, task.type)
        return task

    def created(self, task: NewTask, stored: Submitted) -> Reply:
        """The answer to a new task."""
        return Reply(rendering.scheduled(task, stored, _now_ms()), 201, (self._location_of(stored),))

    def _location_of(self, stored: Submitted) -> tuple[bytes, bytes]:
        return b"location", self._location + stored.task_id.encode()

    async def batch(self, scope: Scope, headers: Headers, receive: Receive) -> Reply:
        queries.parse_none(scope["query_string"])
        if b"idempotency-key" in headers:
            raise InvalidTask(
                "Idempotency-Key", "the header Idempotency-Key names one task; give each task its idempotency_key"
            )
        self._service.shedding.admit()
        body = await self._bodies.read_json(headers, receive, limit=MAX_BATCH_BYTES, mend="send it in several calls")
        with self._service.shedding.taken(len(body)):
            return await self._batch(body, scope["auth"], headers)

    async def _batch(self, body: bytes, grant: Grant, headers: Headers) -> Reply:
        check_batch_count(body)
        asked = _read_batch(body).tasks
        if not asked:
            raise InvalidTask("tasks", f"tasks is empty; send 1 to {MAX_BATCH}")
        trace = trace_of_request(headers)
        items: list[types.BatchItem | None] = []
        good: list[NewTask] = []
        for at, raw in enumerate(asked):
            if at % _PARSED_AT_ONCE == 0:
                await asyncio.sleep(0)
            try:
                task = with_trace(tasks.parse_task(raw, self._rules), trace)
                if task.type is not _PUB_SUB:
                    call_scopes.require_type(grant, task.type)
            except DelayBoxError as error:
                items.append(_refused(problem_of(error)))
            else:
                items.append(None)
                good.append(task)
        answers = iter(await self._service.submit_many(good) if good else ())
        out = [_item(next(answers)) if item is None else item for item in items]
        created = sum(1 for item in out if item.status == 201)
        duplicates = sum(1 for item in out if item.status == 200)
        return Reply(types.BatchAnswer(created, duplicates, len(out) - created - duplicates, out))

    # -- one task -----------------------------------------------------------------------------------------------

    async def get(self, scope: Scope, headers: Headers, receive: Receive) -> Reply:
        return await self._get(scope["params"]["id"], queries.parse_get(scope["query_string"]))

    async def _get(self, task_id: str, wait_ms: int) -> Reply:
        return Reply(rendering.task(await self._service.get(task_id, wait_ms=wait_ms)))

    async def cancel(self, scope: Scope, headers: Headers, receive: Receive) -> Reply:
        free_key, running = queries.parse_cancel(scope["query_string"])
        return await self._cancel(scope["params"]["id"], free_key=free_key, running=running)

    async def _cancel(self, task_id: str, *, free_key: bool, running: bool) -> Reply:
        asked = await self._service.cancel(task_id, running=running, free_key=free_key)
        return Reply(None, 202) if asked else _NOTHING

    async def change(self, scope: Scope, headers: Headers, receive: Receive) -> Reply:
        queries.parse_none(scope["query_string"])
        return await self._change(scope, scope["params"]["id"], await self._bodies.read_json(headers, receive))

    async def _change(self, scope: Scope, task_id: str, body: bytes) -> Reply:
        wanted = tasks.parse_change(body, self._rules)
        view = await changing.change(self._service, scope["auth"], task_id, wanted, self._rules.shell)
        return Reply(rendering.changed(view))

    async def get_by_key(self, scope: Scope, headers: Headers, receive: Receive) -> Reply:
        key, wait_ms = queries.parse_get_by_key(scope["query_string"])
        return await self._get(await self._service.id_of_key(key), wait_ms)

    async def cancel_by_key(self, scope: Scope, headers: Headers, receive: Receive) -> Reply:
        key, free_key, running = queries.parse_cancel_by_key(scope["query_string"])
        return await self._cancel(await self._service.id_of_key(key), free_key=free_key, running=running)

    async def change_by_key(self, scope: Scope, headers: Headers, receive: Receive) -> Reply:
        key = queries.parse_key(scope["query_string"])
        body = await self._bodies.read_json(headers, receive)
        return await self._change(scope, await self._service.id_of_key(key), body)

    async def run(self, scope: Scope, headers: Headers, receive: Receive) -> Reply:
        queries.parse_none(scope["query_string"])
        return await self._run(scope["params"]["id"])

    async def run_by_key(self, scope: Scope, headers: Headers, receive: Receive) -> Reply:
        return await self._run(await self._service.id_of_key(queries.parse_key(scope["query_string"])))

    async def _run(self, task_id: str) -> Reply:
        return Reply(rendering.moved(task_id, await self._service.run_now(task_id)))

    # -- many ---------------------------------------------------------------------------------------------------

    async def cancel_many(self, scope: Scope, headers: Headers, receive: Receive) -> Reply:
        queries.parse_none(scope["query_string"])
        chosen, free_keys = queries.parse_cancel_many(await self._bodies.read_json(headers, receive))
        return _changed(await self._service.bulk.cancel(_selection(chosen), free_keys=free_keys))

    async def change_many(self, scope: Scope, headers: Headers, receive: Receive) -> Reply:
        queries.parse_none(scope["query_string"])
        chosen, due_ms, delay_ms = queries.parse_reschedule_many(await self._bodies.read_json(headers, receive))
        return _changed(await self._service.bulk.reschedule(_selection(chosen), due_ms=due_ms, delay_ms=delay_ms))

    async def run_many(self, scope: Scope, headers: Headers, receive: Receive) -> Reply:
        queries.parse_none(scope["query_string"])
        chosen = queries.parse_run_many(await self._bodies.read_json(headers, receive))
        return _changed(await self._service.bulk.run_now(_selection(chosen)))

    async def list(self, scope: Scope, headers: Headers, receive: Receive) -> Reply:
        asked = queries.parse_tasks(scope["query_string"])
        return Reply(
            rendering.page(await self._service.list_tasks(asked.filter, cursor=asked.cursor, limit=asked.limit))
        )

    async def history(self, scope: Scope, headers: Headers, receive: Receive) -> Reply:
        wanted, cursor, limit = history.parse(scope["query_string"])
        return Reply(history.page(await self._service.history(wanted, cursor=cursor, limit=limit)))

    async def events(self, scope: Scope, headers: Headers, receive: Receive) -> Reply:
        wanted, after = events.parse(scope["query_string"])
        feed = self._service.feed
        # Sent by browsers when they connect again.
        after = headers.get(b"last-event-id", b"").decode("latin-1") or after
        reader = await feed.read(wanted, after=after)
        return Reply(None, headers=_STREAMED, parts=_server_sent(reader, feed.source))

    async def queues(self, scope: Scope, headers: Headers, receive: Receive) -> Reply:
        queries.parse_none(scope["query_string"])
        return Reply(rendering.queues(await self._service.queues()))

    async def queue(self, scope: Scope, headers: Headers, receive: Receive) -> Reply:
        queries.parse_none(scope["query_string"])
        name = _queue(scope)
        found = await self._service.queues()
        shown = await self._service.rules.of(name)
        return Reply(
            rendering.queue(name, found, own=shown.own, effect=shown.effect, waits=shown.waits, newer=shown.newer)
        )

    async def set_rules(self, scope: Scope, headers: Headers, receive: Receive) -> Reply:
        return await self._set_rules(scope, headers, receive, whole=True)

    async def change_rules(self, scope: Scope, headers: Headers, receive: Receive) -> Reply:
        return await self._set_rules(scope, headers, receive, whole=False)

    async def _set_rules(self, scope: Scope, headers: Headers, receive: Receive, *, whole: bool) -> Reply:
        queries.parse_none(scope["query_string"])
        name = _queue(scope)
        asked = queue_rules.parse(await self._bodies.read_json(headers, receive))
        shown = await self._service.rules.set(name, asked.rules, clear=asked.clear, whole=whole)
        return Reply(_ruled(shown))

    async def unset_rules(self, scope: Scope, headers: Headers, receive: Receive) -> Reply:
        queries.parse_none(scope["query_string"])
        await self._service.rules.unset(_queue(scope))
        return _NOTHING

    async def rules(self, scope: Scope, headers: Headers, receive: Receive) -> Reply:
        queries.parse_none(scope["query_string"])
        return Reply(queue_types.RuledQueues([_ruled(shown) for shown in await self._service.rules.every()]))

    async def forecast(self, scope: Scope, headers: Headers, receive: Receive) -> Reply:
        start, end, step = queries.parse_forecast(scope["query_string"], _now_ms())
        return Reply(rendering.forecast(await self._service.forecast(start, end, step), step))

    async def scaling(self, scope: Scope, headers: Headers, receive: Receive) -> Reply:
        asked = queries.parse_scaling(scope["query_string"])
        return Reply(scaling.scaling_json(await self._service.scaling(asked)))

    async def nodes(self, scope: Scope, headers: Headers, receive: Receive) -> Reply:
        queries.parse_none(scope["query_string"])
        return Reply(members.nodes_json(await self._service.nodes()))

    async def workers(self, scope: Scope, headers: Headers, receive: Receive) -> Reply:
        queries.parse_none(scope["query_string"])
        return Reply(members.workers_json(await self._service.nodes()))

    # -- dead letters -------------------------------------------------------------------------------------------

    async def dead(self, scope: Scope, headers: Headers, receive: Receive) -> Reply:
        asked = queries.parse_dead(scope["query_string"])
        return Reply(
            rendering.page(await self._service.dead_letters(asked.filter, cursor=asked.cursor, limit=asked.limit))
        )

    async def replay(self, scope: Scope, headers: Headers, receive: Receive) -> Reply:
        queries.parse_none(scope["query_string"])
        await self._service.replay(scope["params"]["id"])
        return Reply(bulk_types.Replayed(1))

    async def replay_by_key(self, scope: Scope, headers: Headers, receive: Receive) -> Reply:
        await self._service.replay(await self._service.id_of_key(queries.parse_key(scope["query_string"])))
        return Reply(bulk_types.Replayed(1))

    async def replay_many(self, scope: Scope, headers: Headers, receive: Receive) -> Reply:
        queries.parse_none(scope["query_string"])
        chosen = queries.parse_replay(await self._bodies.read_json(headers, receive))
        done = await self._service.bulk.replay(_selection(chosen))
        if chosen.dry_run:
            return Reply(bulk_types.Replayed(0, done.matched, done.sample))
        return Reply(bulk_types.Replayed(done.changed))

    async def discard_many(self, scope: Scope, headers: Headers, receive: Receive) -> Reply:
        queries.parse_none(scope["query_string"])
        chosen = queries.parse_discard(await self._bodies.read_json(headers, receive))
        return _changed(await self._service.bulk.discard(_selection(chosen)))

    async def discard(self, scope: Scope, headers: Headers, receive: Receive) -> Reply:
        queries.parse_none(scope["query_string"])
        await self._service.discard(scope["params"]["id"])
        return _NOTHING

    async def discard_by_key(self, scope: Scope, headers: Headers, receive: Receive) -> Reply:
        await self._service.discard(await self._service.id_of_key(queries.parse_key(scope["query_string"])))
        return _NOTHING


_NOTHING = Reply(None, 204)


def _selection(chosen: queries.Chosen) -> Selection:
    return Selection(wanted=chosen.wanted, limit=chosen.limit, dry_run=chosen.dry_run)


def _changed(done: BulkResult) -> Reply:
    return Reply(bulk_types.ChangedMany(done.matched, done.changed, done.skipped, done.sample, done.scanned))


def _queue(scope: Scope) -> str:
    return queue_rules.queue_of("queue", scope["params"]["queue"])


def _ruled(shown: ShownRules) -> queue_types.RuledQueue:
    return rendering.ruled(shown.queue, shown.own, shown.effect, shown.waits, shown.newer, shown.version)


def _item(answer: Submitted | DelayBoxError) -> types.BatchItem:
    if isinstance(answer, Submitted):
        return types.BatchItem(201 if answer.created else 200, answer.task_id, answer.due_ms)
    return _refused(problem_of(answer))


def _refused(problem: types.Problem) -> types.BatchItem:
    return types.BatchItem(problem.status, error=problem)


def _key(headers: Headers) -> str | None:
    """The header Idempotency-Key, in quotes as its draft has it, or bare. InvalidTask."""
    raw = headers.get(b"idempotency-key")
    if raw is None:
        return None
    key = raw.decode("latin-1").strip()
    if not key.isascii() or not key.isprintable():
        raise InvalidTask(
            "Idempotency-Key", "the header Idempotency-Key is not visible ASCII; put other keys into idempotency_key"
        )
    if len(key) > 1 and key[0] == key[-1] == '"':
        key = key[1:-1]
    tasks.check_key("Idempotency-Key", key)
    return key


def _now_ms() -> int:
    """This machine's clock: only for a query's defaults, and to distinguish scheduled from ready in an answer."""
    return time.time_ns() // 1_000_000
