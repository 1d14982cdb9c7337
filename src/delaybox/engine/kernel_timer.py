"""Wakes at a moment to a fraction of a millisecond. Event loops round their timers to whole milliseconds.

On Linux the kernel's own timer (timerfd) wakes the loop; elsewhere the loop's timer has to do.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import sys
from collections.abc import Callable

from delaybox.engine.clock_estimate import local_ms

_CLOCK_MONOTONIC = 1
_ABSOLUTE = 1
_FAR_MS, _BEFORE_MS = 6.0, 3.0
"""A call that is farther away is left to the event loop's timer until so long before: it is rarely needed, as the claim
that it stands beside is over by then, and to set the kernel's timer takes several times as long."""


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Timerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class Timer:
    """One sleeper at a time: `wait` until a local moment (ms of `local_ms`) or until `wake`. `close` when done.

    While nobody sleeps, `call` has a function called at a moment.
    """

    def __init__(self) -> None:
        self._future: asyncio.Future[None] | None = None
        self._then: Callable[[], None] | None = None
        self._fd = -1
        self._spec = _Timerspec()
        self._set_to = 0.0
        self._far: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def wait(self, until: float) -> None:
        """Returns at ``until``, or earlier when woken."""
        loop = asyncio.get_running_loop()
        self._future, self._then = loop.create_future(), None
        self._forget_far()
        handle = self._arm(loop, until)
        try:
            await self._future
        finally:
            self._future = None
            if handle is not None:
                handle.cancel()

    def call(self, until: float, then: Callable[[], None]) -> None:
        """Has ``then`` called at ``until``, unless somebody sleeps by then, or this is called again before it."""
        loop, left_ms = asyncio.get_running_loop(), until - local_ms()
        self._forget_far()
        if left_ms > _FAR_MS:
            self._then = None
            self._far = loop.call_later((left_ms - _BEFORE_MS) / 1000, self.call, until, then)
        else:
            self._then = then
            self._arm(loop, until)

    def _forget_far(self) -> None:
        if self._far is not None:
            self._far.cancel()
            self._far = None

    def _arm(self, loop: asyncio.AbstractEventLoop, until: float) -> asyncio.TimerHandle | None:
        if self._loop is None:
            self._loop = loop
            self._open(loop)
        if self._fd < 0:
            return loop.call_later(max(0.0, until - local_ms()) / 1000, self._over)
        # What was to be called at some moment is often followed by a sleep until the same one.
        if until != self._set_to:
            self._set(max(until, 0.001))
            self._set_to = until
        return None

    def wake(self) -> None:
        """Wakes the sleeper, if there is one."""
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    def close(self) -> None:
        """Gives the kernel's timer back; twice is harmless."""
        if self._fd >= 0 and self._loop is not None:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
        self._forget_far()
        self._fd, self._set_to = -1, 0.0
        self._loop, self._then = None, None

    def _open(self, loop: asyncio.AbstractEventLoop) -> None:
        if sys.platform != "linux":
            return
        with contextlib.suppress(OSError, AttributeError):
            # os.timerfd_create came with Python 3.13 only.
            self._libc = ctypes.CDLL(None, use_errno=True)
            fd = self._libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
            if fd >= 0:
                self._fd = fd
                loop.add_reader(fd, self._expired)

    def _set(self, until: float) -> None:
        seconds, rest = divmod(int(until * 1_000_000), 1_000_000_000)
        self._spec.value.seconds, self._spec.value.nanoseconds = seconds, rest
        self._libc.timerfd_settime(self._fd, _ABSOLUTE, ctypes.byref(self._spec), None)

    def _expired(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._fd, 8)
        self._set_to = 0.0
        self._over()

    def _over(self) -> None:
        self.wake()
        then, self._then = self._then, None
        if then is not None:
            then()
