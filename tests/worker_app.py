"""The worker that tests run in processes of their own: ``python -m delaybox.worker tests.worker_app``.

What runs is appended to the file that ORACLE names, a line for each beginning and end: ``+ id token process`` and
``- id token process``. O_APPEND keeps lines of several processes whole.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
import warnings
from collections import defaultdict
from pathlib import Path

from delaybox.worker import Context, Reject, Retry, RetryLater, Worker, current

worker = Worker("oracle", grace="10s")
_file = -1
_begun: dict[tuple[str, int], int] = {}


def _note(sign: str, ctx: Context) -> None:
    global _file
    if _file < 0:
        _file = os.open(os.environ["ORACLE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    # Where its beginning stands: a thread that outlives its test would end in the next one's file.
    attempt = (ctx.id, ctx.token)
    file = _begun.setdefault(attempt, _file) if sign == "+" else _begun.pop(attempt, _file)
    os.write(file, f"{sign} {ctx.id} {ctx.token} {os.getpid()}\n".encode())


class Oracle:
    """What the functions noted. Each look reads what was added since the last, for a large run is looked at often."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._read = 0
        self._begun: dict[str, list[int]] = {}
        self._ended: dict[str, list[int]] = {}
        self._under_way: defaultdict[int, set[tuple[str, int]]] = defaultdict(set)

    def _look(self) -> None:
        if not self.file.exists():
            return
        with self.file.open("rb") as file:
            file.seek(self._read)
            # What is being written this moment may be there in part: whole lines alone count, the rest is read next
            # time.
            whole = file.read().rpartition(b"\n")[0]
        self._read += len(whole) + 1 if whole else 0
        for line in whole.decode().splitlines():
            kind, task_id, token, process = line.split()
            attempt, under_way = (task_id, int(token)), self._under_way[int(process)]
            if kind == "+":
                self._begun.setdefault(task_id, []).append(int(token))
                under_way.add(attempt)
            else:
                self._ended.setdefault(task_id, []).append(int(token))
                under_way.discard(attempt)

    def begun(self) -> dict[str, list[int]]:
        """Tokens of the attempts that began, by task."""
        self._look()
        return _copied(self._begun)

    def ended(self) -> dict[str, list[int]]:
        """Tokens of the attempts whose code came to its end, by task."""
        self._look()
        return _copied(self._ended)

    def under_way(self, process: int) -> set[str]:
        """Tasks that this process has begun and not ended."""
        self._look()
        return {task for task, _ in self._under_way.get(process, ())}

    def processes(self) -> set[int]:
        """Those that ran something."""
        self._look()
        return set(self._under_way)


def _copied(tokens: dict[str, list[int]]) -> dict[str, list[int]]:
    return defaultdict(list, {task: [*some] for task, some in tokens.items()})


@worker.task
async def quick(*_: object) -> None:
    ctx = current()
    _note("+", ctx)
    _note("-", ctx)


@worker.task
async def naps(seconds: float) -> None:
    ctx = current()
    _note("+", ctx)
    await asyncio.sleep(seconds)
    _note("-", ctx)


@worker.task
def sleeps(seconds: float) -> float:
    ctx = current()
    _note("+", ctx)
    time.sleep(seconds)
    _note("-", ctx)
    return seconds


@worker.task
async def holds(gate: str) -> None:
    """Runs until the file is there (`yard.Yard.hold`)."""
    ctx = current()
    _note("+", ctx)
    while not Path(gate).exists():
        await asyncio.sleep(0.01)
    _note("-", ctx)


@worker.task
def held(gate: str) -> None:
    """The same in a thread, which ends some day where its test did not."""
    ctx = current()
    _note("+", ctx)
    for _ in range(20_000):
        if Path(gate).exists():
            break
        time.sleep(0.01)
    _note("-", ctx)


@worker.task
async def strays(seconds: float) -> None:
    """Leaves a thread behind that nobody can stop."""
    _note("+", current())
    await asyncio.to_thread(time.sleep, seconds)


@worker.task(cpu=True)
def computes(n: int) -> int:
    ctx = current()
    _note("+", ctx)
    total = sum(i * i for i in range(n))
    _note("-", ctx)
    return total


@worker.task(cpu=True)
def dies() -> None:
    _note("+", current())
    os._exit(9)


@worker.task
async def takes_along(pid_file: str) -> None:
    """Kills the process whose id the file has, once it is there, and its own."""
    _note("+", current())
    while not (pid := Path(pid_file).read_text() if Path(pid_file).exists() else ""):
        await asyncio.sleep(0.005)
    for doomed in (int(pid), os.getpid()):
        os.kill(doomed, signal.SIGKILL)


@worker.task(retries=Retry(3, initial="10ms", factor=1, jitter=0))
async def fails(times: int) -> int:
    ctx = current()
    _note("+", ctx)
    if ctx.attempt < times:
        raise ConnectionError(f"attempt {ctx.attempt}")
    return ctx.attempt


@worker.task
async def rejects() -> None:
    raise Reject("an order without lines")


@worker.task
async def later() -> str:
    if current().token == 1:
        raise RetryLater("busy", after=0.3)
    return "at last"


@worker.task
async def waits(times: int) -> int:
    token = current().token
    if token <= times:
        raise RetryLater("not yet", after="10ms")
    return token


@worker.task(timeout="200ms", retries=0)
async def hangs() -> None:
    await asyncio.sleep(60)


@worker.task
async def reports() -> None:
    ctx = current()
    _note("+", ctx)
    ctx.progress(0.5, "half")
    await ctx.cancelled.wait()


@worker.task
async def shouts(length: int, seconds: float) -> None:
    """Says more of its progress than anybody wants to read, and waits until it was sent."""
    ctx = current()
    _note("+", ctx)
    ctx.progress(0.5, "x" * length)
    await asyncio.sleep(seconds)
    _note("-", ctx)


@worker.task
def forks() -> list[int]:
    """A program with a hook, for which Python forks in full; and a fork that is told to end."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = subprocess.run(["true"], preexec_fn=os.getpid, check=True)
    child = os.fork()
    if child == 0:
        time.sleep(30)
        os._exit(0)
    os.kill(child, signal.SIGTERM)
    return [program.returncode, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])]


@worker.task
async def unencodable() -> object:
    return object()


@worker.task
async def echoes(value: object) -> object:
    return value
