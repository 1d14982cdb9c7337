"""The child's side of the protocol with its parent (spawn.py is the other). The child reads one JSON line of settings
from stdin, which then stays open: when it ends, the parent has died, and the child ends at once. On stdout it writes
one line: ``{"ready": true}``, or an ``error`` with its ``code`` before it exits with 1. SIGTERM ends it after the work
in flight, a second one at once.
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
from typing import NoReturn

import uvloop

from delaybox.core.errors import DelayBoxError
from delaybox.processes import collector, files, hardening, lean_imports, logs, telemetry
from delaybox.processes.settings import Settings, decode

_PR_SET_PDEATHSIG = 1


def main(kind: type[Settings], serve: Callable[[Settings], Awaitable[int]]) -> NoReturn:
    """A child's main: ``serve`` with the settings on stdin, then the end of the process, with the exit code."""
    code = run(kind, serve)
    logging.shutdown()
    # Does not wait for threads of libraries (grpc, librdkafka), which may wait for something themselves.
    os._exit(code)


def run(kind: type[Settings], serve: Callable[[Settings], Awaitable[int]]) -> int:
    """As `main`, and returns the exit code."""

    async def serving(settings: Settings) -> int:
        return await serve(settings)

    lean_imports.settled()
    end = telemetry.nothing
    try:
        line = _read_line(0)
        if not line:
            return 1  # the parent gave up before it had settings for this process
        settings = decode(kind, line)
        if settings.guarded:
            hardening.not_dumpable()
        logs.set_up(settings.log_format, level=settings.log_level)
        _die_with_parent(0)
        files.raise_limit()
        end = telemetry.begin(settings)
        collector.set_apart()
        collector.slow_down()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(serving(settings))
    except DelayBoxError as error:
        if _answered:
            logging.getLogger("delaybox.processes").critical("%s", error)
        else:
            _answer({"ready": False, "error": str(error), "code": error.code})
        return 1
    finally:
        end()


def ready(**facts: str) -> None:
    """Reports to the parent that this process works, with facts that it found out for the other children."""
    _answer({"ready": True, **facts})


class Stopping:
    """Set by the first SIGTERM or SIGINT; a second one ends the process at once."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)

    def is_set(self) -> bool:
        """Whether the process must end."""
        return self._event.is_set()

    async def wait(self) -> None:
        """Returns when the process must end."""
        await self._event.wait()

    async def wait_or(self, opening: asyncio.Task[None] | None) -> None:
        """As `wait`; but raises the error of ``opening`` if that fails, because then another store lies on the
        server."""
        waiting = asyncio.create_task(self.wait())
        try:
            if opening is not None:
                await asyncio.wait({waiting, opening}, return_when=asyncio.FIRST_COMPLETED)
                if opening.done() and not opening.cancelled():
                    opening.result()
            await waiting
        finally:
            waiting.cancel()

    def _stop(self) -> None:
        if self._event.is_set():
            os._exit(1)
        self._event.set()


_answered: list[bool] = []


def _answer(line: dict[str, object]) -> None:
    """Writes one JSON line to the parent."""
    _answered.append(True)
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def _read_line(fd: int) -> bytes:
    """Reads one line, and not a byte more."""
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
