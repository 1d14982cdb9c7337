"""Lateness: tasks due evenly at a rate; a handler's or subscriber's clock against due, one host, every task."""

from __future__ import annotations

import time
from contextlib import ExitStack

from benchmarks import ours, workload
from benchmarks.harness import load
from benchmarks.harness.bench import Bench, Scenario
from benchmarks.harness.figures import Spread, spread
from benchmarks.harness.report import OURS, Bound, Row, at_most
from benchmarks.harness.server import BenchServer
from benchmarks.peers import bullmq, single_zset

UNIT = "ms"
PENDING = 1_000_000
POST_RATE = 1_000
LEAD_MS = 2_500
P99_TARGET = {400: 3.0, 1_000: 4.0, 10_000: 10.0}
"""Set for 400/s without and for 1k/s and 10k/s with a million pending; the other of the two is held to the same."""


def run(bench: Bench) -> None:
    rates = (400, 1_000, 10_000)
    seconds = bench.size(6, 2)
    million = bench.size(PENDING, PENDING // 10)
    for pending in (0, million):
        with bench.server() as server:
            if pending:
                _fill(bench, server, pending)
            for rate in rates:
                _handler(bench, server, rate=rate, seconds=seconds, pending=pending)
            if pending or not bench.quick:
                _subscriber(bench, server, rate=1_000, seconds=seconds, pending=pending, posts=0)
                _subscriber(bench, server, rate=1_000, seconds=seconds, pending=pending, posts=POST_RATE)
    _peers(bench, bench.size_list(full=rates, quick=(1_000,)), seconds)


def _what(rate: int, pending: int) -> str:
    return f"p99 lateness at {rate:,}/s, {_short(pending)} pending"


def _short(pending: int) -> str:
    return f"{pending // 1_000_000} M" if pending >= 1_000_000 else f"{pending:,}"


def _row(what: str, subject: str, found: Spread, note: str, bounds: tuple[Bound, ...] = ()) -> Row:
    extra = {
        "p50": found.p50,
        "p99": found.p99,
        "p99.9": found.p999,
        "max": found.max,
        "min": found.min,
        "early": float(found.early),
        "n": float(found.n),
    }
    return Row(
        what=what,
        subject=subject,
        value=found.p99,
        unit=UNIT,
        note=f"{found.note()}; {note}" if note else found.note(),
        bounds=bounds,
        extra=extra,
    )


def _bounds(rate: int) -> tuple[Bound, ...]:
    bounds = [at_most(P99_TARGET[rate])]
    if rate <= 1_000:
        bounds.append(at_most(1.0, part="p50"))
    return (*bounds, at_most(0, part="early"))


def _fill(bench: Bench, server: BenchServer, pending: int) -> None:
    """Tasks far ahead, stored the way any task is."""
    rng = bench.random()
    due = workload.spread_over(rng, workload.DAY_MS)
    seconds = ours.run(ours.schedule(server, pending, due, payload=workload.payload(rng)))
    bench.show(f"{pending:,} pending in {seconds:.1f} s")


def _handler(bench: Bench, server: BenchServer, *, rate: int, seconds: int, pending: int) -> None:
    what, count = _what(rate, pending), rate * seconds

    def measure() -> Row:
        late = ours.run(ours.lateness(server, count=count, rate=rate, lead_ms=LEAD_MS))
        if len(late) < count:
            raise RuntimeError(f"only {len(late)} of {count} tasks reached the handler")
        return _row(what, OURS, spread(late), "handler in the node, claim and ack", _bounds(rate))

    bench.attempt(what, OURS, UNIT, measure, bounds=_bounds(rate))


def _subscriber(bench: Bench, server: BenchServer, *, rate: int, seconds: int, pending: int, posts: int) -> None:
    what = f"{_what(rate, pending)}, subscriber" + (f", {posts:,} POST/s going on" if posts else "")
    count = rate * seconds
    # No target names POSTs going on: those rows are published.
    bounds = () if posts else _bounds(rate)

    def measure() -> Row:
        with ExitStack() as stack:
            node = stack.enter_context(ours.serve(server))
            listener = stack.enter_context(ours.subscriber(server, count=count, seconds=seconds + 30))
            listener.read()
            note = "`delaybox serve`, fire in place"
            poster = None
            if posts:
                span = seconds + LEAD_MS / 1000
                poster = stack.enter_context(
                    load.start_own(node.port, node.path, connections=64, seconds=span, rate=posts)
                )
            start_ms = workload.now_ms() + LEAD_MS
            due = workload.every(rate, start_ms)
            ours.run(ours.schedule(server, count, due, payload=workload.payload(bench.random())))
            late = [float(value) for value in listener.read()["lateness_ms"]]
            if poster is not None:
                found = load.finish_own(poster)
                note += f"; {found.accepted} POSTs stored meanwhile, p99 {found.p99_ms:.1f} ms"
        if len(late) < count:
            raise RuntimeError(f"only {len(late)} of {count} tasks reached the subscriber")
        return _row(what, OURS, spread(late), note, bounds)

    bench.attempt(what, OURS, UNIT, measure, bounds=bounds)


def _peers(bench: Bench, rates: tuple[int, ...], seconds: int) -> None:
    for rate in rates:
        what, count = _what(rate, 0), rate * seconds

        def zset(what: str = what, count: int = count, rate: int = rate) -> Row:
            rng = bench.random()
            with bench.server() as server:
                start_ms = workload.now_ms() + LEAD_MS
                tasks = workload.items(count, rng, workload.every(rate, start_ms))
                single_zset.SingleZset(server).schedule(tasks, chunk=500)
                until_s = time.time() - start_ms / 1000 + seconds + 20
                late = ours.run(single_zset.lateness(server, count=count, until_s=until_s))
            note = (
                "owner loop: sleep until the head, claim with lease, ack; also the floor of asyncio and one round trip"
            )
            return _row(what, single_zset.NAME, spread(late), note)

        bench.attempt(what, single_zset.NAME, UNIT, zset)

    def peer() -> Row:
        count = 400 * seconds
        with bench.server() as server:
            found = bench.bullmq.measure("lateness", socket=server.unix, n=count, rate=400)
        return _row(_what(400, 0), bullmq.NAME, spread(found["lateness_ms"]), "one worker, concurrency 50")

    bench.attempt(_what(400, 0), bullmq.NAME, UNIT, peer)


SCENARIO = Scenario("lateness", "how late tasks fire", run)
