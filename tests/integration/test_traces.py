"""One trace through DelayBox: from a request of a program to the code that its task runs, days later for all it knows.

The collector is a real OTLP server; the node, the program and its worker are processes, as a user starts them.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from delaybox import Client
from tests.collector import Collector, collector
from tests.nodes import JSON, Node, node
from tests.ports import free_port
from tests.receivers import Receiver, receiver, reply
from tests.servers import RealServer
from tests.waiting import PATIENCE_S, Log, until

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"
UNWANTED = f"00-{TRACE}-{SPAN}-00"
HEADERS = {**JSON, "traceparent": PARENT, "tracestate": "a=b", "baggage": "user=7"}


@pytest.fixture(scope="module")
def to() -> Iterator[Receiver]:
    with receiver() as found:
        yield found


@pytest.fixture(scope="module")
def seen() -> Iterator[Collector]:
    with collector() as found:
        yield found


@pytest.fixture(scope="module")
def on(server: RealServer, seen: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node that traces."""
    flags = ("--redis", server.url, "--set", f"storage.prefix=traces-{os.getpid()}", "--http-port", "0")
    allowed = ("--set", "webhooks.enabled=true", "--set", "webhooks.allow=127.0.0.1")
    more = ("--enable-shell", *allowed, "--set", "otel.logs=true")
    # Spans are dropped where the collector, which is in this process, does not take them in time.
    folder, patience = tmp_path_factory.mktemp("node"), {"OTEL_EXPORTER_OTLP_TIMEOUT": "5"}
    with node(*flags, *more, "--set", f"otel.endpoint={seen.url}", folder=folder, environ=patience) as found:
        yield found


@pytest.fixture(scope="module")
def program(on: Node, seen: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the web application; its worker runs beside it."""
    folder, root = tmp_path_factory.mktemp("program"), str(Path(__file__).parents[2])
    environ = os.environ | {
        "PYTHONPATH": root,
        "NODE": f"127.0.0.1:{on.grpc_port}",
        "OTEL_EXPORTER_OTLP_ENDPOINT": seen.url,
    }
    # The node sends over gRPC, the worker over HTTP.
    kitchen = {
        "OTEL_SERVICE_NAME": "kitchen",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"{seen.http_url}/otlp",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_LOGS_EXPORTER": "otlp",
    }
    port = free_port()
    log = Log(folder / "log")
    start: dict[str, Any] = {"stdout": log.fd, "stderr": log.fd, "cwd": folder}
    serving = ["-c", SERVE, str(port)]
    working = ["-m", "delaybox.worker", "tests.traced_program:worker", "--server", environ["NODE"]]
    processes = [
        subprocess.Popen([sys.executable, *serving], env=environ | {"OTEL_SERVICE_NAME": "shop"}, **start),
        subprocess.Popen([sys.executable, *working], env=environ | kitchen, **start),
    ]
    log.started()
    try:
        log.wait_for("Uvicorn running")
        yield f"http://127.0.0.1:{port}"
    finally:
        for process in processes:
            process.terminate()
        assert [process.wait(PATIENCE_S) for process in processes][1] == 0, log.text()


SERVE = """
import sys

import uvicorn
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter()))
trace.set_tracer_provider(provider)
uvicorn.run("tests.traced_program:app", port=int(sys.argv[1]))
"""


@pytest.mark.parametrize("function", ["greet", "shout", "square"])
def test_from_a_web_request_to_the_worker(program: str, seen: Collector, function: str) -> None:
    answer = httpx.post(f"{program}/orders", params={"function": function}, headers=HEADERS, timeout=60)
    assert answer.status_code == 200, answer.text
    (one, many), results = answer.json()["ids"], answer.json()["results"]
    # FastAPI traces its requests by itself: one span of the request, and one of the function that answers it.
    endpoint = seen.one(lambda s: s.span == seen.of("send", one).parent)
    request = seen.one(lambda s: s.span == endpoint.parent)
    assert (request.trace, request.parent, request.service) == (TRACE, SPAN, "shop"), "the caller's own trace goes on"
    sent, stored, fired, ran = (seen.of(name, one) for name in ("send", "schedule", "deliver", "process"))
    assert (sent.trace, stored.trace, stored.parent) == (TRACE, TRACE, sent.span)
    assert fired.trace != TRACE and not fired.parent, "it may be days later, so it is no child"
    assert (TRACE, sent.span) in fired.links
    assert (ran.trace, ran.parent, ran.service) == (fired.trace, fired.span, "kitchen")
    assert ran.links == ((TRACE, sent.span),) and sent.began_ns <= fired.began_ns <= ran.began_ns
    claim = seen.one(lambda s: s.name == "claim" and (s.trace, s.span) in fired.links)
    assert claim.attributes["messaging.operation.type"] == "receive"
    wanted = {
        "messaging.system": "delaybox",
        "messaging.destination.name": "default",
        "messaging.operation.name": "run",
        "delaybox.task.name": function,
        "delaybox.task.attempt": 1,
    }
    assert wanted.items() <= ran.attributes.items()
    # What the function itself finds.
    for task, found in zip((one, many), results, strict=True):
        run = seen.of("process", task)
        assert (found["trace"], found["span"], found["baggage"]) == (run.trace, run.span, "7")
        assert found["passed"]["baggage"] == "user=7"
        assert found["passed"]["traceparent"].startswith(f"00-{run.trace}-{run.parent}-")
    assert (TRACE, endpoint.span) in seen.of("deliver", many).links, "many tasks are linked to the request itself"


def test_a_failed_function_is_a_failed_span(program: str, on: Node, seen: Collector) -> None:
    with Client(f"127.0.0.1:{on.grpc_port}") as client:
        task = client.schedule("fails").id
    stored, fired, ran = (seen.of(name, task) for name in ("schedule", "deliver", "process"))
    assert not ran.ok and not fired.ok and ran.attributes["error.type"] == "ValueError"
    assert fired.attributes["delaybox.outcome"] == "failed"
    assert (stored.trace, stored.span) in fired.links and stored.ok, "without a trace of the caller's one begins here"


@pytest.mark.parametrize("function", ["greet", "shout", "square"])
def test_what_a_function_logs_is_in_its_trace(program: str, on: Node, seen: Collector, function: str) -> None:
    with Client(f"127.0.0.1:{on.grpc_port}") as client:
        task = client.schedule(function, function).id
    ran = seen.of("process", task)
    record = seen.logs.wait(lambda r: r.task == task)
    assert (record.trace, record.span) == (ran.trace, ran.span)
    assert (record.logger, record.word, record.body) == ("shop.kitchen", "INFO", f"cooking {function}")
    wanted = {"delaybox.task.name": function, "delaybox.task.attempt": 1, "dish": function}
    assert wanted.items() <= record.attributes.items() and (record.service, record.process) == ("kitchen", "worker")
    assert {"/otlp/v1/traces", "/otlp/v1/logs"} <= seen.paths


def test_a_failure_is_logged_in_the_trace_of_its_firing(program: str, on: Node, seen: Collector) -> None:
    with Client(f"127.0.0.1:{on.grpc_port}") as client:
        task = client.schedule("fails").id
    fired = seen.of("deliver", task)
    record = seen.logs.wait(lambda r: r.task == task)
    assert (record.trace, record.span, record.severity) == (fired.trace, fired.span, 13)
    assert "ValueError: canary" in record.body and "in fails" in record.attributes["exception.stacktrace"]


def test_every_process_of_a_node_sends_its_log(on: Node, seen: Collector) -> None:
    seen.logs.wait(lambda r: r.process == "node" and r.body.startswith("listening on http://"))
    for kind in ("rest", "clock", "work", "webhook"):
        record = seen.logs.wait(lambda r, kind=kind: r.process == kind)  # type: ignore[misc]
        assert record.logger.startswith("delaybox.") and record.service == "delaybox"


def test_every_target_gets_the_trace(on: Node, seen: Collector, to: Receiver) -> None:
    def post(**task: Any) -> str:
        status, _, answer = on.call("POST", "/v1/tasks", task, HEADERS)
        assert status == 201, answer
        return str(answer["id"])

    shell = post(type="shell", payload='echo "$TRACEPARENT|$TRACESTATE|$BAGGAGE"', keep_result="1m")
    hook = post(type="http", url=to.url("/traced"), on_success=to.url("/after"))
    (request,) = to.wait("/traced")
    fired = seen.of("deliver", hook)
    assert request.headers["traceparent"].startswith(f"00-{fired.trace}-{fired.span}-")
    assert request.headers["baggage"] == "user=7" and (TRACE, SPAN) in fired.links
    (after,) = to.wait("/after")
    assert after.headers["traceparent"].split("-")[1] != TRACE and "baggage" not in after.headers
    called = seen.one(lambda s: s.name.startswith("deliver") and s.span == after.headers["traceparent"].split("-")[2])
    assert (TRACE, SPAN) in called.links, "the call of its end belongs to the same trace"
    fired = seen.of("deliver", shell)
    result = on.until(lambda: on.call("GET", f"/v1/tasks/{shell}")[2].get("result"))
    parent, *others = result["output"].strip().split("|")
    assert parent.startswith(f"00-{fired.trace}-{fired.span}-") and others == ["", "user=7"]


def test_a_message_that_a_claim_publishes_has_its_span(on: Node, seen: Collector) -> None:
    status, _, answer = on.call("POST", "/v1/tasks", {"payload": "news"}, HEADERS)
    assert status == 201 and on.call("POST", "/v1/tasks", {"payload": "quiet"}, {**JSON, "traceparent": UNWANTED})
    fired = seen.of("deliver", answer["id"])
    assert not fired.parent and fired.trace != TRACE and (TRACE, SPAN) in fired.links
    wanted = {"delaybox.in_place": True, "delaybox.outcome": "done", "delaybox.task.type": "pub_sub"}
    assert wanted.items() <= fired.attributes.items()
    claim = seen.one(lambda s: s.name == "claim" and (s.trace, s.span) in fired.links)
    assert claim.began_ns <= fired.began_ns <= fired.ended_ns
    # Without a trace of the caller's the node has begun one with the scheduling.
    _, _, alone = on.call("POST", "/v1/tasks", {"payload": "news"})
    stored, fired = seen.of("schedule", alone["id"]), seen.of("deliver", alone["id"])
    assert (stored.trace, stored.span) in fired.links and not fired.attributes.get("delaybox.task.name")


def test_a_caller_who_wants_no_trace_gets_none(on: Node, seen: Collector, to: Receiver) -> None:
    headers = {**JSON, "traceparent": UNWANTED}
    _, _, answer = on.call("POST", "/v1/tasks", {"type": "http", "url": to.url("/quiet")}, headers)
    (request,) = to.wait("/quiet")
    assert request.headers["traceparent"] == UNWANTED
    # Spans are sent in order: a later one has come, so those of this task would have.
    _, _, later = on.call("POST", "/v1/tasks", {"type": "http", "url": to.url("/later")}, HEADERS)
    seen.of("deliver", later["id"])
    assert not [s for s in seen.spans if s.task == answer["id"]]


def test_the_trace_stays_with_a_task_that_is_moved_fails_and_is_replayed(
    on: Node, seen: Collector, to: Receiver
) -> None:
    to.answers["/again"] = [reply(500), reply(404)]
    retry = {"max_attempts": 3, "backoff": {"initial": "10ms"}}
    task = {"type": "http", "url": to.url("/again"), "delay": "1h", "retry": retry}
    _, _, answer = on.call("POST", "/v1/tasks", task, HEADERS)
    path = f"/v1/tasks/{answer['id']}"
    assert on.call("PATCH", path, {"payload": "other", "priority": "high"})[0] == 200
    assert on.call("PATCH", path, {"delay": "2h"})[0] == 200
    assert on.call("POST", f"{path}/run")[0] == 200
    to.wait("/again", 1)
    on.until(lambda: on.call("POST", f"/v1/dead/{answer['id']}/replay")[0] == 200)
    first, second, third = to.wait("/again", 3)
    assert len({r.headers["traceparent"] for r in (first, second, third)}) == 3, "each delivery has a span of its own"

    def spans() -> list[Any] | None:
        found = [s for s in list(seen.spans) if s.name.startswith("deliver") and s.task == answer["id"]]
        return found if len(found) == 3 else None

    assert all((TRACE, SPAN) in s.links for s in until(spans, seen.names))


def test_open_metrics_with_examples_for_a_scraper_that_asks(on: Node) -> None:
    assert on.call("POST", "/v1/tasks", {"delay": "1h"}, HEADERS)[0] == 201
    with Client(f"127.0.0.1:{on.grpc_port}") as client:
        client.schedule("greet", "x", delay="1h")

    def families() -> dict[str, Any] | None:
        _, headers, text = on.call(
            "GET", "/metrics", headers={"Accept": "application/openmetrics-text;version=1.0.0;q=0.9"}
        )
        assert headers["content-type"].startswith("application/openmetrics-text")
        read: Any = text_string_to_metric_families
        found = {family.name: family for family in read(text.decode())}
        # The calls over HTTP and those over gRPC are each added a moment after their answer.
        http = _buckets(found, "http_request", method="POST", route="/v1/tasks")
        return found if http and _buckets(found, "grpc_request", method="/delaybox.v1.Scheduler/Schedule") else None

    found = on.until(families)
    shown = _buckets(found, "http_request", method="POST", route="/v1/tasks")
    examples = [bucket.exemplar.labels for bucket in shown if bucket.exemplar]
    assert {"trace_id": TRACE, "span_id": SPAN} in examples
    assert _buckets(found, "grpc_request", method="/delaybox.v1.Scheduler/Schedule")[-1].value >= 1
    assert _buckets(found, "script", script="schedule")[-1].value >= 2
    assert not _buckets(found, "grpc_request", method="/delaybox.v1.Worker/Work"), "a stream lasts as long as it likes"
    plain = on.call("GET", "/metrics")
    assert plain[1]["content-type"].startswith("text/plain") and b"# {" not in plain[2]


def test_times_have_the_traces_of_spans_as_examples(on: Node, seen: Collector, to: Receiver) -> None:
    """Of processes that serve no /metrics themselves: gRPC, the clock and webhooks."""
    with Client(f"127.0.0.1:{on.grpc_port}") as client:
        later = client.schedule("greet", "x", delay="1h").id
    _, _, message = on.call("POST", "/v1/tasks", {"payload": "news"}, HEADERS)
    _, _, hook = on.call("POST", "/v1/tasks", {"type": "http", "url": to.url("/timed")}, HEADERS)
    to.wait("/timed")
    for span in (seen.of("schedule", later), seen.of("deliver", message["id"]), seen.of("deliver", hook["id"])):
        assert span.ok

    def families() -> dict[str, set[str]] | None:
        accept = {"Accept": "application/openmetrics-text;version=1.0.0"}
        read: Any = text_string_to_metric_families
        found: dict[str, set[str]] = {}
        for family in read(on.call("GET", "/metrics", headers=accept)[2].decode()):
            for sample in (one for one in family.samples if one.exemplar):
                found.setdefault(family.name, set()).add(sample.exemplar.labels["span_id"])
        return found if len(found) == 5 else None

    found = on.until(families)
    spans = {span.span: span.name for span in list(seen.spans)}
    kinds = {name: {spans.get(span, "").partition(" ")[0] for span in named} for name, named in found.items()}
    assert kinds.pop("delaybox_http_request_seconds")
    assert kinds == {
        "delaybox_grpc_request_seconds": {"schedule"},
        "delaybox_lateness_seconds": {"deliver"},
        "delaybox_webhook_seconds": {"deliver"},
        "delaybox_webhook_lateness_seconds": {"deliver"},
    }


def _buckets(families: dict[str, Any], what: str, **labels: str) -> list[Any]:
    family = families.get(f"delaybox_{what}_seconds")
    samples = family.samples if family else []
    return [s for s in samples if s.name.endswith("_bucket") and labels.items() <= s.labels.items()]


def test_a_collector_that_is_away_holds_nothing_up(on: Node, seen: Collector, to: Receiver) -> None:
    # Other tests may come after this one, in whatever order.
    with seen.away():
        for n in range(20):
            assert on.call("POST", "/v1/tasks", {"type": "http", "url": to.url(f"/away/{n}")}, HEADERS)[0] == 201
        for n in range(20):
            to.wait(f"/away/{n}")
        lost = on.until(
            lambda: re.search(rb'otel_dropped_items_total{signal="spans"} ([0-9.]+)', on.call("GET", "/metrics")[2])
        )
        assert float(lost[1]) > 0
        assert "the collector takes no spans, which are dropped" in on.wait_for("the collector takes no spans.*")[0]
