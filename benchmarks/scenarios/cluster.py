"""One gateway, REST and an engine on a cluster of three, against one server: what the cluster itself costs.

Both have the same two cores and are reached over TCP, so with three servers there is no more processor time to win.
Rounds alternate, and their medians are compared: a machine that others use changes by the minute.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import NamedTuple

from benchmarks import ours, workload
from benchmarks.harness import load
from benchmarks.harness.bench import Bench, Scenario
from benchmarks.harness.cpu import family, seconds_of
from benchmarks.harness.report import Row, at_least
from benchmarks.harness.server import BenchServer, cluster
from benchmarks.scenarios.grpc import CONNECTIONS, UNDER_WAY, send_alone

ONE, THREE = "one server", "a cluster of three"
LEAST = 0.85


class Round(NamedTuple):
    """``cpu_us``: for each task, of the servers and of what uses them: a node, or this process."""

    rate: float
    cpu_us: tuple[float, float]


def run(bench: Bench) -> None:
    rounds = bench.size(5, 3)
    seconds = float(bench.size(6, 2))
    calls, herd, bulk = bench.size(20_000, 3_000), bench.size(20_000, 10_000), bench.size(200_000, 40_000)

    def post(servers: list[BenchServer]) -> Round:
        with ours.serve(servers[0]) as node:
            load.post(node.port, node.path, connections=CONNECTIONS, seconds=1)
            used = _Used(servers, *family(node.pid))
            found = load.post(node.port, node.path, connections=CONNECTIONS, seconds=seconds)
            return Round(found.rate, used.each(found.accepted))

    def gateway(servers: list[BenchServer]) -> Round:
        with ours.serve(servers[0]) as node:
            options = {"address": node.grpc, "seed": 1, "under_way": UNDER_WAY, "connections": CONNECTIONS}
            send_alone(calls // 10, options)
            used = _Used(servers, *family(node.pid))
            found = send_alone(calls, options)
            return Round(calls / found["seconds"], used.each(calls))

    def in_bulk(servers: list[BenchServer]) -> Round:
        due = workload.spread_over(bench.random(), workload.DAY_MS)
        ours.run(ours.schedule(servers[0], bulk // 10, due, payload=b"x" * workload.PAYLOAD_BYTES))
        used = _Used(servers, os.getpid())
        took = ours.run(ours.schedule(servers[0], bulk, due, payload=b"x" * workload.PAYLOAD_BYTES))
        return Round(bulk / took, used.each(bulk))

    def engine(servers: list[BenchServer]) -> Round:
        used = _Used(servers, os.getpid())
        found = ours.run(ours.drain_herd(servers[0], herd))
        return Round(herd / found.seconds, used.each(herd))

    for what, unit, measured in (
        ("POST one by one, 64 connections, over TCP", "requests/s", post),
        ("gRPC one call a task, 64 under way, over TCP", "tasks/s", gateway),
        ("schedule in bulk, over TCP", "tasks/s", in_bulk),
        (f"herd of {herd:,}, claim and ack, over TCP", "tasks/s", engine),
    ):
        _compared(bench, what, unit, rounds, measured)


class _Used:
    """Processor time of servers and of other processes since it was made."""

    def __init__(self, servers: list[BenchServer], *pids: int) -> None:
        self._groups = [server.process.pid for server in servers], pids
        self._before = self._now()

    def _now(self) -> list[float]:
        return [sum(map(seconds_of, pids)) for pids in self._groups]

    def each(self, count: int) -> tuple[float, float]:
        """µs for each of ``count`` tasks."""
        servers, others = [(now - before) / count * 1e6 for now, before in zip(self._now(), self._before, strict=True)]
        return servers, others


def _compared(bench: Bench, what: str, unit: str, rounds: int, measured: Callable[[list[BenchServer]], Round]) -> None:
    @contextmanager
    def one() -> Iterator[list[BenchServer]]:
        with bench.server(by_tcp=True) as server:
            yield [server]

    def both() -> list[Row]:
        found: dict[str, list[Round]] = {ONE: [], THREE: []}
        for n in range(rounds):
            for name in (ONE, THREE) if n % 2 else (THREE, ONE):
                with one() if name == ONE else cluster(bench.binary) as servers:
                    # As many as are advised for a cluster, on both: each partition is claimed from by itself.
                    ours.run(ours.make(servers[0]))
                    found[name].append(measured(servers))
                bench.show(f"{what} · {name}: {found[name][-1].rate:,.0f}")
        return [_row(what, unit, name, some) for name, some in found.items()]

    bench.attempt(what, THREE, unit, both, bounds=(at_least(LEAST, of=ONE),))


def _row(what: str, unit: str, name: str, rounds: list[Round]) -> Row:
    servers, others = (median(r.cpu_us[i] for r in rounds) for i in (0, 1))
    note = f"median of {len(rounds)} rounds in turns; CPU µs each: servers {servers:.1f}, who uses them {others:.1f}"
    bounds = (at_least(LEAST, of=ONE),) if name == THREE else ()
    return Row(what=what, subject=name, value=median(r.rate for r in rounds), unit=unit, note=note, bounds=bounds)


SCENARIO = Scenario("cluster", "one gateway, REST and engine on a cluster of three against one server", run)
