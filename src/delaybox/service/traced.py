"""Spans of the scheduling of tasks. Loaded where a process traces."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from delaybox.core.errors import DelayBoxError
from delaybox.core.task import NewTask, Submitted
from delaybox.otel import tracing
from delaybox.otel.spans import MOST_LINKS, parent_of
from delaybox.service.submit import BatchItem, Submitter, Then
from delaybox.store.store import Store, Stored
from delaybox.wire.in_trace import with_trace
from delaybox.wire.trace import PARENT, trace_in

_Traces = dict[bytes, Mapping[str, bytes]]
"""The traces that tasks of a batch belong to, by their traceparent."""


class TracedSubmitter(Submitter):
    """A `Submitter` whose calls are spans."""

    def __init__(self, store: Store, **options: Any) -> None:
        super().__init__(store, **options)
        assert tracing.spans is not None
        self._spans = tracing.spans

    async def submit(self, task: NewTask) -> Submitted:
        about = {"delaybox.task.type": task.type.name.lower()}
        if task.name:
            about["delaybox.task.name"] = task.name
        with self._spans.scheduling(task.queue, about, trace_in(task.header)) as span:
            if span.is_recording():
                tracing.latest.set(parent_of(span))
                # A task that belongs to no trace belongs to this one.
                task = with_trace(task, {PARENT: parent_of(span)})
            stored = await super().submit(task)
            span.set_attribute("messaging.message.id", stored.task_id)
            span.set_attribute("delaybox.created", stored.created)
            return stored

    def submit_soon(self, task: NewTask, then: Then) -> bool:
        return False  # a span lasts as long as a coroutine

    async def submit_many(self, tasks: Sequence[NewTask]) -> list[Submitted | DelayBoxError]:
        began, traces = time.time_ns(), _Traces()
        for task in tasks:
            _note(traces, task)
        answers = await super().submit_many(tasks)
        self._ended(began, answers, traces)
        return answers

    async def submit_batch(self, tasks: Iterable[BatchItem]) -> list[Stored | DelayBoxError]:
        began, traces = time.time_ns(), _Traces()

        def noted() -> Iterator[BatchItem]:
            for item in tasks:
                if isinstance(item, NewTask):
                    _note(traces, item)
                yield item

        answers = await super().submit_batch(noted())
        self._ended(began, answers, traces)
        return answers

    def _ended(self, began_ns: int, answers: Sequence[object], traces: _Traces) -> None:
        refused = sum(isinstance(answer, DelayBoxError) for answer in answers)
        self._spans.scheduled(began_ns, len(answers), refused, traces.values())


def _note(traces: _Traces, task: NewTask) -> None:
    if task.header and (parent := task.header.get(PARENT)) and parent not in traces and len(traces) < MOST_LINKS:
        traces[parent] = trace_in(task.header)
