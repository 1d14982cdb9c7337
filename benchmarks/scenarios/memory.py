"""Bytes of overhead a pending task: growth of used_memory / N, less the payload; tasks with only a due time."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks import ours, workload
from benchmarks.harness.bench import Bench, Scenario
from benchmarks.harness.report import OURS, Row, at_most
from benchmarks.harness.server import BenchServer, Binary, redis_on_path
from benchmarks.peers import bullmq, single_zset

UNIT = "bytes"
TARGET = {"valkey": 100.0, "redis": 140.0}


def run(bench: Bench) -> None:
    n = bench.size(1_000_000, 100_000)
    thin = bench.size(500_000, 25_000)
    # A quick run keeps the density: fewer tasks over a shorter time.
    day = workload.DAY_MS * n // 1_000_000
    year = workload.YEAR_MS * thin // 500_000
    binaries = [bench.binary]
    other = redis_on_path()
    if other is not None and bench.binary.kind != "redis":
        binaries.append(other)
    for binary in binaries:
        what = f"overhead a pending task, {n:,} over {day / workload.HOUR_MS:g} h, {binary.kind}"
        _delaybox(bench, binary, what, n, day, target=TARGET.get(binary.kind))
        _zset(bench, binary, what, n, day)
        _bullmq(bench, binary, what)
        what = f"overhead a pending task, {thin:,} over {year / workload.DAY_MS:g} days, {binary.kind}"
        _delaybox(bench, binary, what, thin, year, target=None)
    if len(binaries) == 1 and bench.binary.kind != "redis":
        what = "overhead a pending task, redis"
        bench.add(Row(what=what, subject=OURS, value=None, unit=UNIT, note="no redis-server on the PATH"))


def _overhead(server: BenchServer, n: int, store: Callable[[], object]) -> float:
    """Settle first: connections, scripts and their buffers are the server's, not a task's."""
    before = server.used_memory()
    store()
    return (server.used_memory() - before) / n - workload.PAYLOAD_BYTES


def _delaybox(bench: Bench, binary: Binary, what: str, n: int, span: int, *, target: float | None) -> None:
    bounds = (at_most(target),) if target is not None else ()

    def measure() -> Row:
        rng = bench.random()
        body = workload.payload(rng)
        with bench.server(binary) as server:
            due = workload.spread_over(rng, span)
            ours.run(ours.schedule(server, 1, due, payload=body))
            value = _overhead(server, n, lambda: ours.run(ours.schedule(server, n, due, payload=body)))
            stored = ours.run(ours.pending(server)) - 1
        if stored != n:
            raise RuntimeError(f"{n} scheduled but {stored} pending")
        note = binary.label if target is not None else f"{binary.label}; published, no target"
        return Row(what=what, subject=OURS, value=value, unit=UNIT, note=note, bounds=bounds)

    bench.attempt(what, OURS, UNIT, measure, bounds=bounds)


def _zset(bench: Bench, binary: Binary, what: str, n: int, span: int) -> None:
    def measure() -> list[Row]:
        rng = bench.random()
        body = workload.payload(rng)
        with bench.server(binary) as server:
            variant = single_zset.SingleZset(server)
            start = workload.now_ms() + workload.HOUR_MS
            variant.fill(1, have=0, first_ms=start, span_ms=span, payload=body)
            value = _overhead(server, n, lambda: variant.fill(n, have=1, first_ms=start, span_ms=span, payload=body))
            alone = server.call("MEMORY", "USAGE", single_zset.KEYS[1], "SAMPLES", 1000) / n - workload.PAYLOAD_BYTES
        floor = "the bodies' hash alone, by MEMORY USAGE: nothing says what is due"
        return [
            Row(what=what, subject=single_zset.NAME, value=value, unit=UNIT, note="no protobuf around the payload"),
            Row(what=what, subject="bare HSET", value=alone, unit=UNIT, note=floor),
        ]

    bench.attempt(what, single_zset.NAME, UNIT, measure)


def _bullmq(bench: Bench, binary: Binary, what: str) -> None:
    n = bench.size(100_000, 10_000)

    def measure() -> Row:
        with bench.server(binary) as server:
            found = bench.bullmq.measure("bulk", socket=server.unix, n=n)
        value = found["bytes"] - workload.PAYLOAD_BYTES
        return Row(what=what, subject=bullmq.NAME, value=value, unit=UNIT, note=f"n={n:,}")

    bench.attempt(what, bullmq.NAME, UNIT, measure)


SCENARIO = Scenario("memory", "bytes of overhead a pending task", run)
