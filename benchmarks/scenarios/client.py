"""The Python client over gRPC: tasks in chunks, with and without keys; a function mapped over items, end to end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from benchmarks import ours, workload
from benchmarks.harness.bench import Bench, Scenario
from benchmarks.harness.report import OURS, Row, at_least
from delaybox import Client, NewTask

CHUNKS = "schedule_many in chunks of 1,000, one client"
KEYED = "the same, safe=True (a key for each)"
ORDERED, AS_DONE = "map of a no-op, in order, one worker process", "map of a no-op, as they end, one worker process"
CHUNKS_TARGET = (at_least(80_000),)
MAP_TARGET = (at_least(10_000),)


def run(bench: Bench) -> None:
    count = bench.size(500_000, 20_000)
    items = bench.size(200_000, 5_000)

    def chunks() -> list[Row]:
        with bench.server() as server, ours.serve(server) as node, Client(node.grpc) as client:
            start = workload.now_ms() + workload.HOUR_MS
            payload = b"x" * workload.PAYLOAD_BYTES
            # Made beforehand: what is measured is sending and storing.
            tasks = [NewTask.publish(payload, at_ms=start + i * workload.DAY_MS // count) for i in range(count)]
            rows = []
            for what, safe, bounds in ((CHUNKS, False, CHUNKS_TARGET), (KEYED, True, ())):
                client.schedule_many(tasks[:1000])
                before = ours.run(ours.pending(server))
                began = time.perf_counter()
                done = client.schedule_many(tasks, safe=safe)
                took = time.perf_counter() - began
                stored = ours.run(ours.pending(server)) - before
                if stored != count or done.created != count:
                    raise RuntimeError(f"{count} sent, {done.created} answered as created, {stored} stored")
                rows.append(
                    Row(
                        what=what,
                        subject=OURS,
                        value=count / took,
                        unit="tasks/s",
                        note=f"{count} tasks",
                        bounds=bounds,
                    )
                )
        return rows

    def mapped() -> list[Row]:
        rows = []
        with (
            bench.server() as server,
            ours.serve(server) as node,
            ours.work(node),
            Client(node.grpc) as client,
        ):
            _all(client.map("noop", range(1000)), 1000, sorted_as=list)
            for what, ordered in ((ORDERED, True), (AS_DONE, False)):
                began = time.perf_counter()
                _all(client.map("noop", range(items), ordered=ordered), items, sorted_as=list if ordered else sorted)
                took = time.perf_counter() - began
                note = f"{items} items, results kept and fetched"
                rows.append(
                    Row(what=what, subject=OURS, value=items / took, unit="items/s", note=note, bounds=MAP_TARGET)
                )
        return rows

    bench.attempt(CHUNKS, OURS, "tasks/s", chunks, bounds=CHUNKS_TARGET)
    bench.attempt(ORDERED, OURS, "items/s", mapped, bounds=MAP_TARGET)


def _all(results: Iterable[int], count: int, *, sorted_as: Callable[[Iterable[int]], list[int]]) -> None:
    if sorted_as(results) != list(range(count)):
        raise RuntimeError("the results are not those of the items")


SCENARIO = Scenario("client", "the Python client over gRPC: tasks in chunks, map", run)
