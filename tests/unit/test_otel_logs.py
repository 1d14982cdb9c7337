"""What a process logs reaches a collector: a real OTLP server in the test's process."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import structlog
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import LogRecordExportResult
from opentelemetry.sdk.trace import TracerProvider

from delaybox.otel import otlp
from delaybox.otel.export_logs import MOST, MOST_BYTES, LogSender
from tests.collector import Collector, collector
from tests.waiting import PATIENCE_S, until

TASK = {"task_id": "0199", "task_name": "greet", "task_attempt": 2}
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"


@pytest.fixture(scope="module")
def seen() -> Iterator[Collector]:
    with collector() as found:
        yield found


class Sending:
    """A logger all of whose records go to a collector; `sent` when they have arrived."""

    def __init__(self, seen: Collector, name: str, protocol: str = "grpc") -> None:
        self._seen = seen
        url = seen.url if protocol == "grpc" else f"{seen.http_url}/prefix"
        self._sender = LogSender(url, {"delaybox.process": name}, protocol=protocol)
        self.log = logging.getLogger(name)
        self.log.setLevel("DEBUG")
        self.log.propagate = False
        self.log.handlers = [self._sender]

    def sent(self) -> list[Any]:
        # On a busy machine large records take longer than the end of a process waits.
        self._sender._queue.end(PATIENCE_S)
        self._sender.end()
        return [record for record in self._seen.logs.records if record.process == self.log.name]


def test_the_warning_says_why_a_collector_takes_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "3")
    to = LogSender("http://127.0.0.1:9", {}, protocol="http/protobuf")
    to.handle(logging.LogRecord("a", logging.INFO, "a.py", 1, "b", (), None))
    until(lambda: "the collector takes no logs" in caplog.text or None)
    assert "refused" in caplog.text
    to.end()


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_a_record_arrives_as_it_is(seen: Collector, protocol: str) -> None:
    to = Sending(seen, f"whole-{protocol[:4]}", protocol)
    to.log.debug("d")
    to.log.info("cup %d of %s", 2, "tea", extra={"cups": 2, "big": 1 << 70, "broken": "a\ud800", "none": None})
    to.log.warning("late", extra={**TASK, "traceparent": f"00-{TRACE}-{SPAN}-01"})
    try:
        raise ValueError("canary")
    except ValueError:
        to.log.exception("failed")
    to.log.critical("c")
    records = to.sent()
    assert [(r.severity, r.word) for r in records] == [
        (5, "DEBUG"), (9, "INFO"), (13, "WARNING"), (17, "ERROR"), (21, "CRITICAL"),
    ]  # fmt: skip
    _, cup, late, failed, _ = records
    assert cup.body == "cup 2 of tea" and cup.logger == to.log.name and cup.at_ns > 0 and not cup.trace and not cup.task
    given = {"cups": 2, "big": str(1 << 70), "broken": "a?", "thread.name": "MainThread"}
    assert given.items() <= cup.attributes.items() and "none" not in cup.attributes
    assert cup.attributes["code.function.name"] == "test_a_record_arrives_as_it_is"
    assert (late.task, late.trace, late.span) == ("0199", TRACE, SPAN)
    assert late.attributes["delaybox.task.name"] == "greet" and late.attributes["delaybox.task.attempt"] == 2
    assert failed.attributes["exception.type"] == "ValueError" and failed.attributes["exception.message"] == "canary"
    assert "in test_a_record_arrives_as_it_is" in failed.attributes["exception.stacktrace"]
    if protocol != "grpc":
        assert "/prefix/v1/logs" in seen.paths


def test_the_active_span_comes_first(seen: Collector) -> None:
    to = Sending(seen, "active")
    span = TracerProvider(shutdown_on_exit=False).get_tracer("t").start_as_current_span("s")
    with span as active:
        to.log.info("inside", extra={"traceparent": f"00-{TRACE}-{SPAN}-01"})
        found = active.get_span_context()
    (record,) = to.sent()
    assert (record.trace, record.span) == (f"{found.trace_id:032x}", f"{found.span_id:016x}")


@pytest.mark.parametrize("last", ["render_to_log_kwargs", "wrap_for_formatter"])
def test_what_structlog_logs_arrives_with_its_fields(seen: Collector, last: str) -> None:
    to = Sending(seen, last)
    processors: dict[str, Any] = {
        "render_to_log_kwargs": structlog.stdlib.render_to_log_kwargs,
        "wrap_for_formatter": structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
    }
    log = structlog.wrap_logger(
        to.log,
        processors=[structlog.stdlib.add_log_level, processors[last]],
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    log.bind(order=7).warning("sold out", shop="north")
    try:
        raise KeyError("x")
    except KeyError:
        log.exception("wrong")
    sold, wrong = to.sent()
    assert (sold.body, sold.word) == ("sold out", "WARNING")
    assert {"order": 7, "shop": "north"}.items() <= sold.attributes.items() and "_name" not in sold.attributes
    assert wrong.body == "wrong" and wrong.attributes["exception.type"] == "KeyError"


def test_a_record_and_a_request_are_bounded(seen: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    to = Sending(seen, "large")
    sizes: list[int] = []
    export = to._sender._exporter.export

    def counted(batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        sizes.append(sum(len(str(one.log_record.body)) for one in batch))
        return export(batch)

    monkeypatch.setattr(to._sender._exporter, "export", counted)
    for _ in range(300):
        to.log.info("é" * 20_000, extra={f"x{n}": "v" * 1_000 for n in range(100)})
    records = to.sent()
    assert len(records) == 300 and len(sizes) > 1 and max(sizes) <= 1 << 20
    assert max(len(r.body.encode()) for r in records) <= MOST_BYTES
    assert all(len(r.attributes) < 40 and max(map(len, map(str, r.attributes.values()))) <= 300 for r in records)


def test_what_the_sending_itself_logs_is_not_sent(seen: Collector) -> None:
    to = Sending(seen, "own")
    to._sender.emit(logging.makeLogRecord({"name": "opentelemetry.exporter.otlp", "msg": "away"}))
    other = threading.Thread(target=to.log.info, args=("retry",), name="delaybox-otel-spans")
    other.start()
    other.join()
    to.log.info("mine")
    assert [record.body for record in to.sent()] == ["mine"]


def test_nobody_waits_and_what_has_no_room_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    stuck, go_on = threading.Event(), threading.Event()
    dropped: list[int] = []
    monkeypatch.setattr(otlp, "counter", lambda _: dropped.append)
    sender = LogSender("http://127.0.0.1:1", {})

    def send(_: Sequence[object]) -> bool:
        stuck.set()
        return go_on.wait(60)

    monkeypatch.setattr(sender._queue, "_send", send)
    sender.handle(logging.makeLogRecord({"name": "x", "msg": "first"}))
    sender._queue._wake.set()
    assert stuck.wait(60)
    for n in range(MOST + 5):
        sender.handle(logging.makeLogRecord({"name": "x", "msg": str(n)}))
    assert sum(dropped) == 5
    go_on.set()
    sender.end()


def test_a_record_that_cannot_be_shown_harms_nobody(seen: Collector, capsys: pytest.CaptureFixture[str]) -> None:
    class Broken:
        def __str__(self) -> str:
            raise RuntimeError("canary")

    to = Sending(seen, "broken")
    to.log.info("%s", Broken())
    to.log.info("well")
    assert [record.body for record in to.sent()] == ["well"]
    assert "canary" in capsys.readouterr().err and sys.exc_info()[0] is None
