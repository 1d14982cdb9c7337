"""Which methods of a gRPC service are served."""

from __future__ import annotations

from typing import Any, cast

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import ServiceDescriptor

from delaybox.api import call_scopes
from delaybox.api.grpc.calls import handler_of
from delaybox.api.grpc.guard import Guard
from delaybox.api.tokens import Tokens


class Details:
    """Of a call, as grpc hands them to a generic handler."""

    invocation_metadata = ()

    def __init__(self, method: str) -> None:
        self.method = method


class Service:
    def __init__(self, descriptor: ServiceDescriptor) -> None:
        self.descriptor = descriptor

    async def check(self, request: Any, caller: Any) -> Any: ...


def described(package: str) -> ServiceDescriptor:
    """A service of ``package`` with the methods Check and List, as a newer package may define it."""
    file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3")
    file.message_type.add(name="Nothing")
    service = file.service.add(name="Health")
    for name in ("Check", "List"):
        service.method.add(name=name, input_type=f".{package}.Nothing", output_type=f".{package}.Nothing")
    pool: Any = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return cast(ServiceDescriptor, pool.FindServiceByName(f"{package}.Health"))


def guard() -> Guard:
    return Guard(Tokens(()), limit=1_000, message_s=1.0, know=lambda peer: None)


def test_of_a_foreign_contract_only_what_has_code_is_served() -> None:
    handler = handler_of(Service(described("grpc.health.v1")), guard())
    assert handler.service(cast(Any, Details("/grpc.health.v1.Health/Check"))) is not None
    assert handler.service(cast(Any, Details("/grpc.health.v1.Health/List"))) is None


def test_our_own_contract_is_served_whole_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = {f"/delaybox.v9.Health/{name}": call_scopes.WithoutToken.PROBE for name in ("Check", "List")}
    monkeypatch.setattr(call_scopes, "GRPC_RULES", rules)
    with pytest.raises(AttributeError, match="list"):
        handler_of(Service(described("delaybox.v9")), guard())
