"""Runs cpu functions in processes, one at a time in each, so that one that dies or is killed harms nobody else.

While functions are short, the next tasks are at hand when one ends (`ahead`). They wait here and not in a process, so
whichever process is free first takes the next one, and what kills a process harms none that waits.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from delaybox.processes.restart import RestartBackoff, cause
from delaybox.wire.gen import worker_pb2 as pb
from delaybox.worker import cpu_frames as frames
from delaybox.worker import failures, logs
from delaybox.worker.ahead import HOLD_S, RunPace
from delaybox.worker.attempt import TaskRun
from delaybox.worker.crew import Crew
from delaybox.worker.functions import FunctionKind

log = logging.getLogger("delaybox.worker")

IMPORT_MS: Final = 300_000
"""Longest time in which a process imports a function's module; it does not count as the task's."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0
"""Waits before a process is started again that ended before it could take a job."""


class _Process:
    """One process and the job that it has."""

    __slots__ = ("imported", "process", "reader", "run", "watch", "why", "writer")

    def __init__(
        self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.process = process
        self.reader = reader
        self.writer = writer
        self.run: TaskRun | None = None
        self.imported: set[str] = set()
        """Names of functions that it can begin at once."""
        self.watch: asyncio.Task[None] | None = None
        self.why = ""

    def kill(self, why: str) -> None:
        """Kills the process with everything that it started."""
        self.why = self.why or why
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)


class Processes(Crew):
    """The crew of cpu functions. A process that ends is replaced; jobs wait for one that is ready."""

    kind = FunctionKind.CPU

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._waiting: deque[TaskRun] = deque()
        self._idle: list[_Process] = []
        self._all: set[_Process] = set()
        self._starting = 0
        self._starters: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._backoff = RestartBackoff(first_s=_FIRST_PAUSE_S, longest_s=_LONGEST_PAUSE_S)
        self._pause_s = 0.0
        self._pace = RunPace()
        self._gave = 0.0
        self._hold: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        self._stopping = False
        for function in self.functions.values():
            function.home()
        # One after the other: started all at once, the first job would wait for the last import.
        self._launch(1)

    async def stop(self) -> None:
        self._stopping = True
        self._waiting.clear()
        if self._hold is not None:
            self._hold.cancel()
        for starter in self._starters:
            starter.cancel()
        watches = [process.watch for process in self._all if process.watch is not None]
        for process in self._all:
            process.kill("the worker stops")
        if self._starters:
            await asyncio.wait(self._starters)
        if watches:
            await asyncio.wait(watches, timeout=5.0)

    def _begin(self, runs: list[TaskRun]) -> None:
        self._waiting.extend(runs)
        self._feed()

    def _interrupt(self, run: TaskRun) -> None:
        process = run.task
        if process is not None:
            process.kill("")
        elif run in self._waiting:
            self._waiting.remove(run)
            run.give_up()
            self._left(run)

    def _feed(self) -> None:
        while self._waiting and self._idle:
            process = self._idle.pop()
            self._give(process, self._waiting.popleft())
        missing = min(len(self._waiting), self.slots.size - len(self._all)) - self._starting
        if missing > 0 and not self._stopping:
            self._launch(missing)
        if self._waiting and self._hold is None and not self._stopping:
            self._hold = asyncio.get_running_loop().call_later(HOLD_S, self._held)

    def _held(self) -> None:
        """Tasks wait: if no place has come free for long, those that came ahead go to others."""
        self._hold = None
        late = [run for run in self._waiting if run.ahead]
        if not late:
            return
        left = self._gave + HOLD_S - time.monotonic()
        if left > 0:
            self._hold = asyncio.get_running_loop().call_later(left, self._held)
            return
        self._slow()
        self._waiting = deque(run for run in self._waiting if not run.ahead)
        for run in late:
            run.hand_back()
            self._left(run)

    def _slow(self) -> None:
        self._pace.slow()
        self.slots.ahead = 0

    def _give(self, process: _Process, run: TaskRun) -> None:
        run.task = process
        process.run = run
        self._gave = time.monotonic()
        first = run.function.name not in process.imported
        facts = asdict(run.facts())
        facts["headers"] = {name: base64.b64encode(value).decode() for name, value in facts["headers"].items()}
        payload = run.assignment.task.payload
        process.writer.write(
            frames.frame(
                frames.JOB,
                payload,
                home=run.function.home(),
                facts=facts,
                want=run.assignment.want_result,
                first=first,
            )
        )
        if first:
            self.limit(run, self._import_hangs, timeout_ms=IMPORT_MS)
        else:
            self._begun(process, run)

    def _begun(self, process: _Process, run: TaskRun) -> None:
        """The job's time runs from now on."""
        process.imported.add(run.function.name)
        if run.timer is not None:
            run.timer.cancel()
            run.timer = None
        run.began = time.monotonic()
        if run.over is None:
            self.limit(run, self.kill_process, timeout_ms=run.timeout_ms)

    def _import_hangs(self, run: TaskRun) -> None:
        run.timer = None
        self.end_early(run, failures.failed(f"its module was not imported within {IMPORT_MS / 1000:g} s"))

    def _launch(self, count: int) -> None:
        for _ in range(count):
            self._starting += 1
            starter = asyncio.get_running_loop().create_task(self._start_one())
            self._starters.add(starter)
            starter.add_done_callback(self._starters.discard)

    async def _start_one(self) -> None:
        try:
            await asyncio.sleep(self._pause_s)
            process = await _spawned()
        except OSError as error:
            self._pause_s = self._backoff.pause_s()
            log.error("a process for cpu functions cannot be started: %s", error)
            self._starting -= 1
            self._feed()
            return
        except BaseException:
            self._starting -= 1
            raise
        self._all.add(process)
        self._starting -= 1
        process.watch = asyncio.get_running_loop().create_task(self._attend(process))
        if self._stopping:
            process.kill("the worker stops")

    async def _attend(self, process: _Process) -> None:
        try:
            while True:
                head, body = await _next(process.reader)
                self._receive(process, head, body)
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            process.writer.close()
            process.kill("")
            code = await process.process.wait()
            self._all.discard(process)
            if process in self._idle:
                self._idle.remove(process)
            self._bury(process, code)

    def _receive(self, process: _Process, head: Mapping[str, Any], body: bytes) -> None:
        run = process.run
        match head["is"]:
            case frames.LOG:
                logs.again(head["record"])
                return
            case frames.HELLO:
                self._pause_s = 0.0
                self._backoff.begin_anew()
                self._idle.append(process)
                self._feed()
                return
            case frames.BEGUN if run is not None:
                self._begun(process, run)
                return
            case frames.PROGRESS if run is not None:
                run.progress(head["fraction"], head["message"])
                return
        if run is None:
            return
        process.run = run.task = None
        self._pace.ended(time.monotonic() - run.began)
        # What is reported now says it to the node as well.
        self.slots.ahead = self._pace.ahead * self.slots.size
        if head["is"] == frames.DONE:
            run.succeed_encoded(body, head.get("type", ""))
        else:
            run.fail(pb.Failed.FromString(body))
        if process.why != "" or run.over is not None:
            # The process was asked to end a moment before it answered, so it is about to end.
            process.kill("")
        else:
            self._idle.append(process)
        self._left(run)
        self._feed()

    def _bury(self, process: _Process, code: int) -> None:
        run, process.run = process.run, None
        if run is not None:
            run.task = None
            self._slow()
            if run.over is None and not run.settled:
                self.common.stats.cpu_deaths += 1
                words = f"its process died: {_how(code)}"
                run.fail(failures.failed(words))
            else:
                run.give_up()
            self._left(run)
        elif not self._stopping:
            self._pause_s = self._backoff.pause_s()
        if not self._stopping:
            # One process is kept ready, so that the next job does not wait for an import.
            if not self._all and not self._starting:
                self._launch(1)
            self._feed()


def _how(code: int) -> str:
    name = cause(code)
    return f"{name}, which is also what the system sends when memory runs out" if code == -signal.SIGKILL else name


async def _next(reader: asyncio.StreamReader) -> tuple[Mapping[str, Any], bytes]:
    sizes = frames.PREFIX.unpack(await reader.readexactly(frames.PREFIX.size))
    raw = await reader.readexactly(sum(sizes))
    return frames.head(raw[: sizes[0]]), raw[sizes[0] :]


async def _spawned() -> _Process:
    # The process must find every module that this one finds, such as those in a script's own folder.
    path = os.pathsep.join(dict.fromkeys(entry or str(Path.cwd()) for entry in sys.path))
    ours, theirs = socket.socketpair()
    with theirs:
        reader, writer = await asyncio.open_connection(sock=ours)
        try:
            # The last thing that is waited for: asyncio kills it when it is cancelled here. Later nobody would know of
            # the process.
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "delaybox.worker.cpu_host",
                str(theirs.fileno()),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                # A group of its own: Ctrl-C reaches the worker alone, and killing it takes along what it started.
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": path},
            )
        except BaseException:
            writer.close()
            raise
    writer.write(frames.frame(frames.SETTINGS, levels=logs.levels()))
    return _Process(process, reader, writer)
