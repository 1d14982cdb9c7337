"""Short shell commands: from the instant they are due until each result is stored. The floor only starts and reaps."""

from __future__ import annotations

import asyncio
import os
import time

from benchmarks import ours
from benchmarks.harness.bench import Bench, Scenario
from benchmarks.harness.report import OURS, Row, at_least

UNIT = "commands/s"
PAYLOAD = "sh -c ':'"
NAMED = "named command, /bin/true"
TARGET = (at_least(2_000),)
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
LIMITS = "ulimit -c 0; ulimit -t 300; ulimit -v 2097152; ulimit -f 2097152; ulimit -n 1024; "
IN_SHELL = ["sh", "-c", LIMITS + ":"]
SECOND_EXEC = ["sh", "-c", LIMITS + 'exec "$@"', "sh", "/bin/sh", "-c", ":"]
EXEC_TRUE = ["sh", "-c", LIMITS + 'exec "$@"', "sh", "/bin/true"]
SLOTS = 16


def run(bench: Bench) -> None:
    n = bench.size(10_000, 2_000)

    def delaybox(what: str, payload: bytes, name: str) -> Row:
        with bench.server() as server:
            found = ours.run(ours.run_commands(server, n, payload=payload, name=name, slots=SLOTS))
        note = f"n={n}, {SLOTS} slots, claim, limits, output, kept result and ack; all succeeded"
        bounds = TARGET if what == PAYLOAD else ()
        return Row(what=what, subject=OURS, value=n / found.seconds, unit=UNIT, note=note, bounds=bounds)

    def floor(what: str, subject: str, argv: list[str]) -> Row:
        loops = os.cpu_count() or 1
        seconds = _loops(loops, n // loops, argv)
        note = f"posix_spawn and waitpid in {loops} processes, no pipe, no store"
        return Row(what=what, subject=subject, value=n // loops * loops / seconds, unit=UNIT, note=note)

    def stdlib() -> Row:
        count = n // 4
        seconds = asyncio.run(_subprocesses(count))
        note = f"create_subprocess_exec and communicate, {SLOTS} at once in one process, no limits, no store, n={count}"
        return Row(what=PAYLOAD, subject="asyncio.subprocess", value=count / seconds, unit=UNIT, note=note)

    bench.attempt(PAYLOAD, OURS, UNIT, lambda: delaybox(PAYLOAD, b":", ""), bounds=TARGET)
    bench.attempt(PAYLOAD, "bare posix_spawn", UNIT, lambda: floor(PAYLOAD, "bare posix_spawn", ["sh", "-c", ":"]))
    bench.attempt(PAYLOAD, "with limits", UNIT, lambda: floor(PAYLOAD, "with limits", IN_SHELL))
    bench.attempt(PAYLOAD, "limits, then exec", UNIT, lambda: floor(PAYLOAD, "limits, then exec", SECOND_EXEC))
    bench.attempt(PAYLOAD, "asyncio.subprocess", UNIT, stdlib)
    bench.attempt(NAMED, OURS, UNIT, lambda: delaybox(NAMED, b"", "true"))
    bench.attempt(NAMED, "limits, then exec", UNIT, lambda: floor(NAMED, "limits, then exec", EXEC_TRUE))


def _loops(loops: int, count: int, argv: list[str]) -> float:
    started = time.monotonic()
    children = []
    for _ in range(loops):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                for _ in range(count):
                    os.waitpid(os.posix_spawn("/bin/sh", argv, ENVIRONMENT, setsid=True), 0)
                code = 0
            finally:
                os._exit(code)
        children.append(pid)
    if any(os.waitpid(pid, 0)[1] for pid in children):
        raise RuntimeError("a loop ended badly")
    return time.monotonic() - started


async def _subprocesses(count: int) -> float:
    left = iter(range(count))

    async def slot() -> None:
        for _ in left:
            process = await asyncio.create_subprocess_exec(
                "/bin/sh",
                "-c",
                ":",
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env=ENVIRONMENT,
                start_new_session=True,
            )
            await process.communicate()

    started = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for _ in range(SLOTS):
            group.create_task(slot())
    return time.monotonic() - started


SCENARIO = Scenario("shell", "short shell commands a second", run)
