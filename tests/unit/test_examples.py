"""Examples of histograms' buckets: shared by the processes of a node, bounded, and shown in OpenMetrics."""

from __future__ import annotations

import os
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from delaybox import metrics
from delaybox.metrics.tasks import lateness_example
from delaybox.processes import counters, examples
from delaybox.processes.examples import MOST, kept
from delaybox.worker import worker_metrics
from delaybox.worker.attempt import Stats
from delaybox.worker.figures import Figures

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"
OPEN = "application/openmetrics-text;version=1.0.0"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(examples, "_kept", examples._Kept())
    monkeypatch.setenv(counters.VARIABLE, str(tmp_path))
    monkeypatch.setenv(counters.NAME_VARIABLE, "mine")
    return tmp_path


def shown(text: bytes, name: str) -> list[tuple[str, float, dict[str, str]]]:
    """The buckets of a histogram that have an example: bound, value and labels of it."""
    parse: Any = text_string_to_metric_families
    (family,) = [found for found in parse(text.decode()) if found.name == name]
    return [(s.labels["le"], s.exemplar.value, s.exemplar.labels) for s in family.samples if s.exemplar]


def test_each_process_shows_the_examples_of_all(folder: Path) -> None:
    code = (
        "from delaybox import metrics as m; import sys\n"
        "m.observe_lateness([1.7]); m.lateness_example(1.7, sys.argv[1].encode())\n"
        "m.rpcs_took('/x/Y', [0.004], sys.argv[1], 0.004)\n"
        "sys.stdout.write(m.render_as(sys.argv[2])[0].decode())"
    )
    text = b""
    for name, trace in (("one", TRACE), ("two", TRACE.replace("4", "5"))):
        environment = {**os.environ, counters.NAME_VARIABLE: name}
        arguments = [sys.executable, "-c", code, f"00-{trace}-{SPAN}-01", OPEN]
        text = subprocess.run(arguments, env=environment, check=True, capture_output=True).stdout
    newest = {"trace_id": TRACE.replace("4", "5"), "span_id": SPAN}
    assert shown(text, "delaybox_lateness_seconds") == [("0.002", 0.0017, newest)]
    assert shown(text, "delaybox_grpc_request_seconds") == [("0.005", 0.004, newest)]
    assert len(kept()) == 2, "a third process has them as well"
    counters.forget(str(folder), "two")
    assert {one.trace_id for one in kept().values()} == {TRACE}


def test_a_trace_that_nobody_keeps_is_no_example(folder: Path) -> None:
    lateness_example(3, PARENT.replace("-01", "-00").encode())
    assert not kept()


def test_a_file_has_its_room_before_it_is_written_to(folder: Path) -> None:
    lateness_example(3, PARENT.encode())
    (file,) = folder.glob("examples_*")
    assert file.stat().st_blocks * 512 >= MOST * 512, "a hole that cannot be filled ends the process (SIGBUS)"


def test_what_is_read_while_it_is_written_is_left_out(folder: Path) -> None:
    lateness_example(3, PARENT.encode())
    lateness_example(30_000, PARENT.encode())
    (file,) = folder.glob("examples_*")
    examples._kept.own.clear()
    assert len(kept()) == 2
    content = bytearray(file.read_bytes())
    content[20:24] = zlib.crc32(b"other").to_bytes(4, "big")
    file.write_bytes(content)
    ((_, labels),) = kept()
    assert labels == {("le", "30.0")}


def test_examples_are_bounded_and_a_folder_that_is_gone_is_no_reason_to_fail(folder: Path) -> None:
    for n in range(MOST + 10):
        examples.keep("x", {"n": str(n)}, (1.0,), 0.5, PARENT)
    examples.keep("x", {"n": "y" * 1_000}, (1.0,), 0.5, PARENT)
    assert len(kept()) == MOST
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    examples._kept.__init__()  # type: ignore[misc]
    examples.keep("x", {}, (1.0,), 5.0, PARENT)
    assert [labels for _, labels in kept()] == [{("le", "+Inf")}]


def test_a_worker_shows_the_trace_of_an_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examples, "_kept", examples._Kept())
    monkeypatch.delenv(counters.VARIABLE, raising=False)
    made, figures = worker_metrics.WorkerMetrics(), Figures(["greet"])
    figures.ended("greet", "succeeded", 0.2, PARENT)
    figures.ended("greet", "succeeded", 0.002)
    made.add(figures, Stats())
    text, kind = worker_metrics.render_as(OPEN, made.registry)
    assert kind.startswith("application/openmetrics-text")
    example = ("0.25", 0.2, {"trace_id": TRACE, "span_id": SPAN})
    assert shown(text, "delaybox_worker_attempt_seconds") == [example]
    assert b"# {" not in worker_metrics.render(made.registry)


async def test_every_histogram_that_knows_a_trace_has_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examples, "_kept", examples._Kept())
    from delaybox.targets import http_metrics

    metrics.requests_took("GET", "/x", [0.1], PARENT, 0.1)
    metrics.kafka_sent(1, 0.1, PARENT.encode())
    http_metrics.sent("http://x:1", "2xx", 0.1, 0.1, PARENT.encode())
    metrics.lateness_example(100, PARENT.encode())
    assert {name for name, _ in kept()} == {
        f"delaybox_{name}_seconds_bucket"
        for name in ("http_request", "kafka_out_delivery", "webhook", "webhook_lateness", "lateness")
    }
