"""What /metrics shows arrives at a collector by OTLP, and a collector that is away holds nothing up. Over HTTP so do
metrics, spans and logs alike.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from tests.collector import collector
from tests.nodes import node
from tests.servers import RealServer

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
            (offset,) = pushed.points("delaybox_clock_offset_seconds")
            assert healthy.as_double == 1 and abs(offset.as_double) < 0.5, "one machine, one clock"
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
