"""Keeps several processes of one worker running, each started again when it ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Sequence
from typing import Final

from delaybox.processes import counters
from delaybox.processes.restart import RestartBackoff, reason

log = logging.getLogger("delaybox.worker")

FAILED: Final = 1
"""Exit code where a process did not end well after it was asked to end."""


class WorkerProcesses:
    """Runs until it is asked to end, or until none can start. ``worker``: its name, for the log. ``settings``: one text
    for each process, which gets it as its argument. ``final``: exit codes that another start would not mend.
    """

    def __init__(self, worker: str, settings: Sequence[str], *, final: Sequence[int]) -> None:
        self._worker = worker
        self._settings = settings
        self._final = final
        self._children: set[asyncio.subprocess.Process] = set()
        self._stopping = asyncio.Event()
        self._code = 0

    async def run(self) -> int:
        """The whole life; returns the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._ask_to_stop)
        log.info("%d processes of %s", len(self._settings), self._worker)
        await asyncio.gather(*(self._keep(n, settings) for n, settings in enumerate(self._settings)))
        return self._code

    def _ask_to_stop(self) -> None:
        """Called again, it passes the second signal on to the processes, which then end at once."""
        self._stopping.set()
        for process in self._children:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)

    async def _keep(self, number: int, settings: str) -> None:
        loop, backoff = asyncio.get_running_loop(), RestartBackoff()
        while not self._stopping.is_set():
            began = loop.time()
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "delaybox.worker",
                "--child",
                settings,
                stdin=asyncio.subprocess.PIPE,  # the child reads its end as a sign that the supervisor is gone
                # Ctrl-C is for the supervisor, which passes it on once.
                start_new_session=True,
            )
            self._children.add(process)
            if self._stopping.is_set():
                process.send_signal(signal.SIGTERM)
            code = await process.wait()
            self._children.discard(process)
            if folder := os.environ.get(counters.VARIABLE):
                counters.forget(folder, str(process.pid))
            if self._stopping.is_set():
                # A process that was still importing has no handler yet. It ended because it was asked to, and held no
                # task.
                self._code = self._code or (FAILED if code not in (0, -signal.SIGTERM) else 0)
                return
            if code in self._final:
                self._code = code
                self._ask_to_stop()
                return
            lived_s = loop.time() - began
            pause = backoff.pause_s(lived_s)
            log.error("%s", reason(f"process {number} (pid {process.pid})", code, lived_s, pause))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)
