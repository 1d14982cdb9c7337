"""Carries steps out on an event loop of asyncio; started steps are asyncio tasks. `threads` does it without asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import weakref
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

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
from delaybox.client.transports import LoopStream, LoopTransport
from delaybox.core.errors import DelayBoxError

T = TypeVar("T")
log = logging.getLogger("delaybox.client")


class _Drive:
    """One run of steps: what it opened ends with it."""

    def __init__(self, carrier: LoopCarrier) -> None:
        self._carrier = carrier
        self._streams: set[LoopStream] = set()
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
                result = await self._carrier.transport.invoke(effect)
            case Receive():
                result = await effect.stream.receive()
            case Pull():
                result = await _pull(effect)
            case Send():
                effect.stream.send(effect.message)
            case OpenStream():
                result = self._carrier.transport.open(effect)
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
    return not any(map(effect.sink.add, effect.source))


class LoopCarrier:
    """Carries a client's steps out over one transport. For one event loop."""

    def __init__(self, transport: LoopTransport) -> None:
        self.transport = transport
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

    async def close(self) -> None:
        """Harmless when repeated."""
        for drive in list(self.to_leave):
            await drive.leave()
        await self.transport.close()
