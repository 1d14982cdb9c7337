"""The process that runs cpu functions, one at a time: ``python -m delaybox.worker.cpu_host <socket's number>``.

Started by `cpu_processes.py`, never forked. The main thread runs the function, so that signals and libraries behave as
in a script; another thread listens, and ends the process when the worker is gone.
"""

from __future__ import annotations

import base64
import importlib
import logging
import os
import queue
import runpy
import signal
import socket
import sys
import threading
from collections.abc import Mapping
from functools import reduce
from typing import Any

from delaybox.otel.environment import begin_program, follow_program
from delaybox.worker import cpu_frames as frames
from delaybox.worker import failures, forks, logs
from delaybox.worker.context import CancelSignal, Context, Facts, running
from delaybox.worker.functions import TaskFunction

MAIN = "__delaybox_main__"
"""The name under which a script that was run as a program is imported again."""


class _Host:
    """``context`` is the running task's, for `current()`."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self._jobs: queue.SimpleQueue[tuple[Mapping[str, Any], bytes]] = queue.SimpleQueue()
        self._functions: dict[tuple[str, str, str], TaskFunction[..., Any]] = {}
        self._modules: dict[str, Any] = {}
        self.context: Context

    def run(self) -> None:
        logging.basicConfig(handlers=[logs.Forward(self._log)], force=True)
        threading.Thread(target=self._listen, daemon=True).start()
        self._send(frames.frame(frames.HELLO, pid=os.getpid()))
        while True:
            head, payload = self._jobs.get()
            self._send(self._answer(head, payload))

    def _listen(self) -> None:
        try:
            while True:
                head, body = frames.read(self._exactly)
                if head["is"] == frames.JOB:
                    self._jobs.put((head, body))
                elif head["is"] == frames.SETTINGS:
                    logs.set_levels(head["levels"])
        except (OSError, EOFError):
            os._exit(0)  # the worker is gone, or wants this process to end: nobody waits for the result

    def _exactly(self, count: int) -> bytes:
        got = bytearray()
        while len(got) < count:
            more = self._connection.recv(min(1 << 20, count - len(got)))
            if not more:
                raise EOFError
            got += more
        return bytes(got)

    def _send(self, frame: bytes) -> None:
        try:
            with self._sending:
                self._connection.sendall(frame)
        except OSError:
            os._exit(0)

    def _log(self, record: Mapping[str, Any]) -> None:
        self._send(frames.frame(frames.LOG, record=record))

    def _progress(self, fraction: float, message: str) -> None:
        self._send(frames.frame(frames.PROGRESS, fraction=fraction, message=message))

    def _answer(self, head: Mapping[str, Any], payload: bytes) -> bytes:
        facts = dict(head["facts"])
        facts["headers"] = {name: base64.b64decode(value) for name, value in facts["headers"].items()}
        self.context = Context(Facts(**facts), CancelSignal(), self._progress)
        running.set(self)
        try:
            function = self._function(*head["home"])
            if head["first"]:
                follow_program("delaybox.worker.traced")
                # The task's time begins after the import.
                self.context = Context(Facts(**facts), CancelSignal(), self._progress)
                self._send(frames.frame(frames.BEGUN))
            value = function.started(function.codecs.arguments(payload, self.context.headers), self)
            if not head["want"]:
                return frames.frame(frames.DONE)
            data, content_type = function.codecs.result(value, function.result_type)
            return frames.frame(frames.DONE, data, type=content_type)
        except BaseException as error:  # noqa: BLE001 - whatever a function raises fails its attempt alone
            return frames.frame(frames.FAILED, failures.failure(error).SerializeToString())

    def _function(self, module: str, file: str, name: str) -> TaskFunction[..., Any]:
        key = (module, file, name)
        found = self._functions.get(key)
        if found is None:
            thing = reduce(getattr, name.split("."), self._module(module, file))
            if not isinstance(thing, TaskFunction):
                raise failures.Reject(f"{name} in {module or file} is {type(thing).__name__}, not a task of a worker")
            found = self._functions[key] = thing
            if len(self._functions) == 1:
                begin_program(os.environ, sys.modules["delaybox"].__version__, "cpu")
        return found

    def _module(self, module: str, file: str) -> Any:
        if module:
            return importlib.import_module(module)
        if file not in self._modules:
            # As multiprocessing's spawn does: runs the script without what stands under `if __name__ == ...`.
            sys.modules[MAIN] = made = type(sys)(MAIN)
            made.__dict__.update(runpy.run_path(file, run_name=MAIN))
            self._modules[file] = made
        return self._modules[file]


def _left_to_the_worker(number: int, frame: object) -> None:
    """Nothing."""


def main(number: int) -> None:
    """Serves jobs until the other end is closed."""
    # Ctrl-C and a service manager's SIGTERM to the group are handled by the worker, which drains first. Handlers that
    # do nothing are set, and not SIG_IGN, which every program that a function starts would inherit.
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, _left_to_the_worker)
    forks.set_free()
    _Host(socket.socket(fileno=number)).run()


if __name__ == "__main__":
    main(int(sys.argv[1]))
