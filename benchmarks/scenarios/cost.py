"""What scheduling costs the server as the store fills: µs a task from commandstats at 0, 1 M and 10 M pending."""

from __future__ import annotations

from benchmarks import ours, workload
from benchmarks.harness.bench import Bench, Scenario
from benchmarks.harness.figures import reset_costs, server_microseconds
from benchmarks.harness.machine import available_gib
from benchmarks.harness.report import OURS, Row, at_most
from benchmarks.peers import bare, single_zset

UNIT = "µs"
TARGET = (at_most(1.8),)
GROWTH = "growth of the cost"
SPAN_MS = 1_000_000_000
"""11.6 days, as the prototype's figures: 16,667 minutes."""
GIB_A_MILLION = {OURS: 0.25, single_zset.NAME: 0.36}
ROUNDS = 6


def run(bench: Bench) -> None:
    sizes = bench.size_list(full=(0, 1_000_000, 10_000_000), quick=(0, 100_000, 300_000))
    probe = bench.size(60_000, 20_000)
    bench.attempt("scheduling cost", OURS, UNIT, lambda: _delaybox(bench, sizes, probe), bounds=TARGET)
    bench.attempt("scheduling cost", single_zset.NAME, UNIT, lambda: _zset(bench, sizes, probe))
    bench.attempt("scheduling cost", bare.NAME, UNIT, lambda: _floor(bench, probe))


def _what(size: int) -> str:
    return (
        f"scheduling cost at {size // 1_000_000} M pending"
        if size >= 1_000_000 or not size
        else (f"scheduling cost at {size:,} pending")
    )


def _enough_memory(size: int, subject: str) -> bool:
    return available_gib() > GIB_A_MILLION[subject] * size / 1e6 + 1


def _delaybox(bench: Bench, sizes: tuple[int, ...], probe: int) -> list[Row]:
    rng = bench.random()
    body = workload.payload(rng)
    start = workload.now_ms() + workload.HOUR_MS
    due = workload.spread_over(rng, SPAN_MS, start_ms=start)
    costs: dict[int, float] = {}
    with bench.server() as server:
        have = 0
        for size in sizes:
            if not _enough_memory(size - have, OURS):
                break
            if size > have:
                ours.run(ours.fill(server, size - have, first_ms=start, span_ms=SPAN_MS, payload=body))
                have = size
            found = []
            for _ in range(ROUNDS):
                reset_costs(server)
                ours.run(ours.schedule(server, probe // ROUNDS, due, payload=body))
                found.append(server_microseconds(server) / (probe // ROUNDS))
                have += probe // ROUNDS
            costs[size] = min(found)
            bench.show(f"{size:,} pending: {costs[size]:.2f} µs (rounds {', '.join(f'{x:.2f}' for x in found)})")
    return _rows(OURS, costs, sizes, bound=True, note="the engine's own path, 500 a script, the least of 6 rounds")


def _zset(bench: Bench, sizes: tuple[int, ...], probe: int) -> list[Row]:
    rng = bench.random()
    body = workload.payload(rng)
    start = workload.now_ms() + workload.HOUR_MS
    due = workload.spread_over(rng, SPAN_MS, start_ms=start)
    costs: dict[int, float] = {}
    with bench.server() as server:
        variant, have = single_zset.SingleZset(server), 0
        for size in sizes:
            if not _enough_memory(size - have, single_zset.NAME):
                break
            if size > have:
                variant.fill(size - have, have=have, first_ms=start, span_ms=SPAN_MS, payload=body)
                have = size
            found = []
            for _ in range(ROUNDS):
                tasks = workload.items(probe // ROUNDS, rng, due)
                reset_costs(server)
                variant.schedule(tasks, chunk=500)
                found.append(server_microseconds(server) / len(tasks))
                have += len(tasks)
            costs[size] = min(found)
            bench.show(f"single ZSET, {size:,} pending: {costs[size]:.2f} µs")
    return _rows(single_zset.NAME, costs, sizes, bound=False, note="500 a script, the least of 6 rounds")


def _rows(subject: str, costs: dict[int, float], sizes: tuple[int, ...], *, bound: bool, note: str) -> list[Row]:
    rows = [
        Row(what=_what(size), subject=subject, value=costs.get(size), unit=UNIT)
        if size in costs
        else Row(what=_what(size), subject=subject, value=None, unit=UNIT, note="not enough free memory here")
        for size in sizes
    ]
    last = sizes[-1]
    growth = costs[last] / costs[0] if last in costs else None
    # A smaller store than the target names proves nothing about it.
    bounds = TARGET if bound and last >= 10_000_000 else ()
    what = f"{GROWTH}, {_what(last).removeprefix('scheduling cost at ')} against empty"
    return [*rows, Row(what=what, subject=subject, value=growth, unit="×", note=note, bounds=bounds)]


def _floor(bench: Bench, probe: int) -> Row:
    rng = bench.random()
    due = workload.spread_over(rng, SPAN_MS)
    with bench.server() as server:
        found = []
        for _ in range(ROUNDS):
            tasks = workload.items(probe // ROUNDS, rng, due)
            reset_costs(server)
            bare.variadic(server, tasks, chunk=500)
            found.append(server_microseconds(server, ("hset", "zadd")) / len(tasks))
    return Row(
        what=_what(0), subject=bare.NAME, value=min(found), unit=UNIT, note="one of each for 500 tasks, no script"
    )


SCENARIO = Scenario("cost", "server cost of scheduling as the store fills", run)
