"""Waiting for what another process does.

Where it says so (a line of its log, its end), its own words wake whoever waits: `Log`. What sends no signal is looked
at, seldom when it takes long, for looks take from a busy machine what others wait for. How long is only a bound on a
test that hangs: none of these says how fast something must be.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

PATIENCE_S = 90.0


def _pauses() -> Iterator[float]:
    pause = 0.005
    while True:
        yield pause
        pause = min(1.3 * pause, 0.2)


def until(look: Callable[[], T | None], about: Callable[[], object] = str, *, within_s: float = PATIENCE_S) -> T:
    """What ``look`` answers, once that is true; AssertionError with what ``about`` answers when it never is."""
    give_up = time.monotonic() + within_s
    for pause in _pauses():
        if found := look():
            return found
        assert time.monotonic() < give_up, about() or "it never came to hold"
        time.sleep(pause)
    raise AssertionError


async def until_async(
    look: Callable[[], Any], about: Callable[[], object] = str, *, within_s: float = PATIENCE_S
) -> Any:
    """`until`, for the event loop; ``look`` may be a coroutine function."""
    give_up = time.monotonic() + within_s
    for pause in _pauses():
        found = look()
        if isinstance(found, Awaitable):
            found = await found
        if found:
            return found
        assert time.monotonic() < give_up, about() or "it never came to hold"
        await asyncio.sleep(min(pause, 0.05))
    raise AssertionError


class Gate:
    """Closed at first; `open` lets all through who wait at it, on whatever event loop, and those who come later."""

    def __init__(self) -> None:
        self._open = False
        self._lock = threading.Lock()
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    def open(self) -> None:
        """From any thread."""
        with self._lock:
            self._open, waiting, self._waiting = True, self._waiting, []
        for loop, event in waiting:
            with contextlib.suppress(RuntimeError):  # that loop has ended, and whoever waited there with it
                loop.call_soon_threadsafe(event.set)

    def close(self) -> None:
        """Those who come from now on wait again."""
        with self._lock:
            self._open = False

    async def passed(self) -> None:
        """Returns as soon as it is open."""
        event = asyncio.Event()
        with self._lock:
            if self._open:
                return
            self._waiting.append((asyncio.get_running_loop(), event))
        await event.wait()


class Log:
    """What a process writes, kept in a file as it comes; `wait_for` wakes with the words. Give it ``fd``, and close
    that once the process has it."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._raw = b""
        self._ended = False
        self._more = threading.Condition()  # its lock may be taken again
        read, self.fd = os.pipe()
        self._thread = threading.Thread(target=self._follow, args=(read,), name="log", daemon=True)
        self._thread.start()

    def started(self) -> None:
        """The process has its end of the pipe: this one is closed."""
        os.close(self.fd)

    def text(self) -> str:
        with self._more:
            return self._raw.decode(errors="replace")

    def wait_for(self, words: str, *, within_s: float = PATIENCE_S) -> re.Match[str]:
        """The first match of ``words``; AssertionError when it ends, or the time does, without one."""
        with self._more:
            self._more.wait_for(lambda: self._ended or re.search(words, self.text()), within_s)
            found = re.search(words, self.text())
            assert found, f"it did not say {words!r}, but:\n{self.text()}"
            return found

    def end(self) -> None:
        """Returns when nothing more can come, or a process that outlives it has kept the pipe for a while."""
        self._thread.join(2.0)

    def _follow(self, read: int) -> None:
        with self.file.open("ab", buffering=0) as file, contextlib.closing(os.fdopen(read, "rb", buffering=0)) as pipe:
            while part := pipe.read(65_536):
                file.write(part)
                with self._more:
                    self._raw += part
                    self._more.notify_all()
        with self._more:
            self._ended = True
            self._more.notify_all()
