"""A herd: tasks due at one instant, drained by a handler that does nothing. From the due instant to the last ack."""

from __future__ import annotations

from benchmarks import ours, workload
from benchmarks.harness.bench import Bench, Scenario
from benchmarks.harness.report import OURS, Row, at_least
from benchmarks.peers import bare, bullmq, single_zset

UNIT = "tasks/s"
TARGET = (at_least(80_000), at_least(5, of=bullmq.NAME))
HANDLER = "herd, handler with claim and ack"
IN_PLACE = "herd, fire in place"


def run(bench: Bench) -> None:
    for n in bench.size_list(full=(20_000, 100_000), quick=(20_000,)):
        _one_size(bench, n)


def _one_size(bench: Bench, n: int) -> None:
    what = f"{HANDLER}, {n:,}"
    in_place = f"{IN_PLACE}, {n:,}"

    def delaybox() -> Row:
        with bench.server() as server:
            found = ours.run(ours.drain_herd(server, n))
        note = f"first after {found.first_late_ms:.1f} ms, {found.handled} handled, early {found.early}"
        return Row(
            what=what,
            subject=OURS,
            value=n / found.seconds,
            unit=UNIT,
            note=f"{note}; until all are acked",
            bounds=TARGET,
        )

    def delaybox_in_place() -> Row:
        with bench.server() as server:
            found = ours.run(ours.drain_herd(server, n, fire_in_place=True))
        note = (
            f"PUBLISH by the claim script, a subscriber without buffer limit got {found.handled}, early {found.early}"
        )
        return Row(what=in_place, subject=OURS, value=n / found.seconds, unit=UNIT, note=note)

    def floor() -> Row:
        rng = bench.random()
        due = workload.now_ms()
        tasks = workload.items(n, rng, lambda _: due)
        with bench.server() as server:
            bare.variadic(server, tasks, chunk=workload.CHUNK)
            taken, seconds = bare.drain(server, now_ms=due, chunk=500)
        note = f"ZRANGE, then ZREM+HMGET+HDEL by 500, no lease: a crash loses what it holds; {taken} taken"
        return Row(what=what, subject="bare ZRANGE+HMGET+HDEL", value=taken / seconds, unit=UNIT, note=note)

    def zset() -> Row:
        rng = bench.random()
        due = workload.now_ms()
        with bench.server() as server:
            variant = single_zset.SingleZset(server)
            variant.schedule(workload.items(n, rng, lambda _: due), chunk=500)
            taken, seconds = variant.drain(batch=500)
        note = f"claim with lease and ack by 500, bodies not decoded; {taken} taken"
        return Row(what=what, subject=single_zset.NAME, value=taken / seconds, unit=UNIT, note=note)

    def peer() -> Row:
        with bench.server() as server:
            found = bench.bullmq.measure("herd", socket=server.unix, n=n, concurrency=100)
        note = (
            f"one worker, concurrency 100; counted from its first job ({found['first_late_ms']:.0f} ms late), "
            f"from the due instant {n / found['total_seconds']:,.0f}/s; early {found['early']}"
        )
        return Row(what=what, subject=bullmq.NAME, value=n / found["seconds"], unit=UNIT, note=note)

    bench.attempt(what, OURS, UNIT, delaybox, bounds=TARGET)
    bench.attempt(what, "bare ZRANGE+HMGET+HDEL", UNIT, floor)
    bench.attempt(what, single_zset.NAME, UNIT, zset)
    bench.attempt(what, bullmq.NAME, UNIT, peer)
    bench.attempt(in_place, OURS, UNIT, delaybox_in_place)


SCENARIO = Scenario("herd", "drain tasks due at one instant", run)
