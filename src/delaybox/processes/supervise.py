"""The node's side: starts a child process, watches it, stops it, and starts it again when it died."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Generic, TypeVar

from delaybox.core.errors import DelayBoxError
from delaybox.processes.backoff import Backoff
from delaybox.processes.hardening import python_module

READY_TIMEOUT_S = 20.0
_MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR"
FIRST_PAUSE_S, LONGEST_PAUSE_S, STEADY_S = 0.5, 10.0, 30.0

Listener = Callable[[Mapping[str, Any]], None]
"""Told what a child says after its ready line."""


class ChildFailed(DelayBoxError):
    """A child process did not start; the message is its own."""

    code = "child_failed"


class ChildProcess:
    """A running child.

    ``said`` is its ready line. ``died`` is set when the process has ended, whatever the cause: after `stop` that is
    meant, before it the node must act on it.
    """

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        said: Mapping[str, Any],
        grace_s: float,
        listen: Listener | None = None,
    ) -> None:
        self._process = process
        self._grace_s = grace_s
        self._listen = listen
        self.said = said
        self.died = asyncio.Event()
        self._watcher = asyncio.create_task(self._watch())

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.returncode

    async def stop(self) -> None:
        """Lets it finish within the grace, then ends it. Harmless when repeated or when it is dead."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
            try:
                await asyncio.wait_for(self.died.wait(), self._grace_s + 2.0)
            except TimeoutError:
                self.kill()
        await self.died.wait()

    def kill(self) -> None:
        """Ends it at once."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def _watch(self) -> None:
        try:
            if self._listen is not None:
                await self._hear(self._listen)
            await self._process.wait()
        finally:
            if self._process.stdin is not None:
                self._process.stdin.close()
            self.died.set()

    async def _hear(self, listen: Listener) -> None:
        assert self._process.stdout is not None
        with contextlib.suppress(ValueError):  # what is no line of ours ends the hearing, not the child
            async for line in self._process.stdout:
                listen(json.loads(line))


Child = TypeVar("Child", bound=ChildProcess)


async def spawn(
    module: str,
    settings_line: str,
    *,
    what: str,
    metrics_dir: str,
    ready_timeout_s: float,
    failed: type[ChildFailed] = ChildFailed,
) -> tuple[asyncio.subprocess.Process, Mapping[str, Any]]:
    """Starts ``python -m module`` and returns it with its ready line; ``failed``, with its words, when it cannot start.

    ``what`` names it in messages. To be called from a thread that lives as long as the node: on Linux the process dies
    with that thread.
    """
    environment = dict(os.environ)
    environment.pop(_MULTIPROCESS, None)
    if metrics_dir:
        # Read when prometheus-client is imported, so it can not travel in the settings line.
        environment[_MULTIPROCESS] = metrics_dir
    process = await asyncio.create_subprocess_exec(
        *python_module(module, environment),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=environment,
        start_new_session=True,  # a terminal's Ctrl-C is for the node, which then stops this process in its turn
    )
    assert process.stdin is not None
    assert process.stdout is not None
    early = f"the {what} ended before it was ready; its log says why"
    try:
        async with asyncio.timeout(ready_timeout_s):
            process.stdin.write(settings_line.encode() + b"\n")
            await process.stdin.drain()
            line = await process.stdout.readline()
        said = json.loads(line) if line else {}
        if not said.get("ready"):
            raise failed(said.get("error") or early)
        return process, said
    except TimeoutError:
        await _end(process)
        raise failed(f"the {what} was not ready within {ready_timeout_s:g} s; its log says why") from None
    except (ConnectionError, json.JSONDecodeError):
        await _end(process)
        raise failed(early) from None
    except BaseException:
        await _end(process)
        raise


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    if process.stdin is not None:
        process.stdin.close()
    await process.wait()


class Keeper(Generic[Child]):
    """Keeps one child running: ``again`` starts it anew, after a pause, whenever it died.

    Pauses grow while it dies early, and begin anew after a steady life. ``child``: the one that runs now.
    """

    def __init__(
        self, what: str, child: Child, again: Callable[[Child], Awaitable[Child]], log: logging.Logger
    ) -> None:
        self._what = what
        self.child = child
        self._again = again
        self._log = log

    async def run(self, stop: asyncio.Event) -> None:
        """Until ``stop`` is set; then the child is stopped."""
        stopping = asyncio.create_task(stop.wait())
        loop = asyncio.get_running_loop()
        backoff = Backoff(first_s=FIRST_PAUSE_S, longest_s=LONGEST_PAUSE_S, steady_s=STEADY_S)
        try:
            while not stopping.done():
                up_since = loop.time()
                died = asyncio.create_task(self.child.died.wait())
                await asyncio.wait({stopping, died}, return_when=asyncio.FIRST_COMPLETED)
                died.cancel()
                if not stopping.done():
                    lived_s = loop.time() - up_since
                    pause_s = backoff.pause_s(lived_s)
                    self._log.error(
                        "the %s ended with exit code %s after %.0f s; starting it again in %.1f s",
                        self._what, self.child.exit_code, lived_s, pause_s,
                    )  # fmt: skip
                    await self._replace(stopping, pause_s, backoff)
        finally:
            stopping.cancel()
            await self.child.stop()

    async def _replace(self, stopping: asyncio.Task[Any], pause_s: float, backoff: Backoff) -> None:
        while True:
            await asyncio.wait({stopping}, timeout=pause_s)
            if stopping.done():
                return
            try:
                self.child = await self._again(self.child)
                return
            except DelayBoxError as error:
                pause_s = backoff.pause_s()
                self._log.error("the %s did not start: %s; trying again in %.1f s", self._what, error, pause_s)
