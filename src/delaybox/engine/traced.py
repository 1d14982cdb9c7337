"""Spans of what an engine hands out: one of each claim, and one of each delivery, which is the task's firing.

A firing may come days after the scheduling, so it begins a trace of its own, which is linked to the scheduling's. The
latest one of a batch is the example in the histogram of lateness.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple

from google.protobuf.message import DecodeError
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode

from delaybox import metrics
from delaybox.core import ids
from delaybox.core.delivery import Delivery, Done, Elsewhere, Failed, HandBack, Lost, Outcome, Report, Snoozed, Target
from delaybox.core.lane import split
from delaybox.otel.spans import Spans, described, failed, parent_of, remote
from delaybox.store.record import read
from delaybox.store.replies import Claimed
from delaybox.wire import body as wire_body
from delaybox.wire.trace import PARENT, trace_in

log = logging.getLogger("delaybox.otel")

_MARK = PARENT.encode()
_NAMES = {Done: "done", Failed: "failed", Snoozed: "snoozed", HandBack: "handed_back", Lost: "lost", Elsewhere: "moved"}

HandOut = Callable[[Target, Sequence[Delivery], Report], Awaitable[None]]


def traced(spans: Spans) -> HandOut:
    """Hands deliveries to a target as it does itself, each within a span that ends with its report."""

    async def hand_out(target: Target, batch: Sequence[Delivery], report: Report) -> None:
        try:
            under_way = _begun(spans, batch)
        except Exception:  # a task is carried out even if its span cannot be made
            log.exception("%d deliveries are not traced", len(batch))
            under_way = {}
        if not under_way:
            await target.deliver(batch, report)
            return

        def reported(deliveries: Sequence[Delivery], outcome: Outcome) -> None:
            for d in deliveries:
                if (span := under_way.pop(d.task_id, None)) is not None:
                    _end(span, outcome)
            report(deliveries, outcome)

        try:
            await target.deliver(batch, reported)
        except BaseException as error:
            for span in under_way.values():
                failed(span, error)
            raise
        finally:
            for span in under_way.values():
                span.end()

    return hand_out


class PlacedSpans:
    """Spans of tasks that claims publish themselves. They are made in small parts between other work, because to make
    them takes longer than to publish the tasks."""

    MOST: Final = 2_000
    """Tasks that wait for their spans; further ones get none, and are counted as dropped."""
    _AT_ONCE: Final = 8

    def __init__(self, spans: Spans) -> None:
        self._spans = spans
        self._waiting: deque[_Placed] = deque()
        self._making: asyncio.Task[None] | None = None

    def add(self, partition: int, claimed: Claimed) -> None:
        """What a claim published, as far as its reply names the tasks with their bodies; never blocks."""
        named, now_ns = claimed.named, time.time_ns()
        room = max(0, self.MOST - len(self._waiting))
        if (count := len(named) // 2) > room:
            metrics.otel_dropped("spans", count - room)
            named = named[: 2 * room]
        if not named:
            return
        fired_ns = min(now_ns, claimed.now_ms * 1_000_000)
        of = _Claim(partition, count, fired_ns, now_ns)
        self._waiting.extend(_Placed(named[at], named[at + 1], of) for at in range(0, len(named), 2))
        if self._making is None or self._making.done():
            self._making = asyncio.create_task(self._make(), name="delaybox-placed-spans")

    async def stop(self) -> None:
        """Makes those that are left."""
        if self._making is not None:
            await asyncio.wait({self._making})

    async def _make(self) -> None:
        while self._waiting:
            for _ in range(min(self._AT_ONCE, len(self._waiting))):
                placed = self._waiting.popleft()
                try:
                    self._one(placed)
                except Exception:  # it is published all the same
                    log.exception("a task that was published is not traced")
            await asyncio.sleep(0)

    def _one(self, placed: _Placed) -> None:
        record, claim = read(placed.task_id, placed.record), placed.claim
        context = remote(_trace(record.body))
        if context is not None and not context.trace_flags.sampled:
            return
        fired_ms = claim.fired_ns // 1_000_000
        lane = split(record.lane)
        if claim.links is None:
            claim.links = _claim(self._spans, claim, lane.queue)
        span = self._spans.tracer.start_span(
            f"deliver {lane.queue}",
            kind=SpanKind.PRODUCER,
            attributes=_about(ids.render(record.task_id), record.lane, record.attempt, record.due_ms, fired_ms)
            | {"delaybox.outcome": "done", "delaybox.in_place": True},
            links=claim.links if context is None else [Link(context), *claim.links],
            start_time=claim.fired_ns,
        )
        if span.is_recording() and not claim.example:
            claim.example = True
            metrics.lateness_example(max(0, fired_ms - record.due_ms), parent_of(span))
        span.end(claim.ended_ns)


class _Claim:
    """One claim. ``count``: what it took; ``links``: to its span, once that is made; ``example``: whether one of its
    tasks is an example already."""

    __slots__ = ("count", "ended_ns", "example", "fired_ns", "links", "partition")

    def __init__(self, partition: int, count: int, fired_ns: int, ended_ns: int) -> None:
        self.partition = partition
        self.count = count
        self.fired_ns = fired_ns
        self.ended_ns = ended_ns
        self.links: list[Link] | None = None
        self.example = False


class _Placed(NamedTuple):
    task_id: bytes
    record: bytes
    claim: _Claim


def _begun(spans: Spans, batch: Sequence[Delivery]) -> dict[bytes, Span]:
    """The spans of those deliveries whose firing is recorded, by task."""
    found: dict[bytes, Span] = {}
    links: list[Link] | None = None
    latest: Delivery | None = None
    for d in batch:
        context = remote(_trace(d.body))
        if context is not None and not context.trace_flags.sampled:
            continue  # its caller does not want it traced
        queue = split(d.lane).queue
        if links is None:
            now_ns = time.time_ns()
            fired_ns = min(now_ns, d.fired_ms * 1_000_000)
            links = _claim(spans, _Claim(d.partition, len(batch), fired_ns, now_ns), queue)
        span = spans.tracer.start_span(
            f"deliver {queue}",
            kind=SpanKind.PRODUCER,
            attributes=_about(d.id, d.lane, d.attempt, d.due_ms, d.fired_ms),
            links=links if context is None else [Link(context), *links],
        )
        if span.is_recording():
            found[d.task_id] = span
            d.trace = parent_of(span)
            if latest is None or d.due_ms < latest.due_ms:
                latest = d
    if latest is not None:
        metrics.lateness_example(max(0, latest.fired_ms - latest.due_ms), latest.trace)
    return found


def _about(task_id: str, lane: bytes, attempt: int, due_ms: int, fired_ms: int) -> dict[str, str | int | float | bool]:
    """The attributes of a firing."""
    of = split(lane)
    more: dict[str, str | int | float | bool] = {
        "messaging.message.id": task_id,
        "delaybox.task.type": of.type.name.lower(),
        "delaybox.task.attempt": attempt + 1,
        "delaybox.task.due_ms": due_ms,
        "delaybox.task.late_ms": max(0, fired_ms - due_ms),
    }
    if of.name:
        more["delaybox.task.name"] = of.name
    return described("send", "deliver", of.queue, more)


def _claim(spans: Spans, claim: _Claim, queue: str) -> list[Link]:
    """A span of the claim that tasks came by, from then until they are handed out; a link to it if it is recorded."""
    more = {"messaging.batch.message_count": claim.count, "delaybox.partition": claim.partition}
    span = spans.tracer.start_span(
        "claim",
        kind=SpanKind.CONSUMER,
        attributes=described("receive", "claim", queue, more),
        start_time=claim.fired_ns,
    )
    span.end(claim.ended_ns)
    return [Link(span.get_span_context())] if span.is_recording() or span.get_span_context().trace_flags.sampled else []


def _trace(body: bytes) -> dict[str, bytes]:
    if _MARK not in body:
        return {}
    try:
        return dict(trace_in(wire_body.decode(body).header))
    except DecodeError:
        return {}


def _end(span: Span, outcome: Outcome) -> None:
    span.set_attribute("delaybox.outcome", _NAMES[type(outcome)])
    if isinstance(outcome, Failed | Lost):
        # The reason may quote what the task holds, so it stays in the store.
        span.set_status(Status(StatusCode.ERROR))
    span.end()
