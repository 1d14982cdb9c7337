"""The child's side. It reads one JSON line of settings from stdin, which then stays open: its end means that the parent
died, and the child ends at once. On stdout it says once ``{"ready": true, ...}``, or ``{"ready": false, "error": ...}``
and exits with 1. SIGTERM ends it after the work in flight, a second one at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

import uvloop

from delaybox.core.errors import DelayBoxError
from delaybox.processes import collector, files, hardening, logs

_PR_SET_PDEATHSIG = 1


class Settings(Protocol):
    """What every child is told, among other things."""

    @property
    def log_format(self) -> str:
        """``text`` or ``json``."""
        ...

    @property
    def shell(self) -> bool:
        """Whether there are shell commands, which run as the node's user,"""
        ...

    @property
    def shell_commands(self) -> tuple[str, ...]:
        """or named ones."""
        ...


_Told = TypeVar("_Told", bound=Settings)


def run(read: Callable[[bytes], _Told], serve: Callable[[_Told], Awaitable[int]]) -> int:
    """A child's main: ``serve`` with the settings that ``read`` made of the line on stdin; the exit code."""

    async def serving(settings: _Told) -> int:
        return await serve(settings)

    try:
        settings = read(_read_line(0))
        if settings.shell or settings.shell_commands:
            hardening.not_dumpable()
        _set_up_logging(settings.log_format)
        _die_with_parent(0)
        files.raise_limit()
        collector.set_apart()
        collector.slow_down()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(serving(settings))
    except DelayBoxError as error:
        say({"ready": False, "error": str(error), "code": error.code})
        return 1


def stop_on_signals(stop: Callable[[], None]) -> None:
    """Calls ``stop`` on SIGTERM and SIGINT."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)


def say(line: dict[str, object]) -> None:
    """One JSON line to the parent."""
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def _read_line(fd: int) -> bytes:
    """One line without reading past it."""
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = os.read(fd, 1)
        if not byte:
            break
        line += byte
    return bytes(line)


def _die_with_parent(fd: int) -> None:
    """Ends this process as soon as the parent is gone, even while the event loop is busy."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    def watch() -> None:
        with contextlib.suppress(OSError):
            while os.read(fd, 4096):
                pass
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def _set_up_logging(log_format: str) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logs.formatter(log_format))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
