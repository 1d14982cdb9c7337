"""Calls over blocking gRPC."""

from __future__ import annotations

import queue
import threading
from typing import Any

import grpc
from google.protobuf.message import Message

from delaybox.client.channel import ChannelTarget
from delaybox.client.errors import Failure, closed, failure_of
from delaybox.client.steps import Invoke, OpenStream
from delaybox.wire.gen.scheduler_pb2_grpc import SchedulerStub


class _BlockingCall:
    """A stream of responses. A thread of gRPC takes the requests when it can send them."""

    def __init__(
        self, transport: GrpcThreads, method: Any, request: Message | None, which: int, **options: Any
    ) -> None:
        self._transport = transport
        self._which = which
        self._requests: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._call = method(iter(self._requests.get, None) if request is None else request, **options)

    def send(self, message: Message) -> None:
        self._requests.put(message)

    def receive(self) -> Message | Failure | None:
        try:
            message: Message | None = next(self._call, None)
        except grpc.RpcError as error:
            return self._transport.failed(error, self._which)
        return message

    def drop(self) -> None:
        self._requests.put(None)
        self._call.cancel()


class GrpcThreads:
    """Channels to the nodes. See `transports.BlockingTransport`."""

    def __init__(self, target: ChannelTarget) -> None:
        self._target = target
        self._lock = threading.Lock()
        self._channels: list[grpc.Channel | None] = [None] * len(target.endpoints)
        self._stubs: list[Any] = [None] * len(target.endpoints)
        self._closed = False

    def invoke(self, effect: Invoke) -> Message | Failure:
        try:
            method = getattr(self._stub(effect.which), effect.method)
            answer: Message = method(effect.request, timeout=effect.timeout_s, metadata=self._target.metadata)
        except grpc.RpcError as error:
            return self.failed(error, effect.which)
        except ValueError:
            # gRPC raises this when a channel was closed, perhaps by another thread.
            if not self._closed:
                raise
            return closed()
        return answer

    def open(self, effect: OpenStream) -> _BlockingCall:
        """Raises Unreachable on a client that was closed."""
        options = {"timeout": effect.timeout_s, "metadata": self._target.metadata}
        try:
            method = getattr(self._stub(effect.which), effect.method)
            return _BlockingCall(self, method, effect.request, effect.which, **options)
        except ValueError:
            if not self._closed:
                raise
            raise closed().error from None

    def failed(self, error: grpc.RpcError, which: int) -> Failure:
        return closed(sent=True) if self._closed else failure_of(error, self._target.endpoints[which])

    def _stub(self, which: int) -> Any:
        if (stub := self._stubs[which]) is not None:
            return stub
        with self._lock:
            if self._closed:
                raise ValueError("closed")
            if self._stubs[which] is None:
                target = self._target
                channel = (
                    grpc.insecure_channel(target.endpoints[which], target.options)
                    if target.credentials is None
                    else grpc.secure_channel(target.endpoints[which], target.credentials, target.options)
                )
                self._channels[which] = channel
                self._stubs[which] = SchedulerStub(channel)  # type: ignore[no-untyped-call]
            return self._stubs[which]

    def close(self) -> None:
        """Harmless when repeated."""
        with self._lock:
            self._closed = True
            for channel in self._channels:
                if channel is not None:
                    channel.close()
