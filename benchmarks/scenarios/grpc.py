"""Scheduling over gRPC into one node from another process: batches of 1,000, a stream of them, one by one."""

from __future__ import annotations

import json
from typing import Any

from benchmarks import ours, workload
from benchmarks.harness.bench import Bench, Scenario
from benchmarks.harness.figures import reset_costs, server_microseconds
from benchmarks.harness.process import Child, python
from benchmarks.harness.report import OURS, Row, at_least
from benchmarks.peers import bullmq

BULK = "schedule in bulk over gRPC, batches of 1,000"
STREAM = "schedule in bulk over gRPC, one stream"
UNARY = "schedule one by one over gRPC, 64 calls under way"
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
    calls = bench.size(20_000, 3_000)
    bench.attempt(UNARY, OURS, UNIT, lambda: delaybox(UNARY, "unary", calls, under_way=64))


def _send(address: str, how: str, n: int, **options: Any) -> float:
    asked = {"address": address, "how": how, "n": max(n, workload.CHUNK), "seed": 1, **options}
    with Child(python("benchmarks.ours.grpc_client", json.dumps(asked))) as client:
        return float(client.read()["seconds"])


SCENARIO = Scenario("grpc", "bulk and single scheduling over gRPC", run)
