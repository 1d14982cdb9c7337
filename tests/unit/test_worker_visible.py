"""What a worker shows of itself: its figures by function, its probes, and the fields of its log."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from delaybox.processes import counters
from delaybox.processes.sockets import CannotListen
from delaybox.worker import Reject, RetryLater, Worker, add_task_fields, pulse, pushing, worker_metrics
from delaybox.worker.attempt import Stats
from delaybox.worker.figures import MOST_FUNCTIONS, OTHERS, Figures, Places, State
from delaybox.worker.functions import FunctionKind
from delaybox.worker.metrics_port import MetricsPort
from delaybox.worker.worker_metrics import condition_of
from tests.crews import shift
from tests.web import called

WORKER = Worker("test")
FIELDS: list[dict[str, Any]] = []


@WORKER.task
async def works() -> None:
    FIELDS.append(dict(add_task_fields(None, "info", {"event": "x", "attempt": "mine"})))


@WORKER.task
async def waits(seconds: float) -> None:
    await asyncio.sleep(seconds)


@WORKER.task
async def fails(error: str) -> None:
    raise {"reject": Reject("no"), "later": RetryLater("not now")}.get(error, LookupError(error))


def shown(figures: Figures, stats: Stats | None = None) -> dict[str, float]:
    made = worker_metrics.WorkerMetrics()
    made.add(figures, stats or Stats())
    return {
        line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
        for line in worker_metrics.render(made.registry).decode().splitlines()
        if not line.startswith("#")
    }


async def test_every_end_is_counted_by_function_with_how_long_it_ran() -> None:
    async with shift(WORKER, FunctionKind.ASYNC) as s:
        s.common.figures = figures = Figures(WORKER.functions)
        calls: list[tuple[str, Any]] = [
            ("works", []),
            ("waits", [0.02]),
            ("waits", [60]),
            *(("fails", [error]) for error in ("reject", "later", "x")),
        ]
        given = s.give(*calls)
        await s.until(*given[:2], *given[3:])
        s.cancel(given[2])
        await s.until(*given)
    found = shown(figures, s.common.stats)
    attempts = {name: n for name, n in found.items() if "attempts_total{" in name}
    assert attempts == {
        'delaybox_worker_attempts_total{function="works",outcome="succeeded"}': 1,
        'delaybox_worker_attempts_total{function="waits",outcome="succeeded"}': 1,
        'delaybox_worker_attempts_total{function="waits",outcome="cancelled"}': 1,
        'delaybox_worker_attempts_total{function="fails",outcome="failed"}': 2,
        'delaybox_worker_attempts_total{function="fails",outcome="put_off"}': 1,
    }
    assert found['delaybox_worker_attempt_seconds_bucket{function="waits",le="0.01"}'] == 0
    assert found['delaybox_worker_attempt_seconds_count{function="waits"}'] == 2
    assert 0.02 <= found['delaybox_worker_attempt_seconds_sum{function="waits"}'] < 60
    assert FIELDS == [
        {"event": "x", "attempt": "mine", "task": "01a2b3c4-d5e6-8001-9f00-112233445566", "function": "works"}
    ], "a field of the caller's own stays"
    assert add_task_fields(None, "info", {"event": "x"}) == {"event": "x"}, "no task runs here"


def test_the_functions_with_figures_of_their_own_are_bounded() -> None:
    figures = Figures(f"f{n:03}" for n in range(MOST_FUNCTIONS + 50))
    for n in range(MOST_FUNCTIONS + 50):
        figures.ended(f"f{n:03}", "succeeded", 0.5)
    figures.ended("never announced", "handed_back", None)
    taken = figures.take()
    assert len(taken) == MOST_FUNCTIONS + 1
    assert dict(taken[OTHERS].outcomes) == {"succeeded": 50, "handed_back": 1}
    assert sum(taken[OTHERS].classes) == 50, "what did not begin has no duration"
    assert figures.take() == {}


def test_what_is_past_the_last_bound_is_in_the_sum_and_the_count() -> None:
    figures = Figures(["f"])
    figures.ended("f", "succeeded", 7_200.0)
    figures.ended("f", "succeeded", 0.001)
    found = shown(figures)
    assert found['delaybox_worker_attempt_seconds_bucket{function="f",le="0.001"}'] == 1
    assert found['delaybox_worker_attempt_seconds_bucket{function="f",le="3600.0"}'] == 1
    assert found['delaybox_worker_attempt_seconds_bucket{function="f",le="+Inf"}'] == 2


def state(**changes: Any) -> State:
    given: dict[str, Any] = {
        "places": {"async": Places(10, 3)},
        "sessions": {"a:1": (1, 0), "b:2": (1, 1)},
        "ready": True,
        "draining": False,
    }
    return State(**given | changes)


def test_the_probes_say_what_is_wrong() -> None:
    made = worker_metrics.WorkerMetrics()

    def asked(later_s: float = 0.0) -> tuple[str, str]:
        import time

        found = condition_of(made.registry.collect(), time.time() + later_s)
        assert found.processes == 1
        return found.wrong, found.stands

    made.show(state())
    assert asked() == ("", "")
    made.show(state(ready=False))
    assert asked() == ("no session with b:2", "")
    made.show(state(sessions={}, ready=False))
    assert asked() == ("the worker has not begun", "")
    made.show(state(ready=False, draining=True))
    assert asked() == ("the worker drains: it takes no more tasks", "")
    made.show(state())
    wrong, stands = asked(later_s=42)
    assert wrong == stands == "an event loop has not turned for 42 s: a function keeps it, or the process is stopped"


def test_the_port_answers_whatever_callers_send() -> None:
    port = MetricsPort("127.0.0.1", 0, lambda path, _: (200, "text/plain", b"well") if path == "/well" else None)
    port.start()
    try:
        assert called(port.address, "/well") == (200, "well")
        assert called(port.address, "/well?x=1", "HEAD") == (200, "")
        assert called(port.address, "/well", "POST") == (405, "use GET")
        status, text = called(port.address, "/")
        assert (status, "/readyz" in text) == (404, True)
        host, _, number = port.address.rpartition(":")
        for sent in (b"\r\n\r\n", b"x" * 100_000, b"GET /well HTTP/1.1\r\n"):
            with socket.create_connection((host, int(number)), 10) as rude:
                rude.sendall(sent)
        assert called(port.address, "/well") == (200, "well")
        with pytest.raises(CannotListen, match="choose another port with --metrics-port"):
            MetricsPort(host, int(number), lambda *_: None)
    finally:
        port.stop()
        port.stop()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(number)), 1)


def test_another_programs_folder_keeps_no_worker_from_starting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(counters.VARIABLE, str(tmp_path / "gone"))
    assert not pulse.wanted(None)
    assert pulse.wanted(9100)
    monkeypatch.setenv(counters.VARIABLE, str(tmp_path))
    assert pulse.wanted(None)
    monkeypatch.setattr(pulse, "find_spec", lambda name: None)
    assert not pulse.wanted(None)
    monkeypatch.delenv(counters.VARIABLE)
    assert not pulse.wanted(None)


@pytest.mark.parametrize(
    ("variable", "value", "why"),
    [
        ("OTEL_METRIC_EXPORT_INTERVAL", "often", "OTEL_METRIC_EXPORT_INTERVAL is 'often'"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zip", 'Invalid value "zip"'),
    ],
)
async def test_another_parts_variable_keeps_no_worker_from_starting(
    variable: str, value: str, why: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv(variable, value)
    assert pushing.wanted(os.environ)
    made = pulse.Pulse(Figures(["f"]), Stats(), state, host="127.0.0.1", port=None, push=True)
    await made.start()
    await made.stop()
    (warning,) = [record.getMessage() for record in caplog.records]
    assert warning.startswith(f"the worker's metrics are not sent to a collector: {why}")


def test_the_level_of_the_log_is_checked() -> None:
    from delaybox.core.errors import ConfigError
    from delaybox.worker import logs

    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    try:
        logs.set_up("json", "warning")
        assert root.level == logging.WARNING
        with pytest.raises(ConfigError, match="--log-level 'loud' is not known; use debug, info, warning or error"):
            logs.set_up("json", "loud")
        with pytest.raises(ConfigError, match="--log-format 'xml' is not known; use text or json"):
            logs.set_up("xml")
    finally:
        root.handlers[:] = before
        root.setLevel(level)
