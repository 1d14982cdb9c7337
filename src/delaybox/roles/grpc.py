"""The gRPC process: the service Scheduler, and on nodes with the role `work` the streams of workers."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Protocol

from google.protobuf.descriptor import ServiceDescriptor

from delaybox.api.grpc.external_scaler import ExternalScaler
from delaybox.api.grpc.guard import Guard
from delaybox.api.grpc.health import Health
from delaybox.api.grpc.scheduler import Scheduler
from delaybox.api.grpc.server import front_of, listen, make_server
from delaybox.api.grpc.settings import GrpcSettings
from delaybox.api.opening import Opening
from delaybox.api.readiness import Probe
from delaybox.api.tokens import Tokens
from delaybox.processes import child
from delaybox.processes.child import Stopping
from delaybox.processes.sockets import inherited
from delaybox.roles import opening
from delaybox.roles.workers import NoWorkers, WorkerService
from delaybox.store.store import Store

_log = logging.getLogger("delaybox.grpc")


class ServedPart(Protocol):
    """A service of delaybox.v1 (see ``calls.Service``) with a life of its own."""

    @property
    def descriptor(self) -> ServiceDescriptor:
        """The descriptor of the service."""
        ...

    async def start(self, store: Store) -> None:
        """The store is open. Calls may have come before, and got UNAVAILABLE."""

    async def stop(self) -> None:
        """New calls are refused by now. Ends the streams, so that their callers go elsewhere; takes at most the
        grace."""


async def serve(settings: GrpcSettings) -> int:
    """The process's whole life; returns its exit code."""
    stopping = Stopping()
    settings = await opening.prepared(settings)
    parts: list[ServedPart] = []

    async def begin(store: Store) -> None:
        for part in parts:
            await part.start(store)

    late = Opening(settings, _log, begin)
    tokens = Tokens(settings.tokens)
    parts += [
        Scheduler(late.service, settings.rules()),
        WorkerService(settings) if settings.workers else NoWorkers(settings),
        ExternalScaler(late.service, tokens),
    ]
    names = [part.descriptor.full_name for part in parts]
    health = Health(Probe(late.service), names)
    with front_of(settings) as front:
        guard = Guard(tokens, limit=front.limit, message_s=front.message_s, know=front.know)
        server = make_server(settings, [*parts, health], guard)
        await listen(server, front, inherited(settings.listening))
        trying: asyncio.Task[None] | None = None
        try:
            trying = await late.start()
            child.ready(store_id=settings.store_id)
            await stopping.wait_or(trying)
            health.stop()
            until = time.monotonic() + settings.grace_s
            await front.drain(lambda: guard.running)
            ending = asyncio.create_task(server.stop(max(until - time.monotonic(), 0.0)))
            await asyncio.gather(*(part.stop() for part in parts))
            await ending
            await late.service.close()
            return 0
        finally:
            if trying is not None:
                trying.cancel()
            await server.stop(0)
            front.stop()
            await late.close()


if __name__ == "__main__":
    child.main(GrpcSettings, serve)
