"""What /metrics shows arrives at a collector by OTLP, and a collector that is away holds nothing up. Over HTTP so do
metrics, spans and logs alike.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.collector import Collector, collector
from tests.engines import until
from tests.nodes import node
from tests.servers import RealServer
from tests.waiting import PATIENCE_S
from tests.yard import Yard, both_ways, worker, yard

__all__ = ["yard"]  # the fixture

PROGRAM = """
import os, sys
from opentelemetry import metrics
from prometheus_client import CollectorRegistry, Counter, generate_latest
from delaybox import Worker

before = dict(os.environ)
own = CollectorRegistry()
orders = Counter("orders", "Of the program itself.", registry=own)
worker = Worker("inside", servers=sys.argv[1], clock=False)

@worker.task
async def quick():
    orders.inc()

code = worker.run()
shown = generate_latest(own).decode()
assert "orders_total 6.0" in shown and "orders_created" in shown, shown
assert type(metrics.get_meter_provider()).__name__ == "_ProxyMeterProvider", "nobody has set one"
assert dict(os.environ) == before
sys.exit(code)
"""
ANSWERED = "delaybox_http_requests_total"
TOOK = "delaybox_http_request_seconds"


def test_a_collector_gets_what_is_shown(server: RealServer, tmp_path: Path) -> None:
    with collector() as seen:
        flags = ("--redis", server.url, "--set", f"storage.prefix=otlp-{os.getpid()}", "--http-port", "0")
        more = ("--set", f"otel.endpoint={seen.url}", "--set", "otel.metrics=true", "--set", "processes.rest=2")
        environ = {"OTEL_METRIC_EXPORT_INTERVAL": "100", "OTEL_EXPORTER_OTLP_TIMEOUT": "1"}
        with node(*flags, *more, folder=tmp_path, environ=environ) as on:
            for _ in range(7):
                assert on.call("POST", "/v1/tasks", {"delay": "1h"})[0] == 201
            pushed = seen.metrics

            def sent() -> list[Any]:
                return [p for p in pushed.points(ANSWERED, route="/v1/tasks") if p.as_double == 7]

            (counted,) = on.until(sent)
            total = pushed.latest[ANSWERED].sum
            assert total.is_monotonic and total.aggregation_temporality == 2, "a cumulative sum"
            assert 0 < counted.start_time_unix_nano < counted.time_unix_nano

            (took,) = on.until(
                lambda: [p for p in pushed.points(TOOK, route="/v1/tasks", method="POST") if p.count == 7]
            )
            assert sum(took.bucket_counts) == 7 and took.sum > 0 and not took.HasField("min")
            assert len(took.bucket_counts) == len(took.explicit_bounds) + 1, "the last one has no bound"
            shown = on.call("GET", "/metrics")[2].decode()
            lines = re.findall(rf'{TOOK}_bucket{{(?=[^}}]*method="POST")(?=[^}}]*"/v1/tasks")[^}}]*}} (\S+)', shown)
            so_far = [sum(took.bucket_counts[: n + 1]) for n in range(len(took.bucket_counts))]
            assert so_far == [int(float(n)) for n in lines], "the same buckets as /metrics"

            on.until(lambda: [p for p in pushed.points("delaybox_pending_tasks") if p.as_double == 7])
            assert pushed.latest["delaybox_pending_tasks"].WhichOneof("data") == "gauge"
            assert on.call("POST", "/v1/tasks", {"type": "worker", "name": "nobody"})[0] == 201
            on.until(lambda: [p for p in pushed.points("delaybox_unserved_kinds") if p.as_double == 1])
            (healthy,) = pushed.points("delaybox_store_file_ok")
            assert healthy.as_double == 1
            # One machine, one clock; what stands still between two looks at it adds that to one push.
            on.until(lambda: [p for p in pushed.points("delaybox_clock_offset_seconds") if abs(p.as_double) < 0.5])
            names = set(re.findall(r"^# TYPE (\S+)", shown, re.MULTILINE))
            assert pushed.latest.keys() <= names, "no other names than those of /metrics"
            assert pushed.resource["service.name"] == "delaybox"
            assert pushed.resource["service.instance.id"].endswith("/1"), "the first process alone sends"

            seen.stop()
            dropped = rb'otel_dropped_items_total{signal="metrics"} ([0-9.]+)'
            lost = on.until(lambda: re.search(dropped, on.call("GET", "/metrics")[2]))
            assert float(lost[1]) > 0 and on.call("POST", "/v1/tasks", {"delay": "1h"})[0] == 201


def test_a_node_sends_everything_over_http(server: RealServer, tmp_path: Path) -> None:
    with collector() as seen:
        flags = ("--redis", server.url, "--set", f"storage.prefix=http-{os.getpid()}", "--http-port", "0")
        sent = ("--set", f"otel.endpoint={seen.http_url}/otlp/", "--set", "otel.protocol=http/protobuf")
        more = ("--set", "otel.metrics=true", "--set", "otel.logs=true")
        environ = {"OTEL_METRIC_EXPORT_INTERVAL": "100", "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip"}
        with node(*flags, *sent, *more, folder=tmp_path, environ=environ) as on:
            assert on.call("POST", "/v1/tasks", {"delay": "1h"})[0] == 201
            on.until(lambda: seen.metrics.points(ANSWERED, route="/v1/tasks"))
            assert seen.one(lambda span: span.name == "schedule default").service == "delaybox"
            assert seen.logs.wait(lambda r: r.process == "rest").service == "delaybox"
        assert "stopped" in [r.body for r in seen.logs.records if r.process == "node"], "to the end"
        assert seen.paths == {"/otlp/v1/traces", "/otlp/v1/metrics", "/otlp/v1/logs"}


@both_ways
async def test_a_workers_metrics_arrive_for_all_its_processes_and_to_the_end(yard: Yard, tmp_path: Path) -> None:
    """Of a node's worker over gRPC, of one straight on Redis over HTTP."""
    with collector() as seen, pytest.MonkeyPatch.context() as environ:
        many = {"quick": 6, "sleeps": 3, "computes": 2, "rejects": 1}
        for name, value in {**asked(yard, seen), "OTEL_SERVICE_NAME": "kitchen"}.items():
            environ.setenv(name, value)
        async with worker(yard, tmp_path, "--processes", "2", "--cpu-processes", "1", sessions=6) as process:
            for name, count in many.items():
                arguments = {"sleeps": (0.01,), "computes": (100,)}.get(name, ())
                await yard.call(name, *arguments, count=count)

            await until(lambda: ended(seen) == many)
            (processes,) = seen.metrics.points("delaybox_worker_processes")
            assert processes.as_double == 2

            def all_took() -> bool:
                """A push may read a process's figures after the one is added and before the other is."""
                (took,) = seen.metrics.points("delaybox_worker_attempt_seconds", function="sleeps")
                return bool(took.count == sum(took.bucket_counts) == 3 and took.sum >= 0.03)

            await until(all_took)
            about = seen.metrics.resource
            assert about["service.name"] == "kitchen" and about["delaybox.process"] == "worker"
            assert about["service.instance.id"] == f"{socket.gethostname()}/worker/{process.pid}"
            # What ends while it drains is in the last push.
            (last,) = await yard.call("naps", 0.5)
            await yard.begun(last)
            process.signal(signal.SIGTERM)
            assert await process.end() == 0, process.output()
            assert ended(seen) == {**many, "naps": 1}


@both_ways
async def test_a_program_that_runs_a_worker_sends_its_metrics_and_stays_as_it_is(yard: Yard, tmp_path: Path) -> None:
    with collector() as seen, (tmp_path / "log").open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", PROGRAM, yard.address, env={**os.environ, **asked(yard, seen)}, stdout=out, stderr=out
        )
        try:
            await yard.call("quick", count=6)
            await until(lambda: ended(seen) == {"quick": 6})
            about = seen.metrics.resource
            assert about["service.name"] == "delaybox" and about["delaybox.process"] == "worker"
            assert about["service.instance.id"] == f"{socket.gethostname()}/worker/{process.pid}"
            process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), PATIENCE_S) == 0, (tmp_path / "log").read_text()
            # It drained: the last push is of the end.
            (ready,) = seen.metrics.points("delaybox_worker_ready")
            assert ready.as_double == 0 and "orders_total" not in seen.metrics.latest, "the program's own are its own"
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


def asked(yard: Yard, seen: Collector) -> dict[str, str]:
    """The variables that ask a worker for its metrics: over gRPC, or straight on Redis over HTTP with a path."""
    by_grpc = yard.way == "grpc"
    return {
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": seen.url if by_grpc else f"{seen.http_url}/otlp/v1/metrics",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc" if by_grpc else "http/protobuf",
        "OTEL_METRIC_EXPORT_INTERVAL": "100",
    }


def ended(seen: Collector) -> dict[str, int]:
    """Attempts of a worker by function, whatever became of them."""
    by_function: Counter[str] = Counter()
    for point in seen.metrics.points("delaybox_worker_attempts_total"):
        labels = {pair.key: pair.value.string_value for pair in point.attributes}
        by_function[labels["function"]] += round(point.as_double)
    return dict(+by_function)
