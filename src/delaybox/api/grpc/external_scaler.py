"""externalscaler.ExternalScaler: by this KEDA scales users' workers, or nodes, by what is due.

KEDA divides the metric by the target size, which gives the replicas. The metric is the places needed, and the target
size is how many places a replica has (``targetPlaces``).
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Mapping
from typing import Final

from google.protobuf.descriptor import ServiceDescriptor

from delaybox.api import call_scopes
from delaybox.api.grpc.calls import Caller
from delaybox.api.tokens import Tokens
from delaybox.core.errors import DelayBoxError, InvalidTask, Unauthenticated
from delaybox.core.scaling import KINDS, WORKER, MemberNeed
from delaybox.core.scopes import Access
from delaybox.core.words import unknown
from delaybox.service import Service
from delaybox.store.store import Store
from delaybox.wire import scaling
from delaybox.wire.gen import externalscaler_pb2 as pb

METRIC: Final = "delaybox-places"
_LOOK_EVERY_S = 2.0
_TOKEN = ("token", "tokenFromEnv")
_OURS = ("kind", "queue", "function", "targetPlaces", "lead", "clear", *_TOKEN)
_OF_KEDA = ("scalerAddress", "tls", "ca", "cert", "enableTLS", "unsafeSsl")
"""What KEDA's own metadata of an external scaler begins with; it passes all of it on."""


class ExternalScaler:
    """``tokens``: KEDA cannot send a header, so a trigger's metadata has the token."""

    def __init__(self, service: Service, tokens: Tokens) -> None:
        self._service = service
        self._tokens = tokens
        self._stopping = asyncio.Event()

    @property
    def descriptor(self) -> ServiceDescriptor:
        return pb.DESCRIPTOR.services_by_name["ExternalScaler"]

    async def start(self, store: Store) -> None:
        """Does nothing, because the service itself is opened."""

    async def stop(self) -> None:
        """Ends the streams, so that their callers go to another node."""
        self._stopping.set()

    async def is_active(self, request: pb.ScaledObjectRef, caller: Caller) -> pb.IsActiveResponse:
        need, _ = await self._need(request, caller)
        return pb.IsActiveResponse(result=need.places > 0)

    async def stream_is_active(self, request: pb.ScaledObjectRef, caller: Caller) -> AsyncIterator[pb.IsActiveResponse]:
        last: bool | None = None
        while not self._stopping.is_set():
            try:
                active = (await self._need(request, caller))[0].places > 0
            except DelayBoxError:
                if last is None:
                    raise
                active = last  # while the store is away, nothing is known that would be a reason for a change
            if active is not last:
                last = active
                yield pb.IsActiveResponse(result=active)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), _LOOK_EVERY_S)

    async def get_metric_spec(self, request: pb.ScaledObjectRef, caller: Caller) -> pb.GetMetricSpecResponse:
        self._admit(request.scalerMetadata, caller)
        target = _target(request.scalerMetadata)
        return pb.GetMetricSpecResponse(
            metricSpecs=[pb.MetricSpec(metricName=METRIC, targetSize=target, targetSizeFloat=float(target))]
        )

    async def get_metrics(self, request: pb.GetMetricsRequest, caller: Caller) -> pb.GetMetricsResponse:
        need, target = await self._need(request.scaledObjectRef, caller)
        # Rounded to whole replicas already, so that KEDA and `delaybox scaling` show the same number of them.
        places = float(need.members * target)
        value = pb.MetricValue(
            metricName=request.metricName or METRIC, metricValue=math.ceil(places), metricValueFloat=places
        )
        return pb.GetMetricsResponse(metricValues=[value])

    async def _need(self, request: pb.ScaledObjectRef, caller: Caller) -> tuple[MemberNeed, int]:
        """What such a trigger is about, and the places of a replica. InvalidTask, Unauthenticated, ScopeMissing."""
        given = request.scalerMetadata
        self._admit(given, caller)
        target = _target(given)
        asked = {name: given[name] for name in ("queue", "function", "lead", "clear") if given.get(name)}
        kind = given.get("kind") or WORKER
        if kind == WORKER:
            asked["places"] = str(target)
        (need,) = (await self._service.scaling(scaling.query_of({**asked, "kind": kind}))).needs
        return need, target

    def _admit(self, given: Mapping[str, str], caller: Caller) -> None:
        sent = [value for name, value in caller.context.invocation_metadata() or () if name == "authorization"]
        token = next((given[name] for name in _TOKEN if given.get(name)), "")
        header = f"Bearer {token}" if token else (sent[0] if sent else "")
        try:
            grant = self._tokens.grant(header if isinstance(header, bytes) else header.encode())
        except Unauthenticated as error:
            if header:
                raise
            raise Unauthenticated(
                "this node asks for a token; name an environment variable of the scaled deployment that holds one in "
                "the trigger's metadata as tokenFromEnv",
                given=False,
            ) from error
        call_scopes.admit(grant, Access.READ)


def _target(given: Mapping[str, str]) -> int:
    """The places of one replica. InvalidTask, also for metadata that is not known."""
    for name in given:
        if name not in _OURS and not name.startswith(_OF_KEDA):
            raise InvalidTask(
                name[:40], unknown(name, _OURS, {"places": "targetPlaces"}, where="metadata of a trigger")
            )
    kind = given.get("kind") or WORKER
    text = given.get("targetPlaces", "")
    if text:
        return scaling.places_of("targetPlaces", text)
    if kind in KINDS:
        return 1
    raise InvalidTask("targetPlaces", "targetPlaces is missing; give the number of tasks that one replica runs at once")
