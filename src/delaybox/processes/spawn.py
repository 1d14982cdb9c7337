"""The parent's side of a child process: starts it, gives it its settings, watches and stops it. child.py is the other
side."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Iterator, Mapping
from typing import Any, Self

from delaybox.core.errors import (
    ConfigError,
    DelayBoxError,
    StoreFull,
    StoreLost,
    StoreRefused,
    StoreUnavailable,
)
from delaybox.processes import counters
from delaybox.processes.hardening import python_module
from delaybox.processes.settings import ProcessSettings, encode
from delaybox.processes.spec import ProcessKind

READY_TIMEOUT_S = 60.0
"""A busy machine may take as long: a node that gives up and is started again only takes more from it."""
KILL_AFTER_S = 1.0
"""A child that has not ended so long after its grace is killed."""


class ChildFailed(DelayBoxError):
    """A child process did not start; the message is the child's. ``cause_code``: the code of the error that it
    raised."""

    code = "child_failed"

    def __init__(self, message: str, cause_code: str = "") -> None:
        super().__init__(message)
        self.cause_code = cause_code


_EXITS = {kind.code: kind for kind in (ConfigError, StoreRefused, StoreUnavailable, StoreLost, StoreFull)}
"""The errors that a node's exit code follows from."""


@contextlib.contextmanager
def errors_of_children() -> Iterator[None]:
    """Raises a child's error as the same class that it was in the child, where the exit code follows from it."""
    try:
        yield
    except ChildFailed as failed:
        kind = _EXITS.get(failed.cause_code)
        raise failed if kind is None else kind(str(failed)) from None


class ChildProcess:
    """A child that runs. It imports what it needs at once, and begins its work when it gets its settings.

    ``ready``: it works. ``died`` is set when the process has ended, for whatever reason, also after `stop`.
    """

    def __init__(
        self, process: asyncio.subprocess.Process, what: str, counted_in: str = "", counted_as: str = ""
    ) -> None:
        self._process = process
        self._what = what
        self._counted_in = counted_in
        self._counted_as = counted_as
        self._grace_s = 0.0
        self.ready = False
        self.died = asyncio.Event()
        self._watcher = asyncio.create_task(self._watch())

    @classmethod
    async def start(
        cls,
        kind: ProcessKind,
        *,
        listening: socket.socket | None = None,
        counted_in: str = "",
        counted_as: str = "",
        shared: bool = False,
    ) -> Self:
        """Starts ``python -m`` the kind's main, with the socket from which it accepts.

        ``counted_in``: the folder for its counters; ``counted_as``: under this name instead of its process id, and with
        what an earlier one of that name counted; ``shared``: others accept from the same socket. Call it from a thread
        that lives as long as the parent, because on Linux the process dies with that thread.
        """
        environment = counters.environment(counted_in, counted_as)
        if shared:
            # libuv then pauses after each accept. Without that the process that wakes first takes nearly all
            # connections: 49 and 51 of 60 in a trial with two processes, with it 26 and 29.
            environment["UV_TCP_SINGLE_ACCEPT"] = "1"
        process = await asyncio.create_subprocess_exec(
            *python_module(kind.module, environment),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=environment,
            start_new_session=True,  # a terminal's Ctrl-C is for the node, which then stops this process in its turn
            pass_fds=() if listening is None else (listening.fileno(),),
        )
        return cls(process, kind.what, counted_in, counted_as)

    async def begin(self, settings: ProcessSettings, *, timeout_s: float = READY_TIMEOUT_S) -> Mapping[str, str]:
        """Sends the child its settings. Returns when it is ready, with the facts that it found out.

        ChildFailed, with the child's message, when it cannot start.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._grace_s = settings.grace_s
        early = f"the {self._what} ended before it was ready; its log says why"
        try:
            async with asyncio.timeout(timeout_s):
                self._process.stdin.write(encode(settings) + b"\n")
                await self._process.stdin.drain()
                line = await self._process.stdout.readline()
            answer: Mapping[str, Any] = json.loads(line) if line else {}
            if not answer.get("ready"):
                raise ChildFailed(answer.get("error") or early, answer.get("code") or "")
            self.ready = True
            return {name: value for name, value in answer.items() if isinstance(value, str)}
        except TimeoutError:
            await self._end()
            raise ChildFailed(
                f"the {self._what} was not ready within {timeout_s:g} s; its log says why, or this machine is too busy"
            ) from None
        except (ConnectionError, json.JSONDecodeError):
            await self._end()
            raise ChildFailed(early) from None
        except BaseException:
            await self._end()
            raise

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        return self._process.returncode

    async def stop(self) -> None:
        """Lets the child finish within the grace, then kills it. Harmless when repeated or when it is dead."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
            try:
                await asyncio.wait_for(self.died.wait(), self._grace_s + KILL_AFTER_S)
            except TimeoutError:
                self.kill()
        await self.died.wait()

    def kill(self) -> None:
        """Kills the child at once."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def _end(self) -> None:
        self.kill()
        await self.died.wait()

    async def _watch(self) -> None:
        try:
            await self._process.wait()
        finally:
            if self._process.stdin is not None:
                self._process.stdin.close()
            if self._counted_in:
                counters.forget(self._counted_in, self._counted_as or str(self._process.pid))
            self.died.set()
