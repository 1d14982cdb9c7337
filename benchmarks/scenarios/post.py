"""POST one by one: a whole `delaybox serve`, 64 keep-alive connections, each answer after its task is stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from benchmarks import ours, workload
from benchmarks.harness import load
from benchmarks.harness.bench import Bench, Scenario
from benchmarks.harness.cpu import CpuUse, family
from benchmarks.harness.report import OURS, Row, at_least
from benchmarks.peers import bare, bullmq

WHAT = "POST one by one, 64 connections"
UNIT = "requests/s"
CONNECTIONS = 64
TARGET = (at_least(10_000),)
TWO = f"{OURS}, 2 REST processes"
TWO_TARGET = (at_least(1.5, of=OURS), at_least(1.3, of=bullmq.NAME))


def run(bench: Bench) -> None:
    seconds = float(bench.size(8, 3))

    def delaybox(*, own_client: bool, persistent: bool, processes: int = 1) -> Row:
        more = ("--set", f"processes.rest={processes}")
        with bench.server(persistent=persistent) as server, ours.serve(server, *more) as node:
            load.post(node.port, node.path, connections=CONNECTIONS, seconds=1, own_client=own_client)
            before = ours.run(ours.pending(server))
            use = CpuUse(family(node.pid) | {server.process.pid: "server"})
            found = load.post(node.port, node.path, connections=CONNECTIONS, seconds=seconds, own_client=own_client)
            used = use.note(max(1, found.accepted))
            stored = ours.run(ours.pending(server)) - before
        if stored < found.accepted:
            raise RuntimeError(f"{found.accepted} answered but only {stored} stored")
        what = f"{WHAT}, AOF everysec" if persistent else WHAT
        if own_client:
            what += ", own client"
        note = f"{found.client}; {_words(found)}; {stored} stored, {stored / found.seconds:,.0f}/s; {used}"
        if found.cpu_us:
            note += f", client {found.cpu_us:.0f}"
        # The target is for the plain row; the others show what persistence and a dearer client take from it.
        bounds = () if persistent or own_client else TARGET if processes == 1 else TWO_TARGET
        subject = OURS if processes == 1 else TWO
        return Row(what=what, subject=subject, value=found.rate, unit=UNIT, note=note, bounds=bounds)

    def pairs() -> list[Row]:
        """One process and two by turns, each turn on a node of its own; the median of each."""
        taken: list[tuple[Row, Row]] = []
        for _ in range(bench.size(3, 1)):
            one = delaybox(own_client=False, persistent=False)
            taken.append((one, delaybox(own_client=False, persistent=False, processes=2)))
        return [_median([pair[at] for pair in taken]) for at in (0, 1)]

    def floor() -> Row:
        n = bench.size(40_000, 10_000)
        rng = bench.random()
        tasks = workload.items(n, rng, workload.spread_over(rng, workload.DAY_MS))
        with bench.server() as server:
            taken = ours.run(bare.one_by_one(server, tasks, callers=CONNECTIONS))
        note = f"{CONNECTIONS} callers in one Python process, no HTTP, nothing coalesced, n={n}"
        return Row(what=WHAT, subject=bare.NAME, value=n / taken, unit=UNIT, note=note)

    def peer() -> Row:
        with bench.server() as server, bench.bullmq.start("http", socket=server.unix) as node:
            port = int(node.read()["port"])
            load.post(port, "/task", connections=CONNECTIONS, seconds=1)
            found = load.post(port, "/task", connections=CONNECTIONS, seconds=seconds)
        note = f"node's http and queue.add, the same body; {found.client}; {_words(found)}"
        return Row(what=WHAT, subject=bullmq.NAME, value=found.rate, unit=UNIT, note=note)

    bench.attempt(WHAT, OURS, UNIT, pairs, bounds=TARGET)
    bench.attempt(WHAT, bare.NAME, UNIT, floor)
    bench.attempt(WHAT, bullmq.NAME, UNIT, peer)
    bench.attempt(f"{WHAT}, AOF everysec", OURS, UNIT, lambda: delaybox(own_client=False, persistent=True))
    if not bench.quick:
        bench.attempt(f"{WHAT}, own client", OURS, UNIT, lambda: delaybox(own_client=True, persistent=False))


def _median(rows: Sequence[Row]) -> Row:
    """The row in the middle, which names the others' values."""
    ranked = sorted(rows, key=lambda row: row.value or 0.0)
    middle = ranked[len(ranked) // 2]
    if len(ranked) == 1:
        return middle
    each = ", ".join(f"{row.value or 0.0:,.0f}" for row in rows)
    return replace(middle, note=f"{middle.note}; median of {each}, by turns")


def _words(found: load.Load) -> str:
    return f"p50 {found.p50_ms:.1f}, p99 {found.p99_ms:.1f} ms, {found.refused} refused"


SCENARIO = Scenario("post", "POST one by one over REST", run)
