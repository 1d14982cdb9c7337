"""After a restart or a fail-over every record is looked through: how long that takes where ten million are pending."""

from __future__ import annotations

import asyncio
import time
from typing import NamedTuple

from benchmarks import ours, workload
from benchmarks.harness.bench import Bench, Scenario
from benchmarks.harness.cpu import seconds_of
from benchmarks.harness.report import OURS, Row, at_most
from benchmarks.harness.server import BenchServer
from delaybox.core.task import NewTask
from delaybox.engine.scrubber import Scrubber
from delaybox.service import Service
from delaybox.store import keys
from delaybox.store.store import Store

MOST_S = 60.0
IN_GROUPS = 100


class Walk(NamedTuple):
    """``restored``: entries of groups that were lost and are back."""

    seconds: float
    cpu_s: float
    restored: int


def run(bench: Bench) -> None:
    n = bench.size(10_000_000, 100_000)
    span = 10 * workload.DAY_MS * n // 10_000_000
    what = f"all of {n:,} pending tasks are looked through in a hurry"

    def measure() -> list[Row]:
        body = workload.payload(bench.random())
        first = workload.now_ms() + workload.HOUR_MS
        with bench.server() as server:
            ours.run(ours.fill(server, n, first_ms=first, span_ms=span, payload=body))
            memory = server.used_memory() / 2**30
            bench.show(f"{n:,} are stored: {memory:.1f} GiB")
            walk = ours.run(_walked(server, n // IN_GROUPS, first, span))
        note = f"{walk.cpu_s:.1f} s of the server's processor; {walk.restored:,} lost entries of groups are back"
        return [
            Row(what=what, subject=OURS, value=walk.seconds, unit="s", note=note, bounds=(at_most(MOST_S),)),
            Row(what=f"{what}: memory of the server", subject=OURS, value=memory, unit="GiB"),
        ]

    bench.attempt(what, OURS, "s", measure, bounds=(at_most(MOST_S),))


async def _walked(server: BenchServer, in_groups: int, first: int, span: int) -> Walk:
    """As the owners of all partitions do it, in one process; half of the time is left to others."""
    async with ours.opened(server) as store:
        for at in range(0, in_groups, workload.CHUNK):
            some = range(at, min(at + workload.CHUNK, in_groups))
            await Service(store).submit_many(
                [NewTask(payload=b"x", due_ms=first + i * (span // in_groups), group=f"g{i % 50}") for i in some]
            )
        await store.servers.ask_many([("UNLINK", keys.groups(tag)) for tag in store.tags])
        scrubber, began, used = Scrubber(store), time.monotonic(), seconds_of(server.process.pid)
        while not scrubber.rounds:
            await asyncio.sleep(await scrubber.step())
        walk = Walk(time.monotonic() - began, seconds_of(server.process.pid) - used, await _grouped(store))
    if walk.restored != in_groups:
        raise RuntimeError(f"{walk.restored} of {in_groups} entries of groups are back")
    return walk


async def _grouped(store: Store) -> int:
    return sum(await store.servers.ask_many([("ZCARD", keys.groups(tag)) for tag in store.tags]))


SCENARIO = Scenario("looked-through", "every record of ten million pending, after a restart", run)
