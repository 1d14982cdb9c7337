"""The client for asyncio. `Client` describes what each call does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import Any, Unpack

from delaybox.client import calls, chunks, fleet, task_lists
from delaybox.client.base import Base
from delaybox.client.feed import EventFilter, FeedEvent, followed
from delaybox.client.fleet import ScalingNeed
from delaybox.client.loop import LoopCarrier
from delaybox.client.mapping import WINDOW
from delaybox.client.models import (
    BulkDone,
    EndedTask,
    Event,
    ForecastStep,
    Queue,
    QueueRules,
    ScheduleAnswer,
    Scheduled,
    Task,
)
from delaybox.client.moments import moment
from delaybox.client.new_tasks import (
    CallOptions,
    Filter,
    HistoryFilter,
    MapOptions,
    NewTask,
    Options,
    RulesToSet,
    WebhookOptions,
    When,
    new_publish,
    new_shell,
    new_webhook,
)
from delaybox.client.progress import Report
from delaybox.client.values import Duration, Moment
from delaybox.core.errors import DelayBoxError


@dataclass(frozen=True, slots=True)
class AsyncHandle:
    """A scheduled task. ``created``: False when its key already named this task."""

    id: str
    due_ms: int
    created: bool = True
    client: AsyncClient = field(repr=False, compare=False, kw_only=True)

    @property
    def due(self) -> datetime:
        """When it is due, in UTC."""
        return moment(self.due_ms)

    async def result(self, timeout: Duration | None = None) -> Any:
        """See `Client.result`."""
        return await self.client.result(self.id, timeout)

    async def get(self) -> Task:
        """See `Client.get`."""
        return await self.client.get(self.id)

    async def cancel(self, *, running: bool = False, free_key: bool = False) -> bool:
        """See `Client.cancel`."""
        return await self.client.cancel(self.id, running=running, free_key=free_key)

    async def reschedule(self, **when: Unpack[When]) -> Task:
        """See `Client.reschedule`."""
        return await self.client.reschedule(self.id, **when)

    async def run_now(self) -> datetime:
        """See `Client.run_now`."""
        return await self.client.run_now(self.id)


class AsyncClient(Base):
    """`Client` for asyncio: the same arguments and the same calls, awaited or iterated with ``async for``.

    For one event loop. Iterables may be asynchronous ones.
    """

    def _open(self) -> None:
        self._carrier = LoopCarrier(self._target.looping())

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """See `Client.close`."""
        await self._carrier.close()

    def _flag(self) -> Any:
        return asyncio.Event()

    def _handle(self, outcome: ScheduleAnswer | DelayBoxError) -> Any:
        return (
            AsyncHandle(outcome.id, outcome.due_ms, outcome.created, client=self)
            if isinstance(outcome, ScheduleAnswer)
            else outcome
        )

    # -- schedule -----------------------------------------------------------------------------------------------

    async def schedule(
        self,
        function: str | Callable[..., Any] | NewTask,
        arguments: object = None,
        /,
        **options: Unpack[CallOptions],
    ) -> AsyncHandle:
        """See `Client.schedule`."""
        handle: AsyncHandle = self._handle(await self._carrier.run(self._one(function, arguments, options)))
        return handle

    async def publish(self, payload: object = b"", /, **options: Unpack[Options]) -> AsyncHandle:
        """See `Client.publish`."""
        handle: AsyncHandle = self._handle(await self._carrier.run(self._stored(new_publish(payload, options))))
        return handle

    async def shell(self, command: str | bytes = "", /, *, name: str = "", **options: Unpack[Options]) -> AsyncHandle:
        """See `Client.shell`."""
        handle: AsyncHandle = self._handle(await self._carrier.run(self._stored(new_shell(command, name, options))))
        return handle

    async def webhook(
        self, url: str, /, *, json: Any = None, data: object = None, **options: Unpack[WebhookOptions]
    ) -> AsyncHandle:
        """See `Client.webhook`."""
        handle: AsyncHandle = self._handle(await self._carrier.run(self._stored(new_webhook(url, json, data, options))))
        return handle

    async def schedule_many(
        self,
        tasks: Iterable[NewTask] | AsyncIterable[NewTask],
        *,
        chunk: int = chunks.CHUNK,
        safe: bool | None = None,
        total: int | None = None,
        progress: bool | Report = False,
    ) -> Scheduled:
        """See `Client.schedule_many`."""
        done = Scheduled()
        steps = self._many(tasks, chunk=chunk, safe=safe, total=total, progress=progress, done=done)
        try:
            async for _ in self._carrier.iterate(steps):
                pass
        except BaseException as error:
            error.add_note(f"before that {done}")
            raise
        return done

    def schedule_each(
        self,
        tasks: Iterable[NewTask] | AsyncIterable[NewTask],
        *,
        chunk: int = chunks.CHUNK,
        safe: bool | None = None,
        total: int | None = None,
        progress: bool | Report = False,
    ) -> AsyncIterator[AsyncHandle | DelayBoxError]:
        """See `Client.schedule_each`."""
        return self._carrier.iterate(
            self._many(tasks, chunk=chunk, safe=safe, total=total, progress=progress, make=self._handle)
        )

    def map(
        self,
        function: str | Callable[..., Any],
        items: Iterable[Any] | AsyncIterable[Any],
        /,
        *,
        ordered: bool = True,
        window: int = WINDOW,
        chunksize: int = 1,
        key: Callable[[Any], str] | None = None,
        total: int | None = None,
        cancel_on_exit: bool | None = None,
        return_exceptions: bool = False,
        progress: bool | Report = False,
        **options: Unpack[MapOptions],
    ) -> AsyncIterator[Any]:
        """See `Client.map`."""
        steps = self._map(
            function,
            items,
            options,
            ordered=ordered,
            window=window,
            chunksize=chunksize,
            key=key,
            total=total,
            cancel_on_exit=cancel_on_exit,
            return_exceptions=return_exceptions,
            progress=progress,
        )
        return self._carrier.iterate(steps)

    # -- one task -----------------------------------------------------------------------------------------------

    async def get(self, task_id: str | None = None, /, *, key: str | None = None) -> Task:
        """See `Client.get`."""
        return await self._carrier.run(self._session.unary(calls.get(task_id, key)))

    async def result(
        self, task_id: str | None = None, /, timeout: Duration | None = None, *, key: str | None = None
    ) -> Any:
        """See `Client.result`."""
        return await self._carrier.run(self._result(task_id, timeout, key))

    def watch(
        self,
        ids: str | Iterable[str] | None = None,
        /,
        *,
        key: str | None = None,
        ends_only: bool = False,
        timeout: Duration | None = None,
    ) -> AsyncIterator[Event]:
        """See `Client.watch`."""
        return self._carrier.iterate(self._watch(ids, key, ends_only=ends_only, timeout=timeout))

    async def cancel(
        self,
        task_id: str | None = None,
        /,
        *,
        key: str | None = None,
        running: bool = False,
        free_key: bool = False,
    ) -> bool:
        """See `Client.cancel`."""
        return await self._carrier.run(
            self._session.unary(calls.cancel(task_id, running=running, free_key=free_key, key=key))
        )

    async def reschedule(
        self,
        task_id: str | None = None,
        /,
        *,
        key: str | None = None,
        priority: str | None = None,
        payload: object = None,
        labels: Mapping[str, str] | None = None,
        **when: Unpack[When],
    ) -> Task:
        """See `Client.reschedule`."""
        return await self._carrier.run(
            self._session.unary(
                calls.reschedule(task_id, when, priority=priority, payload=payload, labels=labels, key=key)
            )
        )

    async def run_now(self, task_id: str | None = None, /, *, key: str | None = None) -> datetime:
        """See `Client.run_now`."""
        return await self._carrier.run(self._session.unary(calls.run_now(task_id, key)))

    # -- many tasks ---------------------------------------------------------------------------------------------

    def list(self, *, limit: int | None = None, **wanted: Unpack[Filter]) -> AsyncIterator[Task]:
        """See `Client.list`."""
        return self._carrier.iterate(task_lists.listed(self._session, "List", wanted, limit))

    async def cancel_many(
        self,
        *,
        free_keys: bool = False,
        everything: bool = False,
        limit: int = 0,
        dry_run: bool = False,
        **wanted: Unpack[Filter],
    ) -> BulkDone:
        """See `Client.cancel_many`."""
        return await self._bulk(
            calls.cancel_many, wanted, free_keys=free_keys, everything=everything, limit=limit, dry_run=dry_run
        )

    async def reschedule_many(
        self,
        *,
        at: Moment | None = None,
        at_ms: int | None = None,
        delay: Duration | None = None,
        everything: bool = False,
        limit: int = 0,
        dry_run: bool = False,
        **wanted: Unpack[Filter],
    ) -> BulkDone:
        """See `Client.reschedule_many`."""
        call = calls.reschedule_many(
            wanted, {"at": at, "at_ms": at_ms, "delay": delay}, everything=everything, limit=limit, dry_run=dry_run
        )
        return await self._carrier.run(self._session.unary(call))

    async def run_now_many(
        self, *, everything: bool = False, limit: int = 0, dry_run: bool = False, **wanted: Unpack[Filter]
    ) -> BulkDone:
        """See `Client.run_now_many`."""
        return await self._bulk(calls.run_now_many, wanted, everything=everything, limit=limit, dry_run=dry_run)

    async def _bulk(self, make: Callable[..., Any], wanted: Mapping[str, Any], **options: Any) -> BulkDone:
        done: BulkDone = await self._carrier.run(self._session.unary(make(wanted, **options)))
        return done

    def history(self, *, limit: int | None = None, **wanted: Unpack[HistoryFilter]) -> AsyncIterator[EndedTask]:
        """See `Client.history`."""
        return self._carrier.iterate(task_lists.ended(self._session, wanted, limit))

    def events(self, *, after: str | None = None, **wanted: Unpack[EventFilter]) -> AsyncIterator[FeedEvent]:
        """See `Client.events`."""
        return self._carrier.iterate(followed(self._session, wanted, after))

    # -- dead letters -------------------------------------------------------------------------------------------

    def dead(self, *, limit: int | None = None, **wanted: Unpack[Filter]) -> AsyncIterator[Task]:
        """See `Client.dead`."""
        return self._carrier.iterate(task_lists.listed(self._session, "ListDead", wanted, limit))

    async def replay_dead(self, task_id: str | None = None, /, *, key: str | None = None) -> None:
        """See `Client.replay_dead`."""
        await self._carrier.run(self._session.unary(calls.replay_dead(task_id, key)))

    async def replay_dead_many(
        self, *, everything: bool = False, limit: int = 0, dry_run: bool = False, **wanted: Unpack[Filter]
    ) -> BulkDone:
        """See `Client.replay_dead_many`."""
        return await self._bulk(calls.replay_dead_many, wanted, everything=everything, limit=limit, dry_run=dry_run)

    async def discard_dead(self, task_id: str | None = None, /, *, key: str | None = None) -> None:
        """See `Client.discard_dead`."""
        await self._carrier.run(self._session.unary(calls.discard_dead(task_id, key)))

    async def discard_dead_many(
        self, *, everything: bool = False, limit: int = 0, dry_run: bool = False, **wanted: Unpack[Filter]
    ) -> BulkDone:
        """See `Client.discard_dead_many`."""
        return await self._bulk(calls.discard_dead_many, wanted, everything=everything, limit=limit, dry_run=dry_run)

    # -- the whole ----------------------------------------------------------------------------------------------

    async def queues(self, queue: str | None = None, /) -> tuple[Queue, ...]:
        """See `Client.queues`."""
        return await self._carrier.run(self._session.unary(calls.queues(queue)))

    async def queue_rules(self, queue: str | None = None, /) -> tuple[QueueRules, ...]:
        """See `Client.queue_rules`."""
        return await self._carrier.run(self._session.unary(calls.queue_rules(queue)))

    async def set_queue(self, queue: str, /, *, replace: bool = False, **rules: Unpack[RulesToSet]) -> QueueRules:
        """See `Client.set_queue`."""
        return await self._carrier.run(self._session.unary(calls.set_queue(queue, rules, replace=replace)))

    async def unset_queue(self, queue: str, /) -> None:
        """See `Client.unset_queue`."""
        await self._carrier.run(self._session.unary(calls.unset_queue(queue)))

    async def forecast(
        self, *, start: Moment | None = None, end: Moment | None = None, step: Duration | None = None
    ) -> tuple[ForecastStep, ...]:
        """See `Client.forecast`."""
        return await self._carrier.run(self._session.unary(calls.forecast(start, end, step)))

    async def scaling(
        self,
        *,
        queue: str = "",
        function: str = "",
        kind: str = "",
        places: int = 0,
        lead: Duration | None = None,
        clear: Duration | None = None,
    ) -> tuple[ScalingNeed, ...]:
        """See `Client.scaling`."""
        return await self._carrier.run(self._session.unary(fleet.scaling(queue, function, kind, places, lead, clear)))

    async def nodes(self) -> tuple[dict[str, Any], ...]:
        """See `Client.nodes`."""
        return await self._carrier.run(self._session.unary(fleet.nodes()))
