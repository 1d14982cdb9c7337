"""`delaybox worker --dev` as somebody at a laptop uses it: a folder with one file, which changes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from delaybox import Client
from tests.collector import Collector, collector
from tests.waiting import PATIENCE_S, until

APP = """
from delaybox import Worker

worker = Worker("app", servers="redis://nowhere:1")

@worker.task(keep_result="1m")
async def version():
    return {version}
"""


@pytest.fixture
def seen() -> Iterator[Collector]:
    with collector() as made:
        yield made


def test_a_worker_follows_its_sources_and_its_metrics_go_on(tmp_path: Path, seen: Collector) -> None:
    source, log = tmp_path / "app.py", tmp_path / "log"
    source.write_text(APP.format(version=1))
    environ = {**os.environ, "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": seen.url, "OTEL_METRIC_EXPORT_INTERVAL": "100"}
    with log.open("wb") as out:
        command = [sys.executable, "-m", "delaybox.worker", "--dev", "app"]
        process = subprocess.Popen(command, cwd=tmp_path, env=environ, stdout=out, stderr=out, start_new_session=True)

    def sessions() -> int:
        return log.read_text().count("session with")

    try:
        until(lambda: sessions() == 1, log.read_text)
        with Client.embedded(tmp_path / ".delaybox") as client:
            assert client.schedule("version").result(PATIENCE_S) == 1
            source.write_text("this is no Python")
            until(lambda: "starts again when a file changes" in log.read_text(), log.read_text)
            waiting = client.schedule("version")
            source.write_text(APP.format(version=22))
            assert waiting.result(PATIENCE_S) == 22, "the server stayed, and what was scheduled meanwhile"
        (sent,) = until(lambda: [p for p in seen.metrics.points("delaybox_worker_attempts_total") if p.as_double == 2])
        labels = {pair.key: pair.value.string_value for pair in sent.attributes}
        assert labels == {"function": "version", "outcome": "succeeded"}, "the count goes on where a process ended"
        (processes,) = until(lambda: [p for p in seen.metrics.points("delaybox_worker_processes") if p.as_double == 1])
        assert processes.as_double == 1, "what the ended one showed is gone"
        assert seen.metrics.resource["service.instance.id"].endswith(f"/worker/{process.pid}")
        assert sessions() == 2 and "SyntaxError" in log.read_text()
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0, log.read_text()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
