"""Cpu functions that tests run in processes of their own, which import this module."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from typing import Any

from delaybox.worker import Reject, Worker, current

WORKER = Worker("cpu")


@WORKER.task(cpu=True)
def square(x: int) -> int:
    return x * x


@WORKER.task(cpu=True)
def pid() -> int:
    return os.getpid()


@WORKER.task(cpu=True)
def dies(how: str) -> None:
    match how:
        case "exit":
            os._exit(7)
        case "segv":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "sys.exit":
            sys.exit(1)


@WORKER.task(cpu=True)
def refuses() -> None:
    raise Reject("no use")


@WORKER.task(cpu=True)
def reports() -> dict[str, Any]:
    ctx = current()
    ctx.progress(0.5, "half")
    return {"id": ctx.id, "token": ctx.token, "headers": {k: v.decode() for k, v in ctx.headers.items()}}


@WORKER.task(cpu=True)
def spins(file: str, seconds: float = 60.0) -> None:
    """Computes without ever looking at a signal; says its process id first."""
    with open(file, "w") as out:
        out.write(str(os.getpid()))
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


@WORKER.task(cpu=True)
def unencodable() -> object:
    return object()


class Holder:
    """A task need not stand at the top of its module, only where its name leads."""

    @staticmethod
    @WORKER.task(cpu=True, name="held")
    def held() -> str:
        return "held"


@WORKER.task(cpu=True)
def logs(words: str) -> None:
    log = logging.getLogger("app.cpu")
    log.debug("not wanted")
    log.info("from afar: %s", words, extra={"order": 7})
    logging.getLogger("app.verbose").debug("wanted")
    raise KeyError(words)


@WORKER.task(cpu=True)
def starts() -> list[int | None]:
    """How a program and a fork end that it tells to, with SIGTERM."""
    program = subprocess.Popen(["sleep", "30"])
    program.terminate()
    began, begins = multiprocessing.Pipe(duplex=False)

    def sleeps() -> None:
        begins.send(1)
        time.sleep(30)

    fork = multiprocessing.get_context("fork").Process(target=sleeps)
    fork.start()
    began.recv()
    fork.terminate()
    fork.join(10)
    return [program.wait(10), fork.exitcode]
