"""grpc.health.v1: the same state as readiness over REST."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection
from typing import Any, cast

from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health_pb2

from delaybox.api.grpc.calls import Caller
from delaybox.api.readiness import Probe
from delaybox.core.errors import TaskNotFound

_LOOK_EVERY_S = 0.5
_Response = health_pb2.HealthCheckResponse


class Health:
    """``services``: the names that may be asked for, beside the empty one, which means the node."""

    def __init__(self, probe: Probe, services: Collection[str]) -> None:
        self._probe = probe
        self._known = frozenset(services) | {""}
        self._stopping = asyncio.Event()

    @property
    def descriptor(self) -> ServiceDescriptor:
        return cast(ServiceDescriptor, health_pb2.DESCRIPTOR.services_by_name["Health"])

    def stop(self) -> None:
        """From now on nothing is served: callers that watch get that status, and their calls end."""
        self._stopping.set()

    async def check(self, request: health_pb2.HealthCheckRequest, caller: Caller) -> health_pb2.HealthCheckResponse:
        if request.service not in self._known:
            raise TaskNotFound(
                f"no service {request.service[:80]!r}; there are {', '.join(sorted(self._known - {''}))}"
            )
        return _Response(status=await self._status())

    async def watch(
        self, request: health_pb2.HealthCheckRequest, caller: Caller
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        last: int | None = None
        known = request.service in self._known
        while True:
            stopping = self._stopping.is_set()
            status = await self._status() if known else _Response.SERVICE_UNKNOWN
            if status != last:
                last = status
                yield _Response(status=status)
            if stopping:
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), _LOOK_EVERY_S)

    async def _status(self) -> Any:
        if self._stopping.is_set() or not (await self._probe.ask()).ok:
            return _Response.NOT_SERVING
        return _Response.SERVING
