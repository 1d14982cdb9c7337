"""A gRPC process for tests, and what it is called with."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from delaybox.api.grpc.settings import GrpcSettings
from delaybox.store.servers import Servers
from delaybox.store.store import Store
from delaybox.wire.gen.scheduler_pb2_grpc import SchedulerStub
from delaybox.wire.gen.worker_pb2_grpc import WorkerStub
from tests.children import Served, serving


class Rpc:
    """A running process and a channel to it."""

    def __init__(self, process: Served, channel: grpc.aio.Channel) -> None:
        self.process = process
        self.channel = channel
        stubs: Any = (SchedulerStub, WorkerStub)  # generated without types
        self.scheduler, self.worker = (stub(channel) for stub in stubs)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.process.port}"


@contextlib.asynccontextmanager
async def grpc_process(
    *, partitions: int = 0, port: int = 0, counted_in: str = "", **changes: Any
) -> AsyncIterator[Served]:
    """One that is stopped at the end. ``changes`` to the settings: at least ``server``. ``partitions``: of the store,
    where it is not the default."""
    settings = GrpcSettings(**{"grace_s": 3.0, **changes})
    if partitions:
        store = await Store.open(Servers.connect(settings.server), prefix=settings.prefix, partitions=partitions)
        await store.close()
    process = await serving(settings, port=port, counted_in=counted_in)
    try:
        yield process
    finally:
        await process.stop()


@contextlib.asynccontextmanager
async def channel_to(process: Served) -> AsyncIterator[Rpc]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{process.port}") as channel:
        yield Rpc(process, channel)


@contextlib.asynccontextmanager
async def rpc_process(**changes: Any) -> AsyncIterator[Rpc]:
    """`grpc_process` and a channel to it."""
    async with grpc_process(**changes) as process, channel_to(process) as rpc:
        yield rpc


class Refused:
    """What a call was refused with, taken apart."""

    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        self.status = error.code()
        self.text = error.details() or ""
        self.code = self.field = ""
        self.metadata: dict[str, str] = {}
        self.retry_after_ms = 0
        details = [value for name, value in error.trailing_metadata() or () if name == "grpc-status-details-bin"]
        for packed in status_pb2.Status.FromString(details[0]).details if details else ():
            if packed.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
                info = _unpacked(packed, error_details_pb2.ErrorInfo())
                assert info.domain == "delaybox"
                self.code, self.metadata = info.reason, dict(info.metadata)
            elif packed.Is(error_details_pb2.BadRequest.DESCRIPTOR):
                (violation,) = _unpacked(packed, error_details_pb2.BadRequest()).field_violations
                assert violation.description == self.text
                self.field = violation.field
            elif packed.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
                self.retry_after_ms = _unpacked(packed, error_details_pb2.RetryInfo()).retry_delay.ToMilliseconds()


def _unpacked(packed: Any, into: Message) -> Any:
    packed.Unpack(into)
    return into


async def refused(call: Any) -> Refused:
    """How a unary call (or the end of a stream) is refused; AssertionError when it is not."""
    try:
        if hasattr(call, "__aiter__"):
            async for _ in call:
                pass
        else:
            await call
    except grpc.aio.AioRpcError as error:
        return Refused(error)
    raise AssertionError("it was not refused")
