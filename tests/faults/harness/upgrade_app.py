"""A worker's program that every version can run: what it does goes to the oracle's file that ORACLE names."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from delaybox.worker import Worker, current
from tests.faults.harness.oracle import End, Start, Writer, now_us

worker = Worker("upgrade", grace="10s")
_log: list[Writer] = []


def _note(event: Start | End) -> None:
    if not _log:
        _log.append(Writer(Path(os.environ["ORACLE"])))
    _log[0].write(event)


@worker.task
async def step(key: str, nap_s: float) -> None:
    ctx = current()
    _note(Start(ctx.id, key, ctx.token, ctx.attempt, os.getpid(), now_us()))
    await asyncio.sleep(nap_s)
    _note(End(ctx.id, ctx.token, os.getpid(), True, now_us()))
