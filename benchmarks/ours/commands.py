"""Shell tasks due at one instant, run by the engine and the shell target in this process."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from benchmarks import workload
from benchmarks.harness.server import BenchServer
from benchmarks.ours.firing import engine
from benchmarks.ours.storing import opened
from delaybox.core.task import NewTask, Submitted, TaskType
from delaybox.service import Service
from delaybox.store.store import Store
from delaybox.targets.shell import ShellOptions, ShellTarget


@dataclass(frozen=True, slots=True)
class Commands:
    """``seconds`` run from the due instant until every result was stored."""

    seconds: float
    succeeded: int


async def run_commands(
    server: BenchServer, count: int, *, payload: bytes, name: str = "", slots: int = 16, patience_s: float = 120.0
) -> Commands:
    """``count`` commands, their results kept; raises when one failed or was lost."""
    async with opened(server) as store:
        service = Service(store)
        target = ShellTarget(ShellOptions(payloads=True, commands={"true": ("/bin/true",)}, concurrency=slots))
        await target.start()
        try:
            async with engine(store, {TaskType.SHELL_CMD: target}):
                due_ms = workload.now_ms() + 1_000 + count // 10
                task = NewTask(type=TaskType.SHELL_CMD, payload=payload, name=name, due_ms=due_ms)
                stored = [one for one in await service.submit_many([task] * count) if isinstance(one, Submitted)]
                if len(stored) < count or workload.now_ms() >= due_ms:
                    raise RuntimeError(f"{len(stored)} of {count} stored in time")
                await asyncio.sleep((due_ms - workload.now_ms()) / 1000)
                await _until_empty(store, patience_s)
                seconds = time.time() - due_ms / 1000
                ids = [one.task_id for one in stored[:: max(1, count // 100)]]
                failed = [task_id for task_id in ids if (await service.get(task_id)).state.value != "succeeded"]
        finally:
            await target.stop()
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(ids)} looked at did not succeed")
    return Commands(seconds, count)


async def _until_empty(store: Store, patience_s: float) -> None:
    end = time.monotonic() + patience_s
    while any(c.pending or c.in_flight for c in await store.counts()):
        if time.monotonic() > end:
            raise RuntimeError(f"not done in {patience_s:.0f} s")
        # Looking asks every partition; done every 10 ms it took its share of both cores from the commands.
        await asyncio.sleep(0.1)
