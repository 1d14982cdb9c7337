"""The service delaybox.v1.Worker of a gRPC process, with the engine that claims for the workers connected to it.

The engine runs in this process so that calls and streams do not delay the clock.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from google.protobuf.descriptor import ServiceDescriptor

from delaybox.api.grpc.calls import Caller, Serialized
from delaybox.api.grpc.settings import GrpcSettings
from delaybox.api.grpc.work import NotYet, Streams
from delaybox.core.errors import DelayBoxError, StoreUnavailable
from delaybox.core.membership import Activity
from delaybox.processes.spec import ProcessKind
from delaybox.roles.beating import Beating
from delaybox.roles.engines import claiming
from delaybox.roles.worker_host import WorkerHost
from delaybox.store.store import Store
from delaybox.targets.worker_gateway import Gateway
from delaybox.wire.gen import worker_pb2

_STOP_S = 2.0
_STORED_S = 1.0
"""How long what workers reported may take to be stored, before the last confirmation goes to them."""


class WorkerService:
    """The service delaybox.v1.Worker with the engine behind it."""

    def __init__(self, settings: GrpcSettings) -> None:
        self._settings = settings
        self._streams: Streams | NotYet = NotYet()
        self._host: WorkerHost | None = None

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
        options = claiming(s, ProcessKind.GRPC)
        self._host = host = WorkerHost(store, options, queues=s.queues, max_output=s.max_output, facts=self._facts)
        await host.start()
        self._streams = Streams(
            host.gateway,
            node=s.node_id,
            process=options.node_id,
            heartbeat_ms=s.heartbeat_ms,
            on_progress=host.progress,
            announce=host.announce,
        )

    async def stop(self) -> None:
        """Asks workers to go elsewhere. They take along what they run, or finish it within the grace."""
        host = self._host
        if host is None:
            return
        if not await host.empty(max(0.0, self._settings.grace_s - _STOP_S)):
            # What is left runs on: its lease lasts from here, and whichever node its worker comes to adopts it.
            with contextlib.suppress(DelayBoxError):
                await host.engine.extend()
            await host.gateway.stored(within_s=_STORED_S)
            host.gateway.part()
        if isinstance(self._streams, Streams):
            self._streams.end()
        await host.stop()

    def _facts(self, gateway: Gateway) -> Activity | None:
        if not (self._settings.node_id or gateway.connected):
            return None  # A process that no node started is a member while it has workers.
        return gateway.activity()


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
