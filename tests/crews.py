"""A worker's crews without a node: assignments in, what is said of them out."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from delaybox.wire.gen import task_pb2
from delaybox.wire.gen import worker_pb2 as pb
from delaybox.worker import Worker
from delaybox.worker.attempt import Common, TaskRun
from delaybox.worker.functions import FunctionKind
from delaybox.worker.runner import CREWS
from delaybox.worker.session import NodeSession
from tests.waiting import PATIENCE_S


class Reported:
    """All that a session reported, merged."""

    def __init__(self) -> None:
        self.done: list[int] = []
        self.handed_back: list[int] = []
        self.succeeded: dict[int, pb.Succeeded] = {}
        self.failed: dict[int, pb.Failed] = {}
        self.progress: dict[int, list[tuple[float, str]]] = {}

    def add(self, raw: bytes | None) -> None:
        if raw is None:
            return
        message = pb.FromWorker.FromString(raw)
        self.done += message.done
        self.handed_back += message.handed_back
        self.succeeded |= {s.sequence: s for s in message.succeeded}
        self.failed |= {f.sequence: f for f in message.failed}
        for p in message.progress:
            self.progress.setdefault(p.sequence, []).append((p.progress.fraction, p.progress.message))

    @property
    def ended(self) -> set[int]:
        return {*self.done, *self.handed_back, *self.succeeded, *self.failed}


class Shift:
    """One crew with one session."""

    def __init__(self, worker: Worker, kind: FunctionKind, size: int) -> None:
        self.common = Common()
        self.common.bind()
        self.crew = CREWS[kind](worker.functions, size=size, common=self.common)
        self._changed = asyncio.Event()
        self.session: NodeSession[TaskRun] = NodeSession(pb.Hello(), self._changed.set)
        self.crew.freed = self._changed.set
        self.reported = Reported()
        self._numbers = itertools.count(1)
        self._sequences = itertools.count(1)
        self._welcome("s1")
        self.crew.slots.join(self.session)
        self.session.flush(self.crew.slots.room(self.session))

    def _welcome(self, session: str) -> None:
        self.session.hello()
        welcome = pb.Welcome(session=session, heartbeat_ms=1_000, resume_ms=2_000, max_output=100_000)
        self._receive(pb.ToWorker(welcome=welcome))

    def _receive(self, message: pb.ToWorker) -> None:
        self.crew.handle(self.session, self.session.receive(message))

    def give(self, *calls: tuple[str, Any], want_result: bool = False, **task: Any) -> list[int]:
        """Assigns them: (function, arguments as JSON would have them, or bytes as they stand); their sequences."""
        slots = self.crew.slots
        self.reported.add(self.session.flush(slots.room(self.session), slots.ahead_of(self.session)))
        assigned = []
        for name, arguments in calls:
            payload = arguments if isinstance(arguments, bytes) else json.dumps(arguments).encode()
            assigned.append(
                pb.Assignment(
                    sequence=next(self._sequences),
                    id="01a2b3c4-d5e6-8001-9f00-112233445566",
                    name=name,
                    queue="default",
                    due_ms=1_800_000_000_000,
                    attempt=1,
                    token=2,
                    want_result=want_result,
                    task=task_pb2.Task(payload=payload, **task),
                )
            )
        self._receive(pb.ToWorker(number=next(self._numbers), tasks=assigned))
        return [a.sequence for a in assigned]

    def cancel(self, *sequences: int) -> None:
        self._receive(pb.ToWorker(number=next(self._numbers), cancel=sequences))

    def forgotten(self) -> None:
        """The node does not know the session any more."""
        self._welcome("another")

    async def until(self, *sequences: int) -> Reported:
        """Returns when something final was said of each."""
        await self.when(lambda: set(sequences) <= self.reported.ended)
        return self.reported

    async def when(self, true: Any) -> None:
        """Returns when a condition holds that what is said, or a place that comes free, makes true."""
        while True:
            self._changed.clear()
            self.reported.add(self.session.flush())
            if true():
                return
            await asyncio.wait_for(self._changed.wait(), PATIENCE_S)


@asynccontextmanager
async def shift(worker: Worker, kind: FunctionKind, *, size: int = 10) -> AsyncIterator[Shift]:
    made = Shift(worker, kind, size)
    await made.crew.start()
    try:
        yield made
    finally:
        await made.crew.stop()
