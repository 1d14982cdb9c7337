"""Adoption: a worker comes from another node and brings along what it runs; this node answers for it from then on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from delaybox.core import ids
from delaybox.core.delivery import LOST, Delivery, Report, Target
from delaybox.core.errors import DelayBoxError, InvalidTask
from delaybox.targets.worker_offers import ClaimedTasks, Offered, Wishes
from delaybox.targets.worker_session import WorkerSession
from delaybox.wire.gen import worker_pb2

log = logging.getLogger("delaybox.workers")

_LONGEST_PAUSE_S = 1.0
_LONGEST_LEASE = 64
"""Bytes: no lease has a longer id, and whatever a worker sends becomes part of a key's name."""


class AdoptedTasks(Protocol):
    """What became of tasks that were to be adopted; those in neither list were lost."""

    @property
    def leased(self) -> Sequence[bytes]:
        """Flat: id, record, id, record."""
        ...

    @property
    def ended(self) -> Sequence[bytes]:
        """Ids."""
        ...


class Adopting(Protocol):
    """Moves tasks between leases; in a node it is the engine."""

    def new_lease(self) -> bytes:
        """An id for a lease that `adopt` can fill."""

    def adopt(
        self, partition: int, old_lease: bytes, new_lease: bytes, task_ids: Sequence[bytes], target: Target
    ) -> Awaitable[AdoptedTasks]:
        """Moves tasks to a new lease; those that moved come to ``target``. Again does no harm. StoreUnavailable."""


class Adoption:
    """Tasks of one lease that a worker brought along. As a target it takes those that moved to the worker's session.

    ``wishes``: how long a task's result is kept and how long an attempt may take, ms. ``watch``: sets the timer of
    time-outs. ``is_open``: whether a session is not over.
    """

    def __init__(
        self,
        session: WorkerSession,
        carried: worker_pb2.Carried,
        *,
        wishes: Callable[[Delivery], Wishes],
        watch: Callable[[], None],
        is_open: Callable[[WorkerSession], bool],
    ) -> None:
        self._session = session
        self._partition, self._lease = carried.partition, carried.lease
        self._wishes, self._watch, self._is_open = wishes, watch, is_open
        self._brought: dict[bytes, worker_pb2.CarriedTask] = {}
        for task in carried.tasks:
            try:
                task_id = ids.parse(task.id)
            except InvalidTask:
                task_id = b""
            if task_id and len(carried.lease) <= _LONGEST_LEASE:
                self._brought[task_id] = task
            else:
                session.not_adopted(task.number, ended=False)

    async def run(self, host: Adopting) -> None:
        """Adopts the tasks and answers the worker for each; tries again while the store is away."""
        new_lease, session = host.new_lease(), self._session
        pause_s = 0.05
        while self._brought and self._is_open(session):
            try:
                found = await host.adopt(self._partition, self._lease, new_lease, list(self._brought), self)
            except DelayBoxError as error:
                log.warning("tasks that worker %s brought along wait: %s", session.profile.identity, error)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                continue
            moved, ended = set(found.leased[0::2]), set(found.ended)
            for task_id, task in self._brought.items():
                if task_id not in moved:
                    session.not_adopted(task.number, ended=task_id in ended)
            log.info(
                "worker %s brought %d tasks along: %d go on under this node, %d have ended, others have the rest",
                session.profile.identity,
                len(self._brought),
                len(moved),
                len(ended),
            )
            return

    async def deliver(self, batch: Sequence[Delivery], report: Report) -> None:
        """Returns when all are reported."""
        if not self._is_open(self._session):
            report(batch, LOST)
            return
        run = ClaimedTasks(report, len(batch))
        for d in batch:
            task = self._brought[d.task_id]
            self._session.take_over(task.number, Offered(d, run, *self._wishes(d)), task.ran_ms)
        self._watch()
        try:
            await run.over
        except asyncio.CancelledError:
            self._session.forget(run)
            raise
