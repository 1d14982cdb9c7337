"""The life of the process that serves delaybox.v1. delaybox/gateway.py puts it together and is its main module."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from typing import Protocol

import grpc
from google.protobuf.descriptor import ServiceDescriptor

from delaybox.api.grpc.front import Front
from delaybox.api.grpc.guard import Guard
from delaybox.api.grpc.health import Health
from delaybox.api.grpc.server import front_of, listen, make_server
from delaybox.api.grpc.settings import GrpcSettings
from delaybox.api.opening import Opening
from delaybox.api.readiness import Probe
from delaybox.api.tokens import Tokens
from delaybox.processes import child
from delaybox.service import Service
from delaybox.store.store import Store

_log = logging.getLogger("delaybox.grpc")


class Part(Protocol):
    """A service of delaybox.v1 (see ``calls.Service``) with a life of its own."""

    @property
    def descriptor(self) -> ServiceDescriptor:
        """Of the service in the contract."""
        ...

    async def start(self, store: Store) -> None:
        """The store is open. Calls may have come before, and got UNAVAILABLE."""

    async def stop(self) -> None:
        """New calls are refused already: ends the streams, so that their callers go elsewhere. At most the grace."""


MakeParts = Callable[[GrpcSettings, Service], Sequence[Part]]
"""What a process serves. The service it is given answers from the start, with StoreUnavailable if need be."""


class GrpcServer:
    """Binds, serves and stops; `run` is its whole life."""

    def __init__(self, settings: GrpcSettings, make_parts: MakeParts) -> None:
        self._settings = settings
        self._stopping = asyncio.Event()
        self._opening = Opening(settings, _log, self._on_open)
        self._parts = make_parts(settings, self._opening.service)

    async def run(self) -> int:
        """Serves until `stop`; returns the exit code. ConfigError when the address cannot be bound."""
        names = [part.descriptor.full_name for part in self._parts]
        health = Health(Probe(self._opening.service), names)
        with front_of(self._settings) as front:
            guard = Guard(Tokens(self._settings.tokens), limit=front.limit, message_s=front.message_s, know=front.know)
            return await self._serve(make_server(self._settings, [*self._parts, health], guard), front, health)

    async def _serve(self, server: grpc.aio.Server, front: Front, health: Health) -> int:
        opening: asyncio.Task[None] | None = None
        # First, so that a port that is taken ends the start; calls get UNAVAILABLE until the store is open.
        port = await listen(server, front, self._settings)
        try:
            opening = await self._opening.start()
            child.say({"ready": True, "port": port})
            stop = asyncio.create_task(self._stopping.wait())
            await asyncio.wait({stop, opening} if opening else {stop}, return_when=asyncio.FIRST_COMPLETED)
            if opening is not None and opening.done() and (error := opening.exception()):
                # The store is there now, and is not one that this version may touch.
                _log.critical("%s", error)
                return 1
            await stop
            front.refuse()
            health.stop()
            ending = asyncio.create_task(server.stop(self._settings.grace_s))
            await asyncio.gather(*(part.stop() for part in self._parts))
            await ending
            return 0
        finally:
            if opening is not None:
                opening.cancel()
            await server.stop(0)
            front.stop()
            await self._opening.close()

    def stop(self) -> None:
        """Ends `run` after the calls in flight; called again, ends the process at once."""
        if self._stopping.is_set():
            os._exit(1)
        self._stopping.set()

    async def _on_open(self, store: Store) -> None:
        for part in self._parts:
            await part.start(store)
