"""Workers: no-op tasks a second, how late they are in the function, and what a second process adds to computing."""

from __future__ import annotations

import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from statistics import median

from benchmarks import ours
from benchmarks.harness.bench import Bench, Scenario
from benchmarks.harness.figures import Spread, spread
from benchmarks.harness.report import OURS, Bound, Row, at_least, at_most
from benchmarks.peers import asynq, bullmq
from benchmarks.peers import python as others
from benchmarks.workload import burn

UNIT = "tasks/s"
NOOP = "no-op tasks to workers"
# Celery, Dramatiq and taskiq are what most users come from; the rest were added with the workers straight on Redis.
NOOP_TARGET = (
    at_least(50_000),
    at_least(3, of=bullmq.NAME),
    *(at_least(10, of=peer.name) for peer in (others.CELERY, others.DRAMATIQ, others.TASKIQ)),
)
STRAIGHT_TARGET = (
    at_least(10, of=bullmq.NAME),
    at_least(14, of=others.DRAMATIQ.name),
    at_least(22, of=others.TASKIQ.name),
    at_least(100, of=others.CELERY.name),
    *(at_least(10, of=peer.name) for peer in (others.RQ, others.ARQ, others.SAQ, others.STREAQ)),
    at_least(10, of=asynq.NAME),
)
RATE = 1_000
LATE = f"p99 lateness in the worker's function at {RATE:,}/s"
BARE = "bare stream worker"
LATE_TARGET = (at_most(5.0), Bound(limit=1.5, at_least=False, of=BARE), at_most(0, part="early"))
MAP = "map over 2 processes against one, a function that computes"
POOL = "bare process pool"
MAP_TARGET = (at_least(1.8), at_least(0.95, of=POOL))
STRAIGHT = f"{OURS}, straight on Redis"
BY_TURNS = "no-op tasks to workers, a herd of 100,000, by turns"
BY_TURNS_TARGET = (at_least(1.3, of=OURS),)
LATE_STRAIGHT_TARGET = (Bound(limit=1.2, at_least=False, of=BARE), at_most(0, part="early"))
CALL = "one call to its result in the caller's hands, one by one"
CALL_TARGET = (at_most(2.0),)


def run(bench: Bench) -> None:
    _noop(bench)
    _by_turns(bench)
    _late(bench)
    _call(bench)
    _map(bench)


def _noop(bench: Bench) -> None:
    n = 20_000
    rounds = bench.size(7, 3)  # as many as 0.1.0 takes the median of, for `benchmarks.compare`
    # A rate does not hang on how many there are, and the slowest of them would take a minute for all.
    few = bench.size(8_000, 2_000)
    some = bench.size(n, 5_000)

    def delaybox(subject: str, kind: ours.Kind, bounds: tuple[Bound, ...] = (), *, processes: int = 1) -> None:
        def measure() -> Row:
            with bench.server() as server, ours.crew(server, kind, processes=processes) as crew:
                found = [ours.run(ours.worker_herd(crew, n)) for _ in range(rounds)]
            rates = [n / one.seconds for one in found]
            note = (
                f"{kind.name}, {processes} process{'es' * (processes > 1)}; median of {rounds} herds of {n:,} due at "
                f"one instant, until all are acked ({min(rates):,.0f} to {max(rates):,.0f}); "
                f"until all had run {median(n / one.ran_s for one in found):,.0f}/s"
            )
            return Row(what=NOOP, subject=subject, value=median(rates), unit=UNIT, note=note, bounds=bounds)

        bench.attempt(NOOP, subject, UNIT, measure, bounds=bounds)

    def python_peer(peer: others.Peer) -> Row:
        with bench.server() as server:
            found = others.drain(peer, server, few)
        note = (
            f"{peer.how}; n={few:,}, already due, workers up, warm and idle before; first after {found.first_s:.2f} s"
        )
        return Row(what=NOOP, subject=peer.name, value=few / found.seconds, unit=UNIT, note=note)

    def bull() -> Row:
        rates: dict[int, float] = {}
        for processes in (1, 2):
            with bench.server() as server:
                found = bench.bullmq.measure("drain", socket=server.unix, n=some, concurrency=100, processes=processes)
            rates[processes] = some / found["seconds"]
        best = max(rates, key=lambda processes: rates[processes])
        note = (
            f"the better of 1 and 2 processes ({rates[1]:,.0f} and {rates[2]:,.0f}), concurrency 100 each; "
            f"n={some:,}, already due, workers up, warm and idle before"
        )
        return Row(what=NOOP, subject=bullmq.NAME, value=rates[best], unit=UNIT, note=note)

    def go() -> Row:
        rates: dict[int, float] = {}
        for places in (100, 1_000):
            with bench.server() as server:
                rates[places] = some / asynq.measure("drain", socket=server.unix, n=some, concurrency=places)["seconds"]
        best = max(rates, key=lambda places: rates[places])
        note = (
            f"1 process, the better of 100 and 1,000 goroutines ({rates[100]:,.0f} and {rates[1_000]:,.0f}), looks "
            f"every 10 ms; n={some:,}, already due, up, warm and idle before"
        )
        return Row(what=NOOP, subject=asynq.NAME, value=rates[best], unit=UNIT, note=note)

    delaybox(OURS, ours.SDK, NOOP_TARGET)
    delaybox(STRAIGHT, ours.DIRECT, STRAIGHT_TARGET)
    if not bench.quick:
        delaybox(f"{OURS}, 2 worker processes", ours.SDK, processes=2)
    delaybox(BARE, ours.BARE)
    bench.attempt(NOOP, bullmq.NAME, UNIT, bull)
    bench.attempt(NOOP, asynq.NAME, UNIT, go)
    for peer in others.ALL:
        bench.attempt(NOOP, peer.name, UNIT, lambda peer=peer: python_peer(peer))


def _by_turns(bench: Bench) -> None:
    """Workers straight on Redis and those of a node in alternation, each pair with servers of its own."""
    n, pairs = bench.size(100_000, 10_000), bench.size(3, 1)

    def measure() -> list[Row]:
        rates: dict[str, list[float]] = {OURS: [], STRAIGHT: []}
        for _ in range(pairs):
            for subject, kind in ((OURS, ours.SDK), (STRAIGHT, ours.DIRECT)):
                with bench.server() as server, ours.crew(server, kind) as crew:
                    ours.run(ours.worker_herd(crew, 2_000))
                    rates[subject].append(n / ours.run(ours.worker_herd(crew, n)).seconds)
        return [
            Row(
                what=BY_TURNS,
                subject=subject,
                value=median(found),
                unit=UNIT,
                note=f"1 process; median of {pairs} in alternation, warm, until all are acked "
                f"({min(found):,.0f} to {max(found):,.0f})",
                bounds=BY_TURNS_TARGET if subject == STRAIGHT else (),
            )
            for subject, found in rates.items()
        ]

    bench.attempt(BY_TURNS, STRAIGHT, UNIT, measure, bounds=BY_TURNS_TARGET)


def _call(bench: Bench) -> None:
    count = bench.size(500, 100)

    def measure(subject: str, kind: ours.Kind, bounds: tuple[Bound, ...] = ()) -> Row:
        with bench.server() as server, ours.crew(server, kind) as crew:
            found = sorted(ours.worker_calls(crew, count))
        p99 = found[int(len(found) * 0.99)]
        note = f"n={count}, p99 {p99:.1f} ms; {kind.name}, client and worker on one host, results kept"
        return Row(what=CALL, subject=subject, value=median(found), unit="ms", note=note, bounds=bounds)

    def row(subject: str, found: list[float], how: str) -> Row:
        ranked = sorted(found)
        note = f"n={len(found)}, p99 {ranked[int(len(ranked) * 0.99)]:.1f} ms; {how}"
        return Row(what=CALL, subject=subject, value=median(found), unit="ms", note=note)

    def bull() -> Row:
        with bench.server() as server:
            found = bench.bullmq.measure("call", socket=server.unix, n=count)["ms"]
        return row(bullmq.NAME, found, "job.waitUntilFinished, a worker process of its own")

    def python_peer(peer: others.Peer) -> Row:
        with bench.server() as server:
            return row(
                peer.name, others.call(peer, server, count), f"{others.PROCESSES} worker processes, results kept"
            )

    bench.attempt(CALL, OURS, "ms", lambda: measure(OURS, ours.SDK))
    bench.attempt(CALL, STRAIGHT, "ms", lambda: measure(STRAIGHT, ours.DIRECT, CALL_TARGET), bounds=CALL_TARGET)
    bench.attempt(CALL, bullmq.NAME, "ms", bull)
    for peer in (others.CELERY, others.DRAMATIQ, others.TASKIQ):
        bench.attempt(CALL, peer.name, "ms", lambda peer=peer: python_peer(peer))


def _late(bench: Bench) -> None:
    """By turns, because the machine changes by the minute: of each subject the run in the middle counts."""
    count, turns = RATE * bench.size(6, 3), bench.size(3, 1)
    bounds = {OURS: LATE_TARGET, STRAIGHT: LATE_STRAIGHT_TARGET, BARE: ()}
    kinds = {OURS: ours.SDK, STRAIGHT: ours.DIRECT, BARE: ours.BARE}

    def once(kind: ours.Kind) -> Spread:
        with bench.server() as server, ours.crew(server, kind, each=True) as crew:
            return spread(ours.run(ours.worker_lateness(crew, count=count, rate=RATE, lead_ms=2_500)))

    def measure() -> list[Row]:
        taken: dict[str, list[Spread]] = {subject: [] for subject in kinds}
        for _ in range(turns):
            for subject, kind in kinds.items():
                taken[subject].append(once(kind))
        return [row(subject, sorted(found, key=lambda one: one.p99)) for subject, found in taken.items()]

    def row(subject: str, ranked: list[Spread]) -> Row:
        found = ranked[len(ranked) // 2]
        early = float(sum(one.early for one in ranked))
        extra = {"p50": found.p50, "p99": found.p99, "max": found.max, "early": early}
        each = ", ".join(f"{one.p99:.1f}" for one in ranked)
        note = f"{found.note()}; {kinds[subject].name}, all on one host; p99 of each turn {each}"
        return Row(
            what=LATE, subject=subject, value=found.p99, unit="ms", note=note, bounds=bounds[subject], extra=extra
        )

    bench.attempt(LATE, OURS, "ms", measure, bounds=LATE_TARGET)


def _map(bench: Bench) -> None:
    count = bench.size(400, 100)

    def measure() -> Row:
        seconds: dict[int, float] = {}
        for processes in (1, 2):
            with bench.server() as server, ours.crew(server, ours.SDK, cpu_processes=processes) as crew:
                seconds[processes] = ours.worker_map(crew, count, processes=processes)
        each_ms = seconds[1] / count * 1000
        note = (
            f"client.map over {count} calls of {each_ms:.0f} ms, cpu=True: {seconds[1]:.2f} s with --cpu-processes 1, "
            f"{seconds[2]:.2f} s with 2"
        )
        return Row(what=MAP, subject=OURS, value=seconds[1] / seconds[2], unit="×", note=note, bounds=MAP_TARGET)

    def bare() -> Row:
        seconds: dict[int, float] = {}
        for processes in (1, 2):
            with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
                list(pool.map(burn, range(4 * processes)))
                started = time.monotonic()
                list(pool.map(burn, range(count)))
                seconds[processes] = time.monotonic() - started
        note = f"what these cores allow: {seconds[1]:.2f} s in one process, {seconds[2]:.2f} s in two"
        return Row(what=MAP, subject=POOL, value=seconds[1] / seconds[2], unit="×", note=note)

    bench.attempt(MAP, OURS, "×", measure, bounds=MAP_TARGET)
    bench.attempt(MAP, POOL, "×", bare)


SCENARIO = Scenario("workers", "tasks to worker processes, beside other task queues' workers", run)
