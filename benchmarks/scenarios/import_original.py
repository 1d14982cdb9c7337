"""Taking over the original's pending tasks from the same server: read, stored under a key each, then removed."""

from __future__ import annotations

import time
import uuid

from benchmarks import ours, workload
from benchmarks.harness.bench import Bench, Scenario
from benchmarks.harness.report import OURS, Row, at_least
from benchmarks.harness.server import BenchServer
from benchmarks.ours.storing import opened
from delaybox.service.import_original import Import
from delaybox.store.original import OriginalSet
from delaybox.wire.gen import task_pb2

WHAT = "import the original's tasks"
UNIT = "tasks/s"
TARGET = (at_least(20_000),)
KEY = "scheduled_tasks"


async def _leave_behind(server: BenchServer, bench: Bench, count: int) -> None:
    rng = bench.random()
    due = workload.spread_over(rng, workload.DAY_MS)
    async with opened(server) as store:
        for at in range(0, count, 1_000):
            flat: list[bytes | int] = []
            for i in range(at, min(at + 1_000, count)):
                when = due(i)
                header = {"executionTimestamp": b"%d" % when, "taskType": b"PUB_SUB"}
                payload = workload.payload(rng)
                name = str(uuid.UUID(int=rng.getrandbits(128), version=4))
                flat += (when, task_pb2.Task(taskUuid=name, header=header, payload=payload).SerializeToString())
            await store.servers.ask("ZADD", KEY, *flat)


async def _take_over(server: BenchServer, count: int, *, fold: bool) -> float:
    async with opened(server) as store:
        started = time.perf_counter()
        done = await Import(OriginalSet(store.servers, KEY), store, fold=fold).run()
        seconds = time.perf_counter() - started
    if done.created != count or done.left:
        raise RuntimeError(f"{count} were left behind, {done.created} imported, {done.left} not")
    return seconds


def run(bench: Bench) -> None:
    n = bench.size(200_000, 40_000)

    def measure(*, fold: bool) -> Row:
        with bench.server() as server:
            ours.run(_leave_behind(server, bench, n))
            seconds = ours.run(_take_over(server, n, fold=fold))
        note = f"n={n}, one process, source and store on one server" + (", --dedupe" if fold else "")
        return Row(what=WHAT, subject=OURS, value=n / seconds, unit=UNIT, note=note, bounds=TARGET)

    bench.attempt(WHAT, OURS, UNIT, lambda: measure(fold=False), bounds=TARGET)
    bench.attempt(WHAT, OURS, UNIT, lambda: measure(fold=True), bounds=TARGET)


SCENARIO = Scenario("import-legacy", "taking over the original's pending tasks", run)
