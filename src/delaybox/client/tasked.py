"""Carries steps out with asyncio's gRPC; started steps are tasks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import weakref
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from delaybox.client.channel import ChannelTarget
from delaybox.client.errors import Failure, closed, failure_of
from delaybox.client.steps import (
    AtExit,
    Drop,
    Effect,
    Emit,
    Invoke,
    OpenStream,
    Pause,
    Pull,
    Receive,
    Send,
    Start,
    Steps,
    Wait,
)
from delaybox.core.errors import DelayBoxError
from delaybox.wire.gen.scheduler_pb2_grpc import SchedulerStub

T = TypeVar("T")
log = logging.getLogger("delaybox.client")


def _being_cancelled() -> bool:
    """Whether the running asyncio task is being cancelled. A call is also cancelled when its channel is closed."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class _Stream:
    """A stream of responses. A task writes the requests, because two sides that both wait to write would wait for
    ever."""

    def __init__(self, carrier: LoopCarrier, method: Any, request: Message | None, which: int, **options: Any) -> None:
        self._carrier = carrier
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
            return self._carrier.failed(error, self._which)
        except asyncio.CancelledError:
            if _being_cancelled() or not (self._dropped or not self._carrier.is_open()):
                raise
            return closed(sent=True)
        return None if message is grpc.aio.EOF else message

    def drop(self) -> None:
        self._dropped = True
        if self._writer is not None:
            self._writer.cancel()
        self._call.cancel()


class _Drive:
    """One run of steps: what it opened ends with it."""

    def __init__(self, carrier: LoopCarrier) -> None:
        self._carrier = carrier
        self._streams: set[_Stream] = set()
        self._branches: set[asyncio.Task[None]] = set()
        self._exit: Steps[None] | None = None

    async def carry(self, steps: Steps[Any], effect: Effect) -> tuple[Callable[[Any], Effect], Any]:
        """Carries one effect out. Returns how the steps go on; what it raises is raised in them."""
        try:
            return steps.send, await self._do(effect)
        except Exception as error:  # noqa: BLE001
            return steps.throw, error

    async def _do(self, effect: Effect) -> Any:
        result: Any = None
        match effect:
            case Invoke():
                result = await self._carrier.invoke(effect)
            case Receive():
                result = await effect.stream.receive()
            case Pull():
                result = await _pull(effect)
            case Send():
                effect.stream.send(effect.message)
            case OpenStream():
                result = self._carrier.open(effect)
                self._streams.add(result)
            case Drop():
                effect.stream.drop()
                self._streams.discard(effect.stream)
            case Pause():
                await asyncio.sleep(effect.seconds)
            case Start():
                branch = asyncio.create_task(self._carrier.run(effect.steps), name="delaybox-client")
                self._branches.add(branch)
                branch.add_done_callback(self._branches.discard)
            case Wait():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(effect.timeout_s):
                        await effect.flag.wait()
                effect.flag.clear()
            case AtExit():
                self._exit = effect.steps
                self._carrier.to_leave.add(self)
            case Emit():
                raise AssertionError("only an iteration emits")
        return result

    def done(self) -> None:
        """Drops what the steps left open at their end."""
        self._exit = None

    async def leave(self) -> None:
        """The steps are left early: carries out what they asked for that case. Harmless when repeated."""
        steps, self._exit = self._exit, None
        if steps is not None:
            try:
                await self._carrier.run(steps)
            except DelayBoxError as error:
                log.warning("what a map had scheduled could not be cancelled: %s", error)

    async def stop(self) -> None:
        """Harmless when repeated."""
        for stream in self._streams:
            stream.drop()
        branches = list(self._branches)
        for branch in branches:
            branch.cancel()
        if branches:
            await asyncio.gather(*branches, return_exceptions=True)


async def _pull(effect: Pull) -> bool:
    if hasattr(effect.source, "__anext__"):
        async for item in effect.source:
            if effect.sink.add(item):
                return False
        return True
    # Other tasks of this loop get a turn now and then.
    await asyncio.sleep(0)
    return all(not effect.sink.add(item) for item in effect.source)


class LoopCarrier:
    """Channels to the nodes, and what is carried out over them. For one event loop."""

    def __init__(self, target: ChannelTarget) -> None:
        self._target = target
        self._channels: list[grpc.aio.Channel | None] = [None] * len(target.endpoints)
        self._stubs: list[Any] = [None] * len(target.endpoints)
        self._closed = False
        self.to_leave: weakref.WeakSet[_Drive] = weakref.WeakSet()

    async def run(self, steps: Steps[T]) -> T:
        """What the steps return."""
        drive = _Drive(self)
        advance, answer = steps.send, None
        try:
            while True:
                try:
                    effect = advance(answer)
                except StopIteration as end:
                    result: T = end.value
                    return result
                advance, answer = await drive.carry(steps, effect)
        finally:
            steps.close()
            await drive.stop()

    async def iterate(self, steps: Steps[Any]) -> AsyncIterator[Any]:
        """What the steps emit. Ends with the iterator, also when it is closed early."""
        drive = _Drive(self)
        advance, answer = steps.send, None
        try:
            while True:
                try:
                    effect = advance(answer)
                except StopIteration:
                    drive.done()
                    return
                if isinstance(effect, Emit):
                    for item in effect.items:
                        yield item
                    advance, answer = steps.send, None
                else:
                    advance, answer = await drive.carry(steps, effect)
        finally:
            await drive.leave()
            steps.close()
            await drive.stop()

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

    def open(self, effect: OpenStream) -> _Stream:
        """Raises Unreachable on a client that was closed."""
        options = {"timeout": effect.timeout_s, "metadata": self._target.metadata}
        try:
            method = getattr(self._stub(effect.which), effect.method)
            return _Stream(self, method, effect.request, effect.which, **options)
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
        for drive in list(self.to_leave):
            await drive.leave()
        self._closed = True
        for channel in self._channels:
            if channel is not None:
                await channel.close()
