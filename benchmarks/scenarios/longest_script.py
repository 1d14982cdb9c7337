"""The longest script with a million tasks due at one millisecond, and whether all of them drain."""

from __future__ import annotations

import redis

from benchmarks import ours, workload
from benchmarks.harness.bench import Bench, Scenario
from benchmarks.harness.figures import reset_costs, slowest_script
from benchmarks.harness.report import OURS, Row, at_least, at_most
from benchmarks.harness.server import BenchServer
from benchmarks.peers import single_zset

UNIT = "ms"
FROM_US = 500
ORIGINALS_WAY = "single ZSET, all due in one script"


def run(bench: Bench) -> None:
    n = bench.size(1_000_000, 100_000)
    what = f"longest script, {_count(n)} due at one ms"
    for in_place in (False, True):
        title = f"{what}, {'fire in place' if in_place else 'handler with claim and ack'}"

        def measure(title: str = title, in_place: bool = in_place) -> list[Row]:
            with bench.server() as server:
                reset_costs(server, slowlog_from_us=FROM_US)
                found = ours.run(ours.drain_herd(server, n, fire_in_place=in_place, filled=n * 9 // 10))
                slow = slowest_script(server, slowlog_from_us=FROM_US, names=ours.script_names())
                preempted = server.preempted()
                left = ours.run(ours.pending(server))
            note = (
                f"{slow.note(from_us=FROM_US)}; scheduling of a tenth, expansion, claim and ack all counted; "
                f"the kernel took the core from the server {preempted:,} times, which SLOWLOG cannot tell from work"
            )
            drained = f"{found.seconds:.1f} s, {n / found.seconds:,.0f}/s; {left} left; early {found.early}"
            return [
                Row(
                    what=title, subject=OURS, value=slow.longest_us / 1000, unit=UNIT, note=note, bounds=(at_most(10),)
                ),
                Row(
                    what=f"{title}: drained",
                    subject=OURS,
                    value=float(min(found.handled, n - left)),
                    unit="tasks",
                    note=drained,
                    bounds=(at_least(n),),
                ),
            ]

        bench.attempt(title, OURS, UNIT, measure, bounds=(at_most(10),))
    title = f"{what}, handler with claim and ack"
    bench.attempt(title, single_zset.NAME, UNIT, lambda: _bounded(bench, title, n))
    bench.attempt(title, ORIGINALS_WAY, UNIT, lambda: _unbounded(bench, title))


def _bounded(bench: Bench, title: str, n: int) -> Row:
    with bench.server() as server:
        variant = _herd(server, n)
        reset_costs(server, slowlog_from_us=FROM_US)
        taken, seconds = variant.drain(batch=500)
        slow = slowest_script(server, slowlog_from_us=FROM_US, names={})
    note = f"{slow.note(from_us=FROM_US)}; claim and ack by 500 only; {taken:,} drained in {seconds:.1f} s"
    return Row(what=title, subject=single_zset.NAME, value=slow.longest_us / 1000, unit=UNIT, note=note)


def _unbounded(bench: Bench, title: str) -> Row:
    drained, ends_at = 0, None
    for n in (7_999, 8_000):
        with bench.server() as server:
            variant = _herd(server, n)
            try:
                drained = variant.claim_all(now_ms=workload.now_ms() + workload.HOUR_MS)
            except redis.ResponseError:
                ends_at = n
                break
    if ends_at is None:
        return Row(
            what=title, subject=ORIGINALS_WAY, value=None, unit=UNIT, note=f"{drained:,} in one script still work here"
        )
    note = f"Lua's unpack: {drained:,} due work, {ends_at:,} fail for ever, nothing drains"
    return Row(what=title, subject=ORIGINALS_WAY, value=None, unit=UNIT, note=note)


def _herd(server: BenchServer, n: int) -> single_zset.SingleZset:
    variant = single_zset.SingleZset(server)
    variant.fill(n, have=0, first_ms=workload.now_ms() - 1, span_ms=0, payload=b"x" * workload.PAYLOAD_BYTES)
    return variant


def _count(n: int) -> str:
    return f"{n // 1_000_000} M" if n >= 1_000_000 else f"{n:,}"


SCENARIO = Scenario("longest_script", "longest script in a herd of a million", run)
