"""Server reflection, by which generic clients learn the contract."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any, cast

from google.protobuf.descriptor import ServiceDescriptor
from grpc_reflection.v1alpha import reflection_pb2 as pb
from grpc_reflection.v1alpha.reflection import aio

from delaybox.api.grpc.calls import Caller

V1 = "grpc.reflection.v1.ServerReflection"
"""The newer name of the same service; some clients know only that one."""


class Reflection:
    """``services``: the full names that it lists, beside its own."""

    def __init__(self, services: Iterable[str]) -> None:
        self._inner = aio.ReflectionServicer([*services, self.descriptor.full_name])

    @property
    def descriptor(self) -> ServiceDescriptor:
        return cast(ServiceDescriptor, pb.DESCRIPTOR.services_by_name["ServerReflection"])

    def server_reflection_info(
        self, requests: AsyncIterator[pb.ServerReflectionRequest], caller: Caller
    ) -> AsyncIterator[pb.ServerReflectionResponse]:
        answers: Any = self._inner.ServerReflectionInfo(requests, caller.context)
        return cast(AsyncIterator[pb.ServerReflectionResponse], answers)
