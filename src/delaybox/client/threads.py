"""Carries steps out for threads: one call in the caller's thread, started steps in threads of their own."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import threading
import weakref
from collections.abc import Callable, Iterator
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
from delaybox.client.transports import BlockingStream, BlockingTransport
from delaybox.core.errors import DelayBoxError

T = TypeVar("T")
log = logging.getLogger("delaybox.client")

_open: weakref.WeakSet[ThreadCarrier] = weakref.WeakSet()


def _forked() -> None:
    """In a child: what iterations of its parent have scheduled is not its to cancel."""
    for carrier in list(_open):
        carrier.to_leave.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


@atexit.register
def leave_all() -> None:
    """The runs to end at exit: a program that ends, by Ctrl-C for example, may hold an iteration that nobody closed."""
    for carrier in list(_open):
        carrier.leave()


class StepsStopped(Exception):
    """Raised in started steps when the steps that started them have ended."""


class _Drive:
    """One run of steps: what it opened ends with it."""

    def __init__(self, carrier: ThreadCarrier) -> None:
        self._carrier = carrier
        self._streams: set[BlockingStream] = set()
        self._branches: list[_Drive] = []
        self._stopped = threading.Event()
        self._waits_for: Any = None
        self._exit: Steps[None] | None = None
        self._leaving = threading.Lock()

    def carry(self, steps: Steps[Any], effect: Effect) -> tuple[Callable[[Any], Effect], Any]:
        """Carries one effect out. Returns how the steps go on; what it raises is raised in them."""
        try:
            return steps.send, self._do(effect)
        except Exception as error:  # noqa: BLE001
            return steps.throw, error

    def _do(self, effect: Effect) -> Any:
        result: Any = None
        match effect:
            case Invoke():
                result = self._carrier.transport.invoke(effect)
            case Receive():
                result = effect.stream.receive()
                self._check()
            case Pull():
                result = not any(map(effect.sink.add, effect.source))
            case Send():
                effect.stream.send(effect.message)
            case OpenStream():
                result = self._carrier.transport.open(effect)
                self._streams.add(result)
                self._check()
            case Drop():
                effect.stream.drop()
                self._streams.discard(effect.stream)
            case Pause():
                if self._stopped.wait(effect.seconds):
                    raise StepsStopped
            case Start():
                branch = _Drive(self._carrier)
                self._branches = [one for one in self._branches if not one._stopped.is_set()]
                self._branches.append(branch)
                threading.Thread(target=branch.run, args=(effect.steps,), name="delaybox-client", daemon=True).start()
            case Wait():
                self._waits_for = effect.flag
                self._check()
                effect.flag.wait(effect.timeout_s)
                self._check()
                effect.flag.clear()
            case AtExit():
                self._exit = effect.steps
                self._carrier.to_leave.add(self)
            case Emit():
                raise AssertionError("only an iteration emits")
        return result

    def _check(self) -> None:
        if self._stopped.is_set():
            raise StepsStopped

    def run(self, steps: Steps[Any]) -> None:
        """Runs started steps: nobody waits for what they return."""
        with contextlib.suppress(StepsStopped):
            self._carrier.finish(steps, self)

    def done(self) -> None:
        """Drops what the steps left open at their end."""
        self._exit = None

    def leave(self) -> None:
        """The steps are left early: carries out what they asked for that case. Harmless when repeated."""
        with self._leaving:
            steps, self._exit = self._exit, None
            if steps is not None:
                try:
                    self._carrier.run(steps)
                except DelayBoxError as error:
                    log.warning("what a map had scheduled could not be cancelled: %s", error)

    def stop(self) -> None:
        """Harmless when repeated."""
        self._stopped.set()
        if self._waits_for is not None:
            self._waits_for.set()
        for stream in list(self._streams):
            stream.drop()
        for branch in self._branches:
            branch.stop()


class ThreadCarrier:
    """Carries a client's steps out over one transport. For several threads."""

    def __init__(self, transport: BlockingTransport) -> None:
        self.transport = transport
        self.to_leave: weakref.WeakSet[_Drive] = weakref.WeakSet()
        _open.add(self)

    def run(self, steps: Steps[T]) -> T:
        """What the steps return."""
        return self.finish(steps, _Drive(self))

    def finish(self, steps: Steps[T], drive: _Drive) -> T:
        advance, answer = steps.send, None
        try:
            while True:
                try:
                    effect = advance(answer)
                except StopIteration as end:
                    result: T = end.value
                    return result
                advance, answer = drive.carry(steps, effect)
        finally:
            steps.close()
            drive.stop()

    def iterate(self, steps: Steps[Any]) -> Iterator[Any]:
        """What the steps emit. Ends with the iterator, also when it is left early."""
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
                    yield from effect.items
                    advance, answer = steps.send, None
                else:
                    advance, answer = drive.carry(steps, effect)
        finally:
            drive.leave()
            steps.close()
            drive.stop()

    def leave(self) -> None:
        """Ends all iterations that are under way."""
        for drive in list(self.to_leave):
            drive.leave()

    def close(self) -> None:
        """Harmless when repeated."""
        self.leave()
        self.transport.close()
