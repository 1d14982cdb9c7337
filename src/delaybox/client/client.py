"""The client for ordinary code."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import Any, Unpack

from delaybox.client import calls, chunks, fleet, task_lists
from delaybox.client.base import Base
from delaybox.client.feed import EventFilter, FeedEvent, followed
from delaybox.client.fleet import ScalingNeed
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
from delaybox.client.threads import ThreadCarrier
from delaybox.client.values import Duration, Moment
from delaybox.core.errors import DelayBoxError


@dataclass(frozen=True, slots=True)
class Handle:
    """A scheduled task. ``created``: False when its key already named this task."""

    id: str
    due_ms: int
    created: bool = True
    client: Client = field(repr=False, compare=False, kw_only=True)

    @property
    def due(self) -> datetime:
        """When it is due, in UTC."""
        return moment(self.due_ms)

    def result(self, timeout: Duration | None = None) -> Any:
        """See `Client.result`."""
        return self.client.result(self.id, timeout)

    def get(self) -> Task:
        """See `Client.get`."""
        return self.client.get(self.id)

    def cancel(self, *, running: bool = False, free_key: bool = False) -> bool:
        """See `Client.cancel`."""
        return self.client.cancel(self.id, running=running, free_key=free_key)

    def reschedule(self, **when: Unpack[When]) -> Task:
        """See `Client.reschedule`."""
        return self.client.reschedule(self.id, **when)

    def run_now(self) -> datetime:
        """See `Client.run_now`."""
        return self.client.run_now(self.id)


class Client(Base):
    """Calls to DelayBox, over gRPC to nodes or straight on Redis. For several threads; make it once and keep it,
    `close` it at the end.

    endpoints: one address or several, ``host:port`` each (port 9088 unless given). Without any, those of the variable
        DELAYBOX_GRPC_SERVERS, else localhost:9088. Calls take turns among the nodes that work, pass over one that
        is clearly slower than another, and go on with the others when one is lost.
        Or the URL of the Redis server that holds the tasks (``redis://[user:password@]host[:6379][/db]``,
        ``rediss://``, ``unix:///path/to/socket``), or ``file:`` and the data folder of an embedded one; ``?prefix=``
        names a store other than "delaybox". This needs the extra ``redis``, and no node. Who can reach Redis so may
        do everything: tokens and their scopes are a node's.
    token: sent to a node as a bearer token. Over networks use it with TLS only.
    tls: TLS with the authorities that gRPC trusts; ``ca_file`` names others, ``cert_file`` and ``key_file`` this
        client's own certificate (PEM). Any of them means TLS.
    timeout: of one call with all its attempts: seconds, a timedelta, or text such as "30s"; None: no limit.
    retries: how many further attempts a call may take; unless given as many as fit into its time, with growing pauses,
        so that a node may restart meanwhile. Only calls that cannot do harm are repeated: those that only read, those
        that certainly never reached a node or were refused by a busy one, and those with a key.
    safe: gives every task without key one of its own, so that scheduling can be repeated after a broken connection and
        creates it once. Costs the store an entry for each until 24 h after the task has ended; without it such a call
        ends with OutcomeUnknown.
    codecs: forms of arguments and results beside JSON and bytes.

    Errors are DelayBoxErrors: those of a node (InvalidTask, TaskNotFound, IdempotencyConflict, ...), Unreachable when
    no node answered, OutcomeUnknown when something was sent and it is not known whether it was done, CallTimeout.
    """

    def _open(self) -> None:
        self._carrier = ThreadCarrier(self._target.blocking())

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connections; calls under way end with Unreachable. Harmless when repeated."""
        self._carrier.close()

    def _flag(self) -> Any:
        return threading.Event()

    def _handle(self, outcome: ScheduleAnswer | DelayBoxError) -> Any:
        return (
            Handle(outcome.id, outcome.due_ms, outcome.created, client=self)
            if isinstance(outcome, ScheduleAnswer)
            else outcome
        )

    # -- schedule -----------------------------------------------------------------------------------------------

    def schedule(
        self,
        function: str | Callable[..., Any] | NewTask,
        arguments: object = None,
        /,
        **options: Unpack[CallOptions],
    ) -> Handle:
        """Schedules a worker's function; answered after the task is stored.

        ``function``: its name, or the function that a worker's decorator returned; or a complete NewTask.
        ``arguments``: a dict (keyword arguments), a list or tuple (positional ones), a Call (both), bytes, or another
        value (the only argument). JSON, unless ``content_type`` names a codec. For the options see `Options`.
        """
        handle: Handle = self._handle(self._carrier.run(self._one(function, arguments, options)))
        return handle

    def publish(self, payload: object = b"", /, **options: Unpack[Options]) -> Handle:
        """Schedules a message for subscribers (PUB_SUB): bytes as they stand, text as UTF-8, anything else as JSON."""
        handle: Handle = self._handle(self._carrier.run(self._stored(new_publish(payload, options))))
        return handle

    def shell(self, command: str | bytes = "", /, *, name: str = "", **options: Unpack[Options]) -> Handle:
        """Schedules a command for sh, or, by ``name``, one that the node knows (``command``: its standard input)."""
        handle: Handle = self._handle(self._carrier.run(self._stored(new_shell(command, name, options))))
        return handle

    def webhook(
        self, url: str, /, *, json: Any = None, data: object = None, **options: Unpack[WebhookOptions]
    ) -> Handle:
        """Schedules a call of a URL (http); answered after the task is stored, not after the call.

        ``json``: the body as JSON; or ``data``: bytes as they stand, text as UTF-8. For the options see
        `WebhookOptions`.
        """
        handle: Handle = self._handle(self._carrier.run(self._stored(new_webhook(url, json, data, options))))
        return handle

    def schedule_many(
        self,
        tasks: Iterable[NewTask],
        *,
        chunk: int = chunks.CHUNK,
        safe: bool | None = None,
        total: int | None = None,
        progress: bool | Report = False,
    ) -> Scheduled:
        """Schedules as many tasks as the iterable has, in chunks, and counts what became of them.

        ``safe``: as the client's, for this call. ``progress``: True for a bar on stderr, or a function that is called
        with how many are done and of how many (``total``, where the iterable has no length). In bounded memory. A chunk
        is sent when it is full or 50 ms old, however long the iterable pauses. Errors of single tasks are counted, and
        the first thousand are kept. Errors of the call as a whole are raised. What the iterable itself raises is raised
        when all that it gave has been answered. A note on the exception names how many were done before.
        """
        done = Scheduled()
        steps = self._many(tasks, chunk=chunk, safe=safe, total=total, progress=progress, done=done)
        try:
            for _ in self._carrier.iterate(steps):
                pass
        except BaseException as error:
            error.add_note(f"before that {done}")
            raise
        return done

    def schedule_each(
        self,
        tasks: Iterable[NewTask],
        *,
        chunk: int = chunks.CHUNK,
        safe: bool | None = None,
        total: int | None = None,
        progress: bool | Report = False,
    ) -> Iterator[Handle | DelayBoxError]:
        """As `schedule_many`, but yields each task's handle or its error, in order. Nothing happens before that."""
        return self._carrier.iterate(
            self._many(tasks, chunk=chunk, safe=safe, total=total, progress=progress, make=self._handle)
        )

    def map(
        self,
        function: str | Callable[..., Any],
        items: Iterable[Any],
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
    ) -> Iterator[Any]:
        """Runs a worker's function over the items, on all workers, and yields what it returned.

        Each item is the only argument, or a Call. At most ``window`` items are under way or waiting to be taken, so
        millions need no more memory than that. In the items' order, or with ``ordered=False`` as they end; they are run
        in their order, as far as several workers allow. An item that failed for good is raised and ends the iteration,
        or is yielded as its error (``return_exceptions``). Items run at least once. Results are kept for a minute
        unless ``keep_result`` says otherwise. The items are read in a thread of their own: results come while their
        source pauses, and it may wait for results.

        chunksize: this many items, or as many as come within 50 ms, make one task, and are run one after the other.
            For calls of a few milliseconds. A time-out covers the chunk. An item that fails in it is tried again alone.
        key: returns a name for an item. A later map with the same keys does not run again what an earlier one did;
            results are then kept for a day unless ``keep_result`` is given.
        total: how many items there are, for ``progress``, where the iterable has no length.
        cancel_on_exit: whether items that have not begun are cancelled when the iteration is left early, by an error,
            Ctrl-C, or the client's `close`; unless given True without ``key``.
        """
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

    def get(self, task_id: str | None = None, /, *, key: str | None = None) -> Task:
        """The task of this id, or that the idempotency ``key`` names, wherever it stands. TaskNotFound, TaskFinished
        where nothing of it is kept."""
        return self._carrier.run(self._session.unary(calls.get(task_id, key)))

    def result(self, task_id: str | None = None, /, timeout: Duration | None = None, *, key: str | None = None) -> Any:
        """Waits until the task has ended, and returns what its function returned (of a command: what it printed).

        ``timeout``: seconds, a timedelta, or text such as "30s"; 0: what is there already; None: as long as it takes,
        but without any node no longer than the client's time-out. Needs a result that is kept (``keep_result``).
        ``key``: the task's idempotency key, in place of the id.
        NotFinished (a TimeoutError), TaskFailed, TaskCancelled, ResultGone.
        """
        return self._carrier.run(self._result(task_id, timeout, key))

    def watch(
        self,
        ids: str | Iterable[str] | None = None,
        /,
        *,
        key: str | None = None,
        ends_only: bool = False,
        timeout: Duration | None = None,
    ) -> Iterator[Event]:
        """The state changes of up to 10,000 tasks, the present state first, until all have ended or the time is over.

        After a broken connection the present states come again. ``key``: the idempotency key of one task, in place of
        ids.
        """
        return self._carrier.iterate(self._watch(ids, key, ends_only=ends_only, timeout=timeout))

    def cancel(
        self,
        task_id: str | None = None,
        /,
        *,
        key: str | None = None,
        running: bool = False,
        free_key: bool = False,
    ) -> bool:
        """Cancels a task that waits; True when that is done. TaskNotFound, TaskFinished.

        ``key``: its idempotency key, in place of the id.
        TaskRunning for one that runs, unless ``running``: then True means that its worker, or the node that runs its
        command, was asked to stop it.
        ``free_key``: its key may be used again at once, and does not answer KeyCancelled. May be given later, for a
        task that is cancelled already.
        """
        return self._carrier.run(
            self._session.unary(calls.cancel(task_id, running=running, free_key=free_key, key=key))
        )

    def reschedule(
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
        """Moves a task that waits, and changes what else is given; ``labels`` replace all. ``key``: its
        idempotency key, in place of the id. TaskRunning."""
        return self._carrier.run(
            self._session.unary(
                calls.reschedule(task_id, when, priority=priority, payload=payload, labels=labels, key=key)
            )
        )

    def run_now(self, task_id: str | None = None, /, *, key: str | None = None) -> datetime:
        """Makes a task that waits due at once; the answer is its new due time.

        ``key``: its idempotency key, in place of the id."""
        return self._carrier.run(self._session.unary(calls.run_now(task_id, key)))

    # -- many tasks ---------------------------------------------------------------------------------------------

    def list(self, *, limit: int | None = None, **wanted: Unpack[Filter]) -> Iterator[Task]:
        """The tasks that match, soonest minute first; ``limit`` of them, or all. Fetched as they are iterated."""
        return self._carrier.iterate(task_lists.listed(self._session, "List", wanted, limit))

    def cancel_many(
        self,
        *,
        free_keys: bool = False,
        everything: bool = False,
        limit: int = 0,
        dry_run: bool = False,
        **wanted: Unpack[Filter],
    ) -> BulkDone:
        """Cancels the pending tasks that match. ``everything``: without a filter; ``limit`` 0: no limit;
        ``dry_run``: only counts; ``free_keys``: as `cancel`'s free_key."""
        return self._bulk(
            calls.cancel_many, wanted, free_keys=free_keys, everything=everything, limit=limit, dry_run=dry_run
        )

    def reschedule_many(
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
        """Moves the pending tasks that match. As `cancel_many`."""
        call = calls.reschedule_many(
            wanted, {"at": at, "at_ms": at_ms, "delay": delay}, everything=everything, limit=limit, dry_run=dry_run
        )
        return self._carrier.run(self._session.unary(call))

    def run_now_many(
        self, *, everything: bool = False, limit: int = 0, dry_run: bool = False, **wanted: Unpack[Filter]
    ) -> BulkDone:
        """Makes the pending tasks that match due at once. As `cancel_many`."""
        return self._bulk(calls.run_now_many, wanted, everything=everything, limit=limit, dry_run=dry_run)

    def _bulk(self, make: Callable[..., Any], wanted: Mapping[str, Any], **options: Any) -> BulkDone:
        done: BulkDone = self._carrier.run(self._session.unary(make(wanted, **options)))
        return done

    def history(self, *, limit: int | None = None, **wanted: Unpack[HistoryFilter]) -> Iterator[EndedTask]:
        """How tasks ended, the newest end first; ``limit`` of them, or all that are remembered. Fetched as they are
        iterated."""
        return self._carrier.iterate(task_lists.ended(self._session, wanted, limit))

    def events(self, *, after: str | None = None, **wanted: Unpack[EventFilter]) -> Iterator[FeedEvent]:
        """What happens to all tasks from now on, or behind ``after`` (the id of an event): across broken connections,
        for as long as it is iterated. Where events are missing, an event of the kind "missed" says so."""
        return self._carrier.iterate(followed(self._session, wanted, after))

    # -- dead letters -------------------------------------------------------------------------------------------

    def dead(self, *, limit: int | None = None, **wanted: Unpack[Filter]) -> Iterator[Task]:
        """The dead letters that match, newest first. As `list`."""
        return self._carrier.iterate(task_lists.listed(self._session, "ListDead", wanted, limit))

    def replay_dead(self, task_id: str | None = None, /, *, key: str | None = None) -> None:
        """Brings a dead letter back, due at once, its attempts forgotten. ``key``: as `run_now`."""
        self._carrier.run(self._session.unary(calls.replay_dead(task_id, key)))

    def replay_dead_many(
        self, *, everything: bool = False, limit: int = 0, dry_run: bool = False, **wanted: Unpack[Filter]
    ) -> BulkDone:
        """Brings back the dead letters that match, newest first; ``limit`` 0: all of them. As `cancel_many`."""
        return self._bulk(calls.replay_dead_many, wanted, everything=everything, limit=limit, dry_run=dry_run)

    def discard_dead(self, task_id: str | None = None, /, *, key: str | None = None) -> None:
        """Deletes a dead letter for good. ``key``: as `run_now`."""
        self._carrier.run(self._session.unary(calls.discard_dead(task_id, key)))

    def discard_dead_many(
        self, *, everything: bool = False, limit: int = 0, dry_run: bool = False, **wanted: Unpack[Filter]
    ) -> BulkDone:
        """Deletes the dead letters that match for good, newest first; ``limit`` 0: all of them. As `cancel_many`."""
        return self._bulk(calls.discard_dead_many, wanted, everything=everything, limit=limit, dry_run=dry_run)

    # -- the whole ----------------------------------------------------------------------------------------------

    def queues(self, queue: str | None = None, /) -> tuple[Queue, ...]:
        """What each queue holds now, or one of them."""
        return self._carrier.run(self._session.unary(calls.queues(queue)))

    def queue_rules(self, queue: str | None = None, /) -> tuple[QueueRules, ...]:
        """The rules of one queue (``"*"``: of all others), or of every queue that has some."""
        return self._carrier.run(self._session.unary(calls.queue_rules(queue)))

    def set_queue(self, queue: str, /, *, replace: bool = False, **rules: Unpack[RulesToSet]) -> QueueRules:
        """Sets rules of a queue, and clears those given as None; what is not named stays. Returns the rules then.

        In force when it returns, and on every node within a second. ``queue`` may be ``"*"``: all queues without such a
        rule of their own. ``replace``: the queue has no other rules from now on. Needs the scope admin.

        paused: due tasks wait, scheduling goes on, and what runs already ends.
        keep_result: how long results of its functions and commands are kept; 0: not at all.
        retry: of tasks that have no policy, where their function has none either.
        timeout: longest time of one attempt of a function or command whose task sets none.
        weight: its share beside other queues where workers have fewer places than there is work, 0.01 to 100.
        slack: how long tasks may wait behind others of the queue, by priority: ``{"high": "500ms"}``.
        concurrency: most of its tasks that run at a time, over all nodes.
        rate: most of its tasks that begin in any interval, over all nodes, such as ``"100/s"`` or ``"5/10m"``.
        burst: how many of these may begin together; unless set, all of one interval.
        keys: such limits for each value by itself: ``[{"by": "label:customer", "concurrency": 5, "rate": "9/s"}]``.
        key_keep: how long the idempotency key of a task outlives it.
        resume_rate: after a pause, most of what waited that begins in any interval, until all of it has begun.
        """
        return self._carrier.run(self._session.unary(calls.set_queue(queue, rules, replace=replace)))

    def unset_queue(self, queue: str, /) -> None:
        """Returns a queue to the default: clears its rules; its tasks stay. Needs the scope admin."""
        self._carrier.run(self._session.unary(calls.unset_queue(queue)))

    def forecast(
        self, *, start: Moment | None = None, end: Moment | None = None, step: Duration | None = None
    ) -> tuple[ForecastStep, ...]:
        """How many tasks are due when: from now for 24 h in steps of an hour, unless given. Steps are whole minutes."""
        return self._carrier.run(self._session.unary(calls.forecast(start, end, step)))

    def scaling(
        self,
        *,
        queue: str = "",
        function: str = "",
        kind: str = "",
        places: int = 0,
        lead: Duration | None = None,
        clear: Duration | None = None,
    ) -> tuple[ScalingNeed, ...]:
        """How many processes of nodes are needed now, kind by kind; with ``queue`` or ``function`` how many of the
        workers that serve them. What the terms are: docs/howto/autoscale.md.

        ``kind``: clock, grpc, rest or webhook alone, or worker: all workers. ``places``: tasks that one worker runs at
        once; 0: as many as the connected ones. ``lead``: how far ahead to look, 30 s unless given; ``clear``: in which
        time a backlog should be gone, 30 s.
        """
        return self._carrier.run(self._session.unary(fleet.scaling(queue, function, kind, places, lead, clear)))

    def nodes(self) -> tuple[dict[str, Any], ...]:
        """The living nodes, each with its facts, its workers, and its processes as ``members``: what each is for, the
        partitions that it keeps time for, its rate, its lag and its clock."""
        return self._carrier.run(self._session.unary(fleet.nodes()))
