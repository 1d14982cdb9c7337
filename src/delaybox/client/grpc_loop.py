"""Calls over asyncio's gRPC."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
from google.protobuf.message import Message

from delaybox.client.channel import ChannelTarget
from delaybox.client.errors import Failure, closed, failure_of
from delaybox.client.steps import Invoke, OpenStream
from delaybox.wire.gen.scheduler_pb2_grpc import SchedulerStub


def _being_cancelled() -> bool:
    """Whether the running asyncio task is being cancelled. A call is also cancelled when its channel is closed."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class _LoopCall:
    """A stream of responses. A task writes the requests, because two sides that both wait to write would wait for
    ever."""

    def __init__(self, transport: GrpcLoop, method: Any, request: Message | None, which: int, **options: Any) -> None:
        self._transport = transport
        self._which = which
        self._dropped = False
        self._call = method(**options) if request is None else method(request, **options)
        self._requests: asyncio.Queue[Message] = asyncio.Queue()
        self._writer = asyncio.create_task(self._write()) if request is None else None

    async def _write(self) -> None:
        try:
            while True:
                await self._call.write(await self._requests.get())
        except (grpc.RpcError, grpc.aio.UsageError, asyncio.InvalidStateError):
            pass  # the next receive reports it

    def send(self, message: Message) -> None:
        self._requests.put_nowait(message)

    async def receive(self) -> Message | Failure | None:
        try:
            message = await self._call.read()
        except grpc.RpcError as error:
            return self._transport.failed(error, self._which)
        except asyncio.CancelledError:
            if _being_cancelled() or not (self._dropped or not self._transport.is_open()):
                raise
            return closed(sent=True)
        return None if message is grpc.aio.EOF else message

    def drop(self) -> None:
        self._dropped = True
        if self._writer is not None:
            self._writer.cancel()
        self._call.cancel()


class GrpcLoop:
    """Channels to the nodes. See `transports.LoopTransport`."""

    def __init__(self, target: ChannelTarget) -> None:
        self._target = target
        self._channels: list[grpc.aio.Channel | None] = [None] * len(target.endpoints)
        self._stubs: list[Any] = [None] * len(target.endpoints)
        self._closed = False

    async def invoke(self, effect: Invoke) -> Message | Failure:
        if not self.is_open():
            return closed()
        try:
            method = getattr(self._stub(effect.which), effect.method)
            answer: Message = await method(effect.request, timeout=effect.timeout_s, metadata=self._target.metadata)
        except grpc.RpcError as error:
            return self.failed(error, effect.which)
        except (grpc.aio.UsageError, asyncio.CancelledError):
            if self.is_open() or _being_cancelled():
                raise
            return closed(sent=True)
        return answer

    def open(self, effect: OpenStream) -> _LoopCall:
        """Raises Unreachable on a client that was closed."""
        options = {"timeout": effect.timeout_s, "metadata": self._target.metadata}
        try:
            method = getattr(self._stub(effect.which), effect.method)
            return _LoopCall(self, method, effect.request, effect.which, **options)
        except grpc.aio.UsageError:
            if self.is_open():
                raise
            raise closed().error from None

    def failed(self, error: grpc.RpcError, which: int) -> Failure:
        return failure_of(error, self._target.endpoints[which]) if self.is_open() else closed(sent=True)

    def is_open(self) -> bool:
        return not self._closed

    def _stub(self, which: int) -> Any:
        if self._closed:
            raise grpc.aio.UsageError("closed")
        if self._stubs[which] is None:
            target = self._target
            channel = (
                grpc.aio.insecure_channel(target.endpoints[which], target.options)
                if target.credentials is None
                else grpc.aio.secure_channel(target.endpoints[which], target.credentials, target.options)
            )
            self._channels[which] = channel
            self._stubs[which] = SchedulerStub(channel)  # type: ignore[no-untyped-call]
        return self._stubs[which]

    async def close(self) -> None:
        """Harmless when repeated."""
        self._closed = True
        for channel in self._channels:
            if channel is not None:
                await channel.close()
