"""Spans of what an engine hands out: one of each claim, and one of each delivery, which is the task's firing.

A firing may come days after the scheduling, so it begins a trace of its own, which is linked to the scheduling's.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Sequence

from google.protobuf.message import DecodeError
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode

from delaybox.core.delivery import Delivery, Done, Elsewhere, Failed, HandBack, Lost, Outcome, Report, Snoozed, Target
from delaybox.core.lane import split
from delaybox.otel.spans import Spans, described, failed, parent_of, remote
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


def _begun(spans: Spans, batch: Sequence[Delivery]) -> dict[bytes, Span]:
    """The spans of those deliveries whose firing is recorded, by task."""
    found: dict[bytes, Span] = {}
    claim: list[Link] | None = None
    for d in batch:
        context = remote(_trace(d.body))
        if context is not None and not context.trace_flags.sampled:
            continue  # its caller does not want it traced
        if claim is None:
            claim = _claim(spans, batch)
        lane = split(d.lane)
        more: dict[str, str | int | float | bool] = {
            "messaging.message.id": d.id,
            "delaybox.task.type": lane.type.name.lower(),
            "delaybox.task.attempt": d.attempt + 1,
            "delaybox.task.due_ms": d.due_ms,
            "delaybox.task.late_ms": max(0, d.fired_ms - d.due_ms),
        }
        if lane.name:
            more["delaybox.task.name"] = lane.name
        span = spans.tracer.start_span(
            f"deliver {lane.queue}",
            kind=SpanKind.PRODUCER,
            attributes=described("send", "deliver", lane.queue, more),
            links=claim if context is None else [Link(context), *claim],
        )
        if span.is_recording():
            found[d.task_id] = span
            d.trace = parent_of(span)
    return found


def _claim(spans: Spans, batch: Sequence[Delivery]) -> list[Link]:
    """A span of the claim that the deliveries came by, from then until they are handed out; a link to it if it is
    recorded."""
    first = batch[0]
    now = time.time_ns()
    more = {"messaging.batch.message_count": len(batch), "delaybox.partition": first.partition}
    span = spans.tracer.start_span(
        "claim",
        kind=SpanKind.CONSUMER,
        attributes=described("receive", "claim", split(first.lane).queue, more),
        start_time=min(now, first.fired_ms * 1_000_000),
    )
    span.end(now)
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
