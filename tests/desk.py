"""The node's side of worker sessions without a stream: a gateway, its engine's end, and workers made of messages."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Any

from delaybox.core import ids
from delaybox.core.delivery import Delivery, Outcome
from delaybox.core.lane import lane_of
from delaybox.core.queue import LiveRules, QueueRules, RuleBook
from delaybox.core.task import NewTask, TaskType
from delaybox.engine.stored import StoreProgress
from delaybox.store.leases import Adopted
from delaybox.targets.worker_gateway import Gateway
from delaybox.targets.worker_pool import LanePool
from delaybox.targets.worker_profile import Profile
from delaybox.targets.worker_session import WorkerSession
from delaybox.wire import body as wire_body
from delaybox.wire.gen import worker_pb2
from tests.waiting import PATIENCE_S

LANE = lane_of(TaskType.WORKER, "mail", "send")
LANES = frozenset([LANE])
NOW = 1_800_000_000_000


def delivery(*, losses: int = 0, **parts: Any) -> Delivery:
    task = NewTask(type=TaskType.WORKER, queue="mail", name="send", **parts)
    task_id = NOW.to_bytes(6, "big") + ids.tails(3, os.urandom(8))[0]
    return Delivery(task_id, 3, b"L" * 16, 1 + losses, 0, losses, NOW, LANE, False, wire_body.encode(task))


class Engine:
    """Takes reports in."""

    def __init__(self) -> None:
        self.outcomes: dict[bytes, Outcome] = {}
        self._more = asyncio.Event()

    async def reported(self, count: int) -> None:
        """Returns when outcomes of so many tasks were reported."""
        async with asyncio.timeout(PATIENCE_S):
            while len(self.outcomes) < count:
                self._more.clear()
                await self._more.wait()

    def report(self, deliveries: Sequence[Delivery], outcome: Outcome) -> None:
        for d in deliveries:
            assert d.task_id not in self.outcomes, "reported twice"
            self.outcomes[d.task_id] = outcome
        self._more.set()


class Claimer:
    coming = 0

    def more_room(self) -> None:
        pass


class Host:
    """Stands where the engine admits pools."""

    def __init__(self) -> None:
        self.pools: list[Any] = []
        self.stored = StoreProgress()

    def admit(
        self, *, lanes: Sequence[bytes], target: Any, room: Any, full: Any = None, called_only: bool = False
    ) -> Claimer:
        self.pools.append(target)
        return Claimer()

    def serve(self, guest: object, lanes: Sequence[bytes]) -> None:
        pass

    async def waits(self, lanes: Sequence[bytes], partitions: Sequence[int]) -> bool:
        return bool(partitions)

    async def dismiss(self, guest: object) -> None:
        pass

    def new_lease(self) -> bytes:
        return b"N" * 20

    async def adopt(self, *_: object) -> Adopted:
        return Adopted([], [])


class Desk:
    """A gateway, its engine's end, and workers made of messages."""

    def __init__(self, keep_ms: int = 0, max_output: int = 100, *, same_process: bool = False) -> None:
        self.engine = Engine()
        self.host = Host()
        self.gateway = Gateway(
            self.host,
            rules=LiveRules(RuleBook(default=QueueRules(keep_result_ms=keep_ms))),
            now_ms=lambda: NOW,
            max_output=max_output,
            same_process=same_process,
        )

    def open(self, credit: int = 0, **profile: Any) -> WorkerSession:
        session = self.gateway.open(Profile(lanes=LANES, **profile))
        if credit:
            self.receive(session, number=1, credit=credit)
        return session

    def receive(self, session: WorkerSession, **parts: Any) -> None:
        session.receive(worker_pb2.FromWorker(**parts))
        self.gateway.received(session)

    @property
    def pool(self) -> LanePool:
        pool = self.host.pools[-1]
        assert isinstance(pool, LanePool)
        return pool

    async def deliver(self, *deliveries: Delivery) -> asyncio.Task[None]:
        task = asyncio.create_task(self.pool.deliver(deliveries, self.engine.report))
        await asyncio.sleep(0)
        return task


def messages_of(session: WorkerSession, *, idle: bool = False) -> list[worker_pb2.ToWorker]:
    return [worker_pb2.ToWorker.FromString(raw) for raw in session.messages(idle=idle)]


def tasks_of(messages: Sequence[worker_pb2.ToWorker]) -> list[worker_pb2.Assignment]:
    return [task for message in messages for task in message.tasks]
