"""Carries the calls of several threads out on one event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from google.protobuf.message import Message

from delaybox.client.batches import StoredBatch, TaskBatch
from delaybox.client.errors import Failure, Unreachable, closed
from delaybox.client.steps import Invoke, OpenStream
from delaybox.client.threads import leave_all
from delaybox.client.transports import LoopStream, LoopTransport

T = TypeVar("T")

_open: weakref.WeakSet[DirectThreads] = weakref.WeakSet()
_of_parents: list[object] = []
"""What runs in the process that this one was forked from. It is kept, because its connections are that process's."""
_AT_EXIT_S: Final = 5.0
"""A program that ends waits no longer than this for a server."""


def _forked() -> None:
    """In a child, where no thread but this one goes on: each client begins anew with its next call."""
    for one in list(_open):
        one.begin_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


@atexit.register
def _close_all() -> None:
    """What a program that ends has left open: what it did last, and is not written down yet, would be forgotten."""
    leave_all()
    for one in list(_open):
        with contextlib.suppress(Exception):
            one.close(within_s=_AT_EXIT_S)


class LoopThread:
    """A thread that runs an event loop until `stop`."""

    def __init__(self, name: str) -> None:
        self._pid = os.getpid()
        try:
            import uvloop

            self.loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
        except ModuleNotFoundError:
            self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            left = asyncio.all_tasks(self.loop)
            for task in left:
                task.cancel()
            self.loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()

    def result(self, coroutine: Coroutine[Any, Any, T], within_s: float | None = None) -> T:
        """Waits for what a coroutine returns. TimeoutError after ``within_s``. What is still waited for at `stop`
        raises CancelledError, and what was begun by the process that this one was forked from."""
        if self._pid != os.getpid():
            coroutine.close()
            raise concurrent.futures.CancelledError
        future = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        try:
            return future.result(within_s)
        except BaseException:
            future.cancel()
            raise

    def soon(self, callback: Callable[..., object], *arguments: object) -> None:
        """Calls it on the loop, unless that has ended or is another process's."""
        if self._pid == os.getpid():
            with contextlib.suppress(RuntimeError):
                self.loop.call_soon_threadsafe(callback, *arguments)

    def stop(self) -> None:
        """Ends the loop with all that still runs on it."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()


class DirectThreads:
    """Carries calls out for several threads over one transport. See `transports.BlockingTransport`.

    A process that forks leaves the thread behind: the child begins with one of its own.
    """

    def __init__(self, make: Callable[[], LoopTransport]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._running: tuple[LoopThread, LoopTransport] | None = None
        self._closed = False
        _open.add(self)

    def begin_anew(self) -> None:
        """The next call starts a thread and opens connections."""
        self._lock = threading.Lock()
        if self._running is not None:
            _of_parents.append(self._running)
            self._running = None

    def invoke(self, effect: Invoke) -> Message | Failure:
        begun = self._begun()
        if begun is None:
            return closed()
        thread, transport = begun
        try:
            return thread.result(transport.invoke(effect))
        except concurrent.futures.CancelledError:
            return closed(sent=True)

    def open(self, effect: OpenStream) -> _ThreadStream:
        """Raises Unreachable when it was closed."""
        begun = self._begun()
        if begun is None:
            raise closed().error
        return _ThreadStream(*begun, effect)

    def _begun(self) -> tuple[LoopThread, LoopTransport] | None:
        """The thread and what runs on it; None: it is closed."""
        with self._lock:
            if self._closed:
                return None
            if self._running is None:
                self._running = LoopThread("delaybox-direct"), self._make()
            return self._running

    def close(self, *, within_s: float | None = None) -> None:
        """Calls under way end as those of a closed client. Twice is harmless. TimeoutError after ``within_s``."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            running = self._running
        if running is not None:
            thread, transport = running
            thread.result(transport.close(), within_s)
            thread.stop()


class _ThreadStream:
    """A stream whose other end is on the loop, where the first call opens it: opening it by itself would wake either
    thread once more.
    """

    def __init__(self, thread: LoopThread, transport: LoopTransport, effect: OpenStream) -> None:
        self._thread = thread
        self._transport = transport
        self._effect = effect
        self._opened: LoopStream | None = None
        self._dropped = False

    def send(self, message: Message | TaskBatch) -> None:
        # After the loop's end the next receive reports it.
        self._thread.soon(self._send, message)

    def receive(self) -> Message | StoredBatch | Failure | None:
        coroutine = self._receive()
        try:
            return self._thread.result(coroutine)
        except concurrent.futures.CancelledError:
            return closed(sent=True)
        except RuntimeError:
            if not self._thread.loop.is_closed():
                raise
            coroutine.close()
            return closed(sent=True)

    def drop(self) -> None:
        self._thread.soon(self._drop)

    # On the loop

    def _stream(self) -> LoopStream | None:
        """None: the client was closed, or the stream dropped, before it was opened."""
        if self._opened is None and not self._dropped:
            with contextlib.suppress(Unreachable):
                self._opened = self._transport.open(self._effect)
        return self._opened

    def _send(self, message: Message | TaskBatch) -> None:
        if (stream := self._stream()) is not None:
            stream.send(message)

    async def _receive(self) -> Message | StoredBatch | Failure | None:
        stream = self._stream()
        if stream is None:
            return None if self._dropped else closed()
        return await stream.receive()

    def _drop(self) -> None:
        self._dropped = True
        if self._opened is not None:
            self._opened.drop()
