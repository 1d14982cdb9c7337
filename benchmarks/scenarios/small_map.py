"""`client.map` over calls so small that what carries them counts, beside a bare process pool."""

from __future__ import annotations

import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

from benchmarks import ours
from benchmarks.harness.bench import Bench, Scenario
from benchmarks.harness.report import OURS, Row
from benchmarks.workload import burn_little

COUNT = 3_000
PROCESSES = 2
CHUNKSIZE = 100
WHAT = f"map over {COUNT:,} calls of 0.2 ms in {PROCESSES} processes"
POOL = "bare process pool"


def run(bench: Bench) -> None:
    def measure(chunksize: int) -> Row:
        with bench.server() as server, ours.crew(server, ours.SDK, cpu_processes=PROCESSES) as crew:
            seconds = ours.worker_map(crew, COUNT, processes=PROCESSES, function="compute_little", chunksize=chunksize)
        return _row(OURS, seconds, f"chunksize={chunksize}")

    def bare() -> Row:
        with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as pool:
            list(pool.map(burn_little, range(4 * PROCESSES)))
            started = time.monotonic()
            list(pool.map(burn_little, range(COUNT), chunksize=CHUNKSIZE))
            return _row(POOL, time.monotonic() - started, f"chunksize={CHUNKSIZE}")

    for chunksize in (CHUNKSIZE, 1):
        what = WHAT if chunksize > 1 else f"{WHAT}, one by one"
        bench.attempt(what, OURS, "s", partial(measure, chunksize))
    bench.attempt(WHAT, POOL, "s", bare)


def _row(subject: str, seconds: float, note: str) -> Row:
    what = f"{WHAT}, one by one" if note == "chunksize=1" else WHAT
    return Row(what=what, subject=subject, value=seconds, unit="s", note=note)


SCENARIO = Scenario("small-map", "client.map over very small calls, beside a bare process pool", run)
