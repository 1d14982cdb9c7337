"""Bulk scheduling: random delays of 1 to 25 hours, calls of 1,000, one client process."""

from __future__ import annotations

import time
from statistics import median

from benchmarks import ours, workload
from benchmarks.harness.bench import Bench, Scenario
from benchmarks.harness.figures import reset_costs, server_microseconds
from benchmarks.harness.report import OURS, Row, at_least
from benchmarks.peers import asynq, bare, bullmq, single_zset
from delaybox import Client, NewTask

WHAT = "schedule in bulk"
UNIT = "tasks/s"
TARGET = (at_least(80_000), at_least(5, of=bullmq.NAME), at_least(3, of=asynq.NAME))
OVER_GRPC = f"{OURS}, Python client over gRPC"
STRAIGHT = f"{OURS}, Python client straight on Redis"
STRAIGHT_TARGET = (at_least(1.2, of=OVER_GRPC), at_least(10, of=bullmq.NAME), at_least(3, of=asynq.NAME))


def run(bench: Bench) -> None:
    n = bench.size(200_000, 40_000)
    peer_n = bench.size(50_000, 10_000)

    def delaybox() -> Row:
        with bench.server() as server:
            reset_costs(server)
            due = workload.spread_over(bench.random(), workload.DAY_MS)
            seconds = ours.run(ours.schedule(server, n, due, payload=workload.payload(bench.random())))
            cost = server_microseconds(server) / n
        note = f"n={n}, {workload.UNDER_WAY} calls under way, NewTask made within; server {cost:.2f} µs a task"
        return Row(
            what=WHAT,
            subject=OURS,
            value=n / seconds,
            unit=UNIT,
            note=note,
            bounds=TARGET,
            extra={"server_us": cost},
        )

    def floor(*, variadic: bool) -> Row:
        rng = bench.random()
        tasks = workload.items(n, rng, workload.spread_over(rng, workload.DAY_MS))
        with bench.server() as server:
            reset_costs(server)
            send = bare.variadic if variadic else bare.pipelined
            seconds = send(server, tasks, chunk=workload.CHUNK)
            cost = server_microseconds(server, ("hset", "zadd")) / n
        name = "bare, one HSET+ZADD a chunk" if variadic else bare.NAME
        note = f"n={n}, ids ready-made, nothing encoded; server {cost:.2f} µs a task"
        return Row(what=WHAT, subject=name, value=n / seconds, unit=UNIT, note=note, extra={"server_us": cost})

    def zset() -> Row:
        rng = bench.random()
        tasks = workload.items(n, rng, workload.spread_over(rng, workload.DAY_MS))
        with bench.server() as server:
            reset_costs(server)
            seconds = single_zset.SingleZset(server).schedule(tasks, chunk=500)
            cost = server_microseconds(server) / n
        note = f"n={n}, ids ready-made, nothing encoded; server {cost:.2f} µs a task"
        return Row(
            what=WHAT, subject=single_zset.NAME, value=n / seconds, unit=UNIT, note=note, extra={"server_us": cost}
        )

    def peer() -> Row:
        best, cost, calls = 0.0, 0.0, 1
        for under_way in (1, workload.UNDER_WAY):
            with bench.server() as server:
                reset_costs(server)
                found = bench.bullmq.measure("bulk", socket=server.unix, n=peer_n, under_way=under_way)
                if peer_n / found["seconds"] > best:
                    best, calls = peer_n / found["seconds"], under_way
                    cost = server_microseconds(server) / peer_n
        note = f"addBulk of {workload.CHUNK}, n={peer_n}, best of 1 and {workload.UNDER_WAY} calls under way ({calls})"
        return Row(
            what=WHAT,
            subject=bullmq.NAME,
            value=best,
            unit=UNIT,
            note=f"{note}; server {cost:.2f} µs a task",
            extra={"server_us": cost},
        )

    def go() -> Row:
        with bench.server() as server:
            reset_costs(server)
            seconds = asynq.measure("bulk", socket=server.unix, n=peer_n, callers=64)["seconds"]
            cost = server_microseconds(server) / peer_n
        note = f"n={peer_n}, 64 callers, one task a call (it has no bulk call); server {cost:.2f} µs a task"
        return Row(
            what=WHAT, subject=asynq.NAME, value=peer_n / seconds, unit=UNIT, note=note, extra={"server_us": cost}
        )

    def clients() -> list[Row]:
        """The Python client both ways by turns, each turn on a server of its own; the median of each."""
        start = workload.now_ms() + workload.HOUR_MS
        # Made beforehand: what is measured is sending and storing.
        tasks = [
            NewTask.publish(b"x" * workload.PAYLOAD_BYTES, at_ms=start + i * workload.DAY_MS // n) for i in range(n)
        ]
        rates: dict[str, list[float]] = {OVER_GRPC: [], STRAIGHT: []}
        for _ in range(bench.size(3, 1)):
            with bench.server() as server, ours.serve(server) as node, Client(node.grpc) as client:
                rates[OVER_GRPC].append(_rate(client, tasks))
            with bench.server() as server, Client(f"unix://{server.unix}") as client:
                rates[STRAIGHT].append(_rate(client, tasks))
        return [
            Row(
                what=WHAT,
                subject=subject,
                value=median(found),
                unit=UNIT,
                note=f"schedule_many, n={n}, tasks made before; median of {', '.join(f'{one:,.0f}' for one in found)}",
                bounds=STRAIGHT_TARGET if subject == STRAIGHT else (),
            )
            for subject, found in rates.items()
        ]

    bench.attempt(WHAT, OURS, UNIT, delaybox, bounds=TARGET)
    bench.attempt(WHAT, STRAIGHT, UNIT, clients, bounds=STRAIGHT_TARGET)
    bench.attempt(WHAT, bare.NAME, UNIT, lambda: floor(variadic=False))
    bench.attempt(WHAT, "bare, one HSET+ZADD a chunk", UNIT, lambda: floor(variadic=True))
    bench.attempt(WHAT, single_zset.NAME, UNIT, zset)
    bench.attempt(WHAT, bullmq.NAME, UNIT, peer)
    bench.attempt(WHAT, asynq.NAME, UNIT, go)


def _rate(client: Client, tasks: list[NewTask]) -> float:
    client.schedule_many(tasks[:1_000])
    began = time.perf_counter()
    done = client.schedule_many(tasks)
    took = time.perf_counter() - began
    if done.created != len(tasks):
        raise RuntimeError(f"{len(tasks)} sent, {done.created} answered as created")
    return len(tasks) / took


SCENARIO = Scenario("bulk", "bulk scheduling, one client process", run)
