"""Writes events to the feed for one process: in batches, best effort, and only while somebody wants them.

Nothing waits for it: what the store does not take is left out, and readers learn that something is missing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence

from google.protobuf.message import DecodeError

from delaybox.core import texts
from delaybox.core.delivery import Delivery
from delaybox.core.errors import DelayBoxError
from delaybox.core.events import NO_EVENTS, EventKind, EventRules, StoredEvent
from delaybox.core.partition import of_id
from delaybox.core.task import TaskState
from delaybox.processes.waking import rest
from delaybox.store import event_metrics, events
from delaybox.store.asyncio_end import end
from delaybox.store.loader import ScriptRunner
from delaybox.store.record import Draft, Record, UnreadableRecord, read
from delaybox.store.replies import Stored
from delaybox.store.servers import Servers
from delaybox.wire import body as wire_body

log = logging.getLogger("delaybox.store")

ASKED_EVERY_S = 0.5
"""How long it takes at most until a writer knows that somebody wants events."""
_PAUSE_S = 0.05
_LAST_S = 1.0
"""For how long the last events are waited for when a process ends."""
_MOST_WAITING = 20_000
"""Events of one process that wait to be written; of more than that the feed only says how many there were."""
_REASON_BYTES = 200
_ENDS = {
    TaskState.SUCCEEDED: EventKind.COMPLETED,
    TaskState.FAILED: EventKind.DEAD,
    TaskState.CANCELLED: EventKind.CANCELLED,
}


class EventWriter:
    """Collects the events that one process sees. ``now``: Redis's clock (ms) as a partition's server has it.

    Whoever calls checks ``wanted`` first, which is all that events cost while nobody wants them. ``node``: the member
    that sees them; "" where callers cause them.
    """

    def __init__(self, runner: ScriptRunner, servers: Servers, tags: Sequence[str], now: Callable[[int], int]) -> None:
        self._runner = runner
        self._servers = servers
        self._tag = tags[0]
        self._partitions = len(tags)
        self._now = now
        self.rules = NO_EVENTS
        self.node = ""
        self.wanted = False
        """Whether somebody reads events, or did a moment ago."""
        self._waiting: list[StoredEvent] = []
        self._lost = 0
        self._refused = 0
        self._loop: asyncio.Task[None] | None = None
        self._flushing: asyncio.Task[None] | None = None

    def start(self, rules: EventRules, node: str = "") -> None:
        """Begins to look whether events are wanted. A second call of one process only adds its ``node``."""
        self.node = node or self.node
        if rules.enabled and self._loop is None:
            self.rules = rules
            self.wanted = rules.always
            self._loop = asyncio.create_task(self._run(), name="delaybox-events")

    async def close(self) -> None:
        """Writes what is left. Harmless when repeated."""
        loop, self._loop = self._loop, None
        if loop is not None:
            await end(loop)
        if self._flushing is not None:
            await asyncio.wait({self._flushing}, timeout=_LAST_S)
        if self.wanted:
            await self.flush()

    async def _run(self) -> None:
        clock = asyncio.get_running_loop().time
        ask_at = 0.0
        while True:
            try:
                if not self.wanted or clock() >= ask_at:
                    ask_at = clock() + ASKED_EVERY_S
                    if not self.rules.always:
                        self.wanted = await events.wanted(self._servers, self._tag)
                if self._waiting or self._lost:
                    # Shielded, so that the end of this loop does not cut it off.
                    self._flushing = asyncio.create_task(self.flush())
                    await asyncio.shield(self._flushing)
            except DelayBoxError as error:
                # Whether they are wanted stays as it was: while the store is away nothing can be written anyway.
                log.debug("whether events are wanted is not known: %s", error)
            except Exception:
                log.exception("events could not be written; going on")
            await (asyncio.sleep(_PAUSE_S) if self.wanted else rest(ASKED_EVERY_S))

    # -- what happened ------------------------------------------------------------------------------------------

    def scheduled(self, answers: Iterable[tuple[Draft, Stored | DelayBoxError]]) -> None:
        """New tasks, and those that took the place of a pending one; others are passed over."""
        for new, stored in answers:
            if isinstance(stored, DelayBoxError) or stored.refused or not (stored.created or new.replace):
                continue
            try:
                record = read(stored.task_id, new.record)
            except UnreadableRecord:
                continue
            kind = EventKind.SCHEDULED if stored.created else EventKind.CHANGED
            self._put_record(kind, record, due_ms=stored.due_ms, body=new.body or record.body)

    def records(self, kind: EventKind, records: Iterable[Record], *, due_ms: int | None = None) -> None:
        """What happened to tasks of which the record is at hand. ``due_ms``: when they are due from now on."""
        for record in records:
            self._put_record(kind, record, due_ms=record.due_ms if due_ms is None else due_ms, body=record.body)

    def deliveries(
        self, kind: EventKind, deliveries: Iterable[Delivery], *, reason: str = "", failed: int = 0, delay_ms: int = -1
    ) -> None:
        """What happened to tasks that were handed out. ``failed``: attempts that just failed. ``delay_ms``: they are
        due so long from now, and not when they were."""
        why = texts.head(reason, _REASON_BYTES) if reason else ""
        for d in deliveries:
            at_ms = self._now(d.partition)
            self._put(
                StoredEvent(
                    kind,
                    d.task_id,
                    at_ms,
                    d.lane,
                    d.priority,
                    d.due_ms if delay_ms < 0 else at_ms + delay_ms,
                    d.attempt + failed,
                    d.token,
                    _labels(d.body),
                    self.node,
                    why,
                )
            )

    def ended(self, deliveries: Sequence[Delivery], state: TaskState, reason: str = "") -> None:
        """Deliveries that ended their tasks."""
        self.deliveries(_ENDS[state], deliveries, reason=reason, failed=int(state is TaskState.FAILED))

    def _put_record(self, kind: EventKind, r: Record, *, due_ms: int, body: bytes, reason: str = "") -> None:
        at_ms = self._now(of_id(r.task_id, self._partitions))
        labels = _labels(body)
        self._put(
            StoredEvent(
                kind, r.task_id, at_ms, r.lane, r.priority, due_ms, r.attempt, r.deliveries, labels, self.node, reason
            )
        )

    def dead(self, record: Record, reason: str) -> None:
        """A task that became a dead letter without a delivery of this process."""
        why = texts.head(reason, _REASON_BYTES)
        self._put_record(EventKind.DEAD, record, due_ms=record.due_ms, body=record.body, reason=why)

    def _put(self, event: StoredEvent) -> None:
        if len(self._waiting) >= _MOST_WAITING:
            self._lost += 1
        else:
            self._waiting.append(event)

    # -- the store ----------------------------------------------------------------------------------------------

    async def gap(self) -> None:
        """Writes down that for a while there were no writers."""
        await self._runner.run(events.emit_call(self._tag, self.rules, list(events.chunks([], events.UNKNOWN))))

    async def flush(self) -> None:
        """Writes what was collected; what is refused is left out."""
        waiting, self._waiting = self._waiting, []
        lost, self._lost = self._lost, 0
        event_metrics.dropped("process", lost)
        entries = list(events.chunks(waiting, lost))
        for at in range(0, len(entries), events.MOST_CHUNKS):
            some = entries[at : at + events.MOST_CHUNKS]
            count = sum(n for n, _ in some)
            try:
                gone = await self._runner.run(events.emit_call(self._tag, self.rules, some))
            except DelayBoxError as error:
                if not self._refused:
                    log.warning("events are not written for now: %s", error)
                self._refused += count
                self._lost += count
                event_metrics.dropped("store", count)
                continue
            if self._refused:
                log.info("events are written again; %d were left out", self._refused)
                self._refused = 0
            event_metrics.written(count)
            event_metrics.dropped("bounds", gone)


def _labels(body: bytes) -> Mapping[str, str]:
    """The labels in a body; none of one that lies apart."""
    if not body:
        return {}
    try:
        return wire_body.pairs(wire_body.decode(body).labels)
    except DecodeError:
        return {}
