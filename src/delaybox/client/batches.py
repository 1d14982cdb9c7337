"""The tasks of one request on their way, and the answer when all of them are stored.

Over gRPC both are messages. Straight on Redis, client and store share one process: there the tasks go as they stand,
and the ids of new tasks are not written as text until somebody reads them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, overload

from delaybox.client.models import ScheduleAnswer, Scheduled
from delaybox.core import ids
from delaybox.wire.gen import scheduler_pb2 as pb


class TaskBatch:
    """Tasks for a store in this process, in place of a ScheduleBatchRequest."""

    __slots__ = ("tasks",)

    def __init__(self, tasks: Sequence[pb.NewTask]) -> None:
        self.tasks = tasks


def batch_request(tasks: Sequence[pb.NewTask]) -> pb.ScheduleBatchRequest:
    """Tasks for a node, copied into one message."""
    return pb.ScheduleBatchRequest(tasks=tasks)


class _Stored(Protocol):
    """What a store answers about one task. ``task_id``: 16 bytes."""

    @property
    def task_id(self) -> bytes: ...

    @property
    def due_ms(self) -> int: ...

    @property
    def created(self) -> bool: ...


class StoredBatch(Sequence[ScheduleAnswer]):
    """The answers to a batch of which every task is stored. ``created``: how many of them are new."""

    __slots__ = ("_stored", "created")

    def __init__(self, stored: Sequence[_Stored]) -> None:
        self._stored = stored
        self.created = sum([one.created for one in stored])

    def __len__(self) -> int:
        return len(self._stored)

    def __iter__(self) -> Iterator[ScheduleAnswer]:
        return map(_answer, self._stored)

    @overload
    def __getitem__(self, at: int, /) -> ScheduleAnswer: ...

    @overload
    def __getitem__(self, at: slice, /) -> StoredBatch: ...

    def __getitem__(self, at: int | slice, /) -> ScheduleAnswer | StoredBatch:
        return StoredBatch(self._stored[at]) if isinstance(at, slice) else _answer(self._stored[at])


def _answer(stored: _Stored) -> ScheduleAnswer:
    return ScheduleAnswer(ids.render(stored.task_id), stored.due_ms, stored.created)


def count(done: Scheduled, outcomes: Sequence[ScheduleAnswer | Exception]) -> None:
    """Counts outcomes; those of a batch that is stored as a whole without looking at each."""
    if isinstance(outcomes, StoredBatch):
        done.created += outcomes.created
        done.existing += len(outcomes) - outcomes.created
        return
    for outcome in outcomes:
        done.add(outcome)
