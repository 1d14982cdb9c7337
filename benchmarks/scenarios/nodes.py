"""Many nodes: what members cost the server, and how late tasks are while members come, go, freeze and die.

Members are engines without a front end. Where only the server's work is measured they share a process; where one of
them suffers each has a process of its own.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

from benchmarks import ours, workload
from benchmarks.harness.bench import Bench, Scenario
from benchmarks.harness.figures import SCRIPTS, Spread, reset_costs, spread
from benchmarks.harness.process import Child
from benchmarks.harness.report import OURS, Row, at_most
from benchmarks.harness.server import BenchServer
from benchmarks.scenarios import nodes_simulated, nodes_workers

SHARES = (4, 12)
PARTITIONS = 16
LEAD_MS = 2_500
SETTLE_S = 5.0
"""After this long all know one another, and claims that were set before have been made."""
MORE = (at_most(1.3),)


class Cost(NamedTuple):
    """What the server did in a second."""

    scripts: float
    cpu_ms: float


def run(bench: Bench) -> None:
    for rate in (100, 1_000):
        bench.attempt(f"work of the server at {rate:,}/s", OURS, "×", lambda rate=rate: _busy(bench, rate))
    bench.attempt("idle scripts", OURS, "scripts/s", lambda: _idle(bench))
    bench.attempt("lateness of many", OURS, "×", lambda: _many(bench))
    for name, how in (("SIGKILLed", signal.SIGKILL), ("frozen", signal.SIGSTOP)):
        bench.attempt(f"an owner is {name}", OURS, "ms", lambda name=name, how=how: _harmed(bench, name, how))
    bench.attempt("owner and stand-in die", OURS, "ms", lambda: _both_die(bench))
    bench.attempt("members join and leave", OURS, "ms", lambda: _join_and_leave(bench))
    bench.attempt("a fleet of a thousand", OURS, "×", lambda: nodes_simulated.thousand(bench))
    nodes_workers.run(bench)


def _members(server: BenchServer, name: str, **settings: int) -> Child:
    return ours.members(server, name, **settings)


def _busy(bench: Bench, rate: int) -> list[Row]:
    """At-once tasks in up to 200 calls a second; everything that the server does is counted, beats too."""
    seconds = bench.size(10, 4)
    found = {count: _cost(bench, count, rate, seconds) for count in (1, *SHARES)}
    rows: list[Row] = []
    for count in SHARES:
        for what, one, many in (
            ("scripts", found[1].scripts, found[count].scripts),
            ("server CPU", found[1].cpu_ms, found[count].cpu_ms),
        ):
            rows.append(
                Row(
                    what=f"{what} at {rate:,} at-once tasks/s, {count} members against 1",
                    subject=OURS,
                    value=many / one,
                    unit="×",
                    bounds=MORE,
                    note=f"{one:,.0f} and {many:,.0f} {'scripts/s' if what == 'scripts' else 'ms of CPU a second'}",
                )
            )
    return rows


def _cost(bench: Bench, count: int, rate: int, seconds: int) -> Cost:
    with (
        bench.server() as server,
        _members(server, "m", clocks=count),
        ours.subscriber(server, count=10**9, seconds=SETTLE_S + seconds + 30, each=False) as listener,
    ):
        listener.read()
        time.sleep(SETTLE_S)
        with _counted(server) as cost:
            ours.run(ours.at_once(server, rate=rate, seconds=seconds))
    bench.show(f"{count} members, {rate:,}/s: {cost[0].scripts:,.0f} scripts/s, {cost[0].cpu_ms:.0f} ms CPU/s")
    return cost[0]


@contextmanager
def _counted(server: BenchServer) -> Iterator[list[Cost]]:
    """The cost of what happens in the block, once it is over."""
    found: list[Cost] = []
    reset_costs(server)
    before, began = _cpu_ms(server), time.monotonic()
    yield found
    lasted = time.monotonic() - began
    stats = server.info("commandstats")
    scripts = sum(int(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"]) for name in SCRIPTS)
    found.append(Cost(scripts / lasted, (_cpu_ms(server) - before) / lasted))


def _cpu_ms(server: BenchServer) -> float:
    cpu = server.info("cpu")
    return 1_000 * (float(cpu["used_cpu_user"]) + float(cpu["used_cpu_sys"]))


def _idle(bench: Bench) -> Row:
    clocks, gateways, pools = 8, 4, 5
    members = clocks + gateways
    with bench.server() as server, _members(server, "m", clocks=clocks, gateways=gateways, pools=pools):
        time.sleep(SETTLE_S)
        with _counted(server) as cost:
            time.sleep(bench.size(30, 10))
    return Row(
        what=f"idle scripts of {members} members with {gateways * pools} worker pools",
        subject=OURS,
        value=cost[0].scripts,
        unit="scripts/s",
        bounds=(at_most(2 * members + PARTITIONS + 5),),
        note=f"{cost[0].cpu_ms:.0f} ms of CPU a second",
    )


def _lateness(
    server: BenchServer, members: Sequence[Child], *, rate: int, seconds: int, harm: Callable[[float], None]
) -> Spread:
    """Tasks due evenly, fired in place. ``harm`` is called before the first is due with the seconds that they last."""
    count = rate * seconds
    with ours.subscriber(server, count=count, seconds=LEAD_MS / 1000 + seconds + 10) as listener:
        listener.read()
        start_ms = workload.now_ms() + LEAD_MS + count // 20
        due = workload.every(rate, start_ms)
        # A bulk call goes to one partition: each has tasks of the whole time, so that every partition always has some.
        step = count // workload.CHUNK

        def mixed(i: int) -> int:
            return due(i % workload.CHUNK * step + i // workload.CHUNK)

        ours.run(ours.schedule(server, count, mixed, payload=b"x" * workload.PAYLOAD_BYTES))
        ahead_s = start_ms / 1000 - time.time()
        if ahead_s < 0:
            raise RuntimeError(f"scheduling {count} tasks took until after the first was due")
        time.sleep(ahead_s)
        harm(float(seconds))
        found = listener.read()
    if found["n"] != count:
        raise RuntimeError(f"{found['n']} of {count} arrived")
    return spread(found["lateness_ms"])


def _nothing(_: float) -> None:
    """All live on."""


@contextmanager
def _fleet(bench: Bench, count: int) -> Iterator[tuple[BenchServer, list[Child]]]:
    """Members in processes of their own, which know one another."""
    with bench.server() as server, ExitStack() as stack:
        members = [stack.enter_context(_members(server, f"m{n}", clocks=1)) for n in range(count)]
        time.sleep(SETTLE_S)
        yield server, members


def _many(bench: Bench) -> Row:
    pending, rate, seconds = bench.size(1_000_000, 100_000), 1_000, bench.size(10, 4)
    found: dict[int, Spread] = {}
    for count in (1, 4):
        with _fleet(bench, count) as (server, members):
            due = workload.spread_over(bench.random(), workload.DAY_MS)
            ours.run(ours.schedule(server, pending, due, payload=b"x" * workload.PAYLOAD_BYTES))
            found[count] = _lateness(server, members, rate=rate, seconds=seconds, harm=_nothing)
            bench.show(f"{count} members: {found[count].note()}")
    one, four = found[1], found[4]
    # Percentiles of a busy machine differ by more than a third where they are below a millisecond or two.
    allowed = max(1.3 * one.p99, one.p99 + 1.0)
    return Row(
        what=f"p99 lateness at {rate:,}/s, {pending:,} pending, 4 members",
        subject=OURS,
        value=four.p99,
        unit="ms",
        bounds=(at_most(allowed), at_most(0, part="early")),
        note=f"{four.note()}; one member: {one.note()}",
        extra={"early": float(four.early), "one": one.p99},
    )


def _harmed(bench: Bench, name: str, how: signal.Signals) -> Row:
    with _fleet(bench, 3) as (server, members):

        def harm(lasts_s: float) -> None:
            time.sleep(lasts_s / 3)
            os.kill(members[0].pid, how)
            if how == signal.SIGSTOP:
                time.sleep(lasts_s / 3)
                os.kill(members[0].pid, signal.SIGCONT)

        found = _lateness(server, members, rate=1_000, seconds=bench.size(12, 9), harm=harm)
    return Row(
        what=f"largest lateness at 1,000/s while one owner of three is {name}",
        subject=OURS,
        value=found.max,
        unit="ms",
        bounds=(at_most(300), at_most(0, part="early")),
        note=found.note(),
        extra={"early": float(found.early), "p99": found.p99},
    )


def _both_die(bench: Bench) -> Row:
    """Two of four: of 16 partitions some have one of them as owner and the other as stand-in."""
    with _fleet(bench, 4) as (server, members):

        def harm(lasts_s: float) -> None:
            time.sleep(lasts_s / 3)
            for member in members[:2]:
                os.kill(member.pid, signal.SIGKILL)

        found = _lateness(server, members, rate=1_000, seconds=bench.size(12, 9), harm=harm)
    return Row(
        what="largest lateness at 1,000/s while owner and stand-in are SIGKILLed at once",
        subject=OURS,
        value=found.max,
        unit="ms",
        bounds=(at_most(2_500), at_most(0, part="early")),
        note=found.note(),
        extra={"early": float(found.early), "p99": found.p99},
    )


def _join_and_leave(bench: Bench) -> Row:
    with _fleet(bench, 3) as (server, members), _members(server, "m3", clocks=1, waits=1) as joined:

        def harm(lasts_s: float) -> None:
            time.sleep(lasts_s / 4)
            os.kill(joined.pid, signal.SIGUSR1)
            time.sleep(lasts_s / 4)
            os.kill(joined.pid, signal.SIGTERM)
            os.kill(members[1].pid, signal.SIGTERM)

        calm = _lateness(server, members, rate=5_000, seconds=bench.size(12, 8), harm=_nothing)
        found = _lateness(server, members, rate=5_000, seconds=bench.size(12, 8), harm=harm)
    return Row(
        what="p99 lateness at 5,000/s while one member joins and two leave",
        subject=OURS,
        value=found.p99,
        unit="ms",
        bounds=(at_most(20), at_most(0, part="early")),
        note=f"{found.note()}; the same fleet before, when nobody came or went: {calm.note()}",
        extra={"early": float(found.early), "max": found.max, "calm": calm.p99},
    )


SCENARIO = Scenario("nodes", "many nodes: what they cost the server, and lateness while they come and go", run)
