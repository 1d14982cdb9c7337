"""New tasks in the trace of the request that asks for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msgspec.structs import replace

from delaybox.core.errors import DelayBoxError
from delaybox.core.task import NewTask
from delaybox.wire import body
from delaybox.wire.encoded import EncodedTask
from delaybox.wire.trace import PARENT


def with_trace(task: NewTask, trace: Mapping[str, bytes]) -> NewTask:
    """The same task, in that trace. What its caller put into its headers stays."""
    if not trace or PARENT in task.header:
        return task
    return replace(task, header={**task.header, **trace})


def each_with_trace(
    tasks: Iterator[EncodedTask | NewTask | DelayBoxError], trace: Mapping[str, bytes]
) -> Iterator[EncodedTask | NewTask | DelayBoxError]:
    """The tasks of a batch, each in that trace unless it has one of its own."""
    start = body.headers(trace)
    for one in tasks:
        if isinstance(one, EncodedTask):
            # Those of a batch have no headers (`wire.proto.bulk.plain`), which stand before all else in a body.
            yield EncodedTask(one.due48, start + one.body, one.kind)
        else:
            yield with_trace(one, trace) if isinstance(one, NewTask) else one
