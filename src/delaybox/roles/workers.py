"""The service delaybox.v1.Worker of a gRPC process, with the engine that claims for the workers connected to it.

The engine is no time keeper (ADR 0010), and runs in this process so that calls and streams do not delay the clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Mapping

from google.protobuf.descriptor import ServiceDescriptor

from delaybox import metrics
from delaybox.api.grpc.calls import Caller, Serialized
from delaybox.api.grpc.settings import GrpcSettings
from delaybox.api.grpc.work import NotYet, Streams
from delaybox.core import ids
from delaybox.core.errors import DelayBoxError, StoreUnavailable
from delaybox.core.membership import Activity, member_id
from delaybox.core.queue import LiveRules
from delaybox.engine.engine import Engine
from delaybox.engine.loops import Loop
from delaybox.engine.options import EngineOptions
from delaybox.engine.wakeups import Listener
from delaybox.processes.spec import ProcessKind
from delaybox.roles.beating import Beating
from delaybox.store import functions, progress
from delaybox.store.store import Store
from delaybox.targets.worker_gateway import Gateway
from delaybox.targets.worker_session import WorkerSession
from delaybox.wire import progress as wire_progress
from delaybox.wire.gen import worker_pb2

log = logging.getLogger("delaybox.workers")

PROGRESS_S = 0.25
"""Pause between two writes of progress; of each task only the last report in between is stored."""
_STOP_S = 2.0
_STORED_S = 1.0
"""How long what workers reported may take to be stored, before the last confirmation goes to them."""


class WorkerService:
    """The service delaybox.v1.Worker with the engine behind it."""

    def __init__(self, settings: GrpcSettings) -> None:
        self._settings = settings
        self._streams: Streams | NotYet = NotYet()
        self._engine: Engine | None = None
        self._gateway: Gateway | None = None
        self._listener: Listener | None = None
        self._noting: Loop | None = None
        self._store: Store | None = None
        self._reported: dict[bytes, bytes] = {}
        self._announced: dict[str, str] = {}

    @property
    def descriptor(self) -> ServiceDescriptor:
        """Of the service in the contract."""
        return worker_pb2.DESCRIPTOR.services_by_name["Worker"]

    def work(self, requests: AsyncIterator[worker_pb2.FromWorker], caller: Caller) -> AsyncIterator[Serialized]:
        """A worker's stream."""
        return self._streams.work(requests, caller)

    async def start(self, store: Store) -> None:
        """The store is open."""
        s = self._settings
        options = EngineOptions(
            node_id=member_id(s.node_id, ProcessKind.GRPC, s.number),
            node=s.node_id,
            kind=ProcessKind.GRPC,
            roles=s.roles,
            clock=False,
            channel="",
            lease_ms=s.lease_ms,
            heartbeat_ms=s.heartbeat_ms,
            poll_ms=s.poll_ms,
            history=s.history,
        )
        self._store = store
        rules = LiveRules(s.queues)
        self._engine = engine = Engine(store, {}, options, hosts=True, facts=self._facts, rules=rules)
        self._gateway = gateway = Gateway(engine, rules=rules, max_output=s.max_output, lease_ms=s.lease_ms)
        self._listener = Listener(store, store.control_channel, self._asked)
        self._noting = Loop("progress of tasks", self._note)
        await engine.start()
        await self._listener.start()
        self._noting.start()
        self._streams = Streams(
            gateway,
            node=s.node_id,
            heartbeat_ms=s.heartbeat_ms,
            on_progress=self._progress,
            announce=self._announce,
        )

    async def stop(self) -> None:
        """Asks workers to go elsewhere. They take along what they run, or finish it within the grace."""
        if self._gateway is None or self._engine is None:
            return
        self._gateway.leave()
        loop = asyncio.get_running_loop()
        give_up = loop.time() + max(0.0, self._settings.grace_s - _STOP_S)
        while self._gateway.held and loop.time() < give_up:
            await self._gateway.wait_for_answer(give_up - loop.time())
        if self._gateway.held:
            # What is left runs on: its lease lasts from here, and whichever node its worker comes to adopts it.
            with contextlib.suppress(DelayBoxError):
                await self._engine.extend()
            await self._gateway.stored(within_s=_STORED_S)
            self._gateway.part()
        if isinstance(self._streams, Streams):
            self._streams.end()
        if self._noting is not None:
            await self._noting.stop()
        if self._listener is not None:
            await self._listener.stop()
        await self._engine.stop(0.0)

    def _facts(self) -> Activity | None:
        if self._gateway is None or not (self._settings.node_id or self._gateway.connected):
            return None  # A process that no node started is a member while it has workers.
        return self._gateway.activity()

    def _asked(self, message: bytes) -> None:
        word, _, text = message.partition(b" ")
        if word == b"cancel" and self._gateway is not None:
            try:
                self._gateway.cancel(ids.parse(text.decode("ascii", "replace")))
            except DelayBoxError as error:
                log.warning("the control channel said something strange: %s", error)

    def _progress(self, session: WorkerSession, report: worker_pb2.TaskProgress) -> None:
        d = session.delivery(report.sequence)
        if d is not None:
            self._reported[d.task_id] = wire_progress.encode(wire_progress.checked(report.progress))

    async def _announce(self, own: Mapping[str, str]) -> None:
        self._announced = functions.waiting(self._announced, own)
        try:
            await self._keep_announced()
        except DelayBoxError as error:
            log.warning("the queues that functions have of their own are not kept yet: %s", error)

    async def _keep_announced(self) -> None:
        """Stores the announcements that could not be stored before."""
        if self._announced and self._store is not None:
            now, self._announced = self._announced, {}
            try:
                left_out = await functions.announce(self._store, now)
            except BaseException:
                self._announced = functions.waiting(now, self._announced)
                raise
            if left_out:
                log.warning(
                    "%d functions have a queue of their own already: that of %s is not kept, callers must name it",
                    functions.MOST,
                    ", ".join(left_out[:5]),
                )

    async def _note(self) -> float:
        await self._keep_announced()
        if self._gateway is not None:
            metrics.workers(self._gateway.connected, self._gateway.held)
        if self._reported and self._store is not None:
            reports, self._reported = self._reported, {}
            await progress.note(self._store, reports)
        return PROGRESS_S


class NoWorkers:
    """Stands in for `WorkerService` on a node without the role ``work``: refuses workers, names where they can go."""

    def __init__(self, settings: GrpcSettings) -> None:
        self._beating = Beating(settings, ProcessKind.GRPC)

    @property
    def descriptor(self) -> ServiceDescriptor:
        """Of the service in the contract."""
        return worker_pb2.DESCRIPTOR.services_by_name["Worker"]

    def work(self, requests: AsyncIterator[worker_pb2.FromWorker], caller: Caller) -> AsyncIterator[Serialized]:
        """Refuses the stream."""
        raise StoreUnavailable(
            "this node serves no workers: its roles have no work (or workerEnable is false). Connect the worker to a "
            "node with the roles api and work, or add work to this node's roles"
        )

    async def start(self, store: Store) -> None:
        """The store is open."""
        await self._beating.begin(store)

    async def stop(self) -> None:
        """Takes the process off the list of members."""
        await self._beating.end()
