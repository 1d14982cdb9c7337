"""Scheduling over gRPC into one node from another process: batches of 1,000, a stream of them, one by one.

One by one there are two callers: one that writes frames itself, so that the node is what is measured, and grpc's own in
Python, as most users have it, which shares the node's cores.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import Any

from benchmarks import ours, workload
from benchmarks.harness.bench import Bench, Scenario
from benchmarks.harness.cpu import CpuUse, family
from benchmarks.harness.figures import reset_costs, server_microseconds
from benchmarks.harness.process import Child, python
from benchmarks.harness.report import OURS, Row, at_least
from benchmarks.peers import bullmq

BULK = "schedule in bulk over gRPC, batches of 1,000"
STREAM = "schedule in bulk over gRPC, one stream"
UNARY = "schedule one by one over gRPC, 64 calls under way"
IN_PYTHON = f"{UNARY}, callers in Python"
LONE = "schedule one by one over gRPC, one call at a time"
CONNECTIONS = 16
UNDER_WAY = 64
TWO = f"{OURS}, 2 gRPC processes"
TWO_TARGET = (at_least(1.6, of=OURS),)
CLIENTS = 2
UNIT = "tasks/s"
TARGET = (at_least(80_000), at_least(5, of=bullmq.NAME))


def run(bench: Bench) -> None:
    n = bench.size(300_000, 40_000)
    peer_n = bench.size(50_000, 10_000)

    def delaybox(what: str, how: str, count: int, **options: Any) -> Row:
        with bench.server() as server, ours.serve(server) as node:
            _send(node.grpc, how, count // 10, **options)
            reset_costs(server)
            seconds = _send(node.grpc, how, count, **options)
            cost = server_microseconds(server) / count
            stored = ours.run(ours.pending(server))
        if stored < count + count // 10 // workload.CHUNK * workload.CHUNK and how != "unary":
            raise RuntimeError(f"only {stored} stored")
        bounds = TARGET if how != "unary" else ()
        note = f"n={count}, a whole node; server {cost:.2f} µs a task"
        return Row(what=what, subject=OURS, value=count / seconds, unit=UNIT, note=note, bounds=bounds)

    def peer(what: str) -> Row:
        best = 0.0
        for under_way in (1, workload.UNDER_WAY):
            with bench.server() as server:
                found = bench.bullmq.measure("bulk", socket=server.unix, n=peer_n, under_way=under_way)
                best = max(best, peer_n / found["seconds"])
        note = f"addBulk of {workload.CHUNK}, n={peer_n}, no network, best of 1 and {workload.UNDER_WAY} under way"
        return Row(what=what, subject=bullmq.NAME, value=best, unit=UNIT, note=note)

    bench.attempt(BULK, OURS, UNIT, lambda: delaybox(BULK, "batch", n), bounds=TARGET)
    bench.attempt(BULK, bullmq.NAME, UNIT, lambda: peer(BULK))
    bench.attempt(STREAM, OURS, UNIT, lambda: delaybox(STREAM, "stream", n), bounds=TARGET)
    bench.attempt(STREAM, bullmq.NAME, UNIT, lambda: peer(STREAM))
    calls = bench.size(40_000, 3_000)

    def one_by_one(processes: int) -> Row:
        with bench.server() as server, ours.serve(server, "--set", f"processes.grpc={processes}") as node:
            options = {"address": node.grpc, "seed": 1, "under_way": UNDER_WAY, "connections": CONNECTIONS}
            send_alone(calls // 10, options)
            before = ours.run(ours.pending(server))
            use = CpuUse(family(node.pid) | {server.process.pid: "server"})
            found = send_alone(calls, options)
            note = use.note(calls)
            stored = ours.run(ours.pending(server)) - before
        if found["accepted"] < calls or stored < calls:
            raise RuntimeError(f"{found['accepted']} of {calls} answered and {stored} stored")
        return Row(
            what=UNARY,
            subject=OURS if processes == 1 else TWO,
            value=calls / found["seconds"],
            unit=UNIT,
            note=f"n={calls}, own client, {CONNECTIONS} connections, a whole node; p50 {found['p50_ms']:.1f}, "
            f"p99 {found['p99_ms']:.1f} ms; {note}, caller {found['cpu_s'] / calls * 1e6:.0f}",
            bounds=() if processes == 1 else TWO_TARGET,
        )

    def alone() -> Row:
        count = calls // 4
        with bench.server() as server, ours.serve(server) as node:
            options = {"address": node.grpc, "seed": 1, "under_way": 1, "connections": 1}
            send_alone(calls // 20, options)
            use = CpuUse(family(node.pid) | {server.process.pid: "server"})
            found = send_alone(count, options)
            note = use.note(count)
        if found["accepted"] < count:
            raise RuntimeError(f"{found['accepted']} of {count} answered")
        note = f"p50 of {count}, own client; p99 {found['p99_ms']:.2f} ms; {note}"
        return Row(what=LONE, subject=OURS, value=found["p50_ms"], unit="ms", note=note)

    def in_python(processes: int) -> Row:
        # A connection leads to one process, so there are several clients, of which each has its share of the calls.
        with bench.server() as server, ours.serve(server, "--set", f"processes.grpc={processes}") as node:
            for count in (calls // 20, calls // 2):
                seconds = _send_together(node.grpc, count // CLIENTS, under_way=UNDER_WAY // CLIENTS)
        return Row(
            what=IN_PYTHON,
            subject=OURS if processes == 1 else TWO,
            value=calls // 2 / seconds,
            unit=UNIT,
            note=f"n={calls // 2}, {CLIENTS} client processes in Python on the same cores, a whole node",
        )

    bench.attempt(UNARY, OURS, UNIT, lambda: one_by_one(1))
    bench.attempt(UNARY, TWO, UNIT, lambda: one_by_one(2), bounds=TWO_TARGET)
    bench.attempt(LONE, OURS, "ms", alone)
    bench.attempt(IN_PYTHON, OURS, UNIT, lambda: in_python(1))
    bench.attempt(IN_PYTHON, TWO, UNIT, lambda: in_python(2))


def send_alone(count: int, options: dict[str, Any]) -> dict[str, Any]:
    with Child(python("benchmarks.harness.grpc_load", json.dumps({**options, "n": count}))) as child:
        return child.read()


def _send_together(address: str, n: int, **options: Any) -> float:
    """Until the last of the clients is done; each says how long it took from its first call on."""
    asked = json.dumps({"address": address, "how": "unary", "n": n, "seed": 1, **options})
    with ExitStack() as stack:
        clients = [stack.enter_context(Child(python("benchmarks.ours.grpc_client", asked))) for _ in range(CLIENTS)]
        return max(float(client.read()["seconds"]) for client in clients)


def _send(address: str, how: str, n: int, **options: Any) -> float:
    asked = {"address": address, "how": how, "n": max(n, workload.CHUNK), "seed": 1, **options}
    with Child(python("benchmarks.ours.grpc_client", json.dumps(asked))) as client:
        return float(client.read()["seconds"])


SCENARIO = Scenario("grpc", "bulk and single scheduling over gRPC", run)
