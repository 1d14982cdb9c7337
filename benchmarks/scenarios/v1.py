"""/v1 on a whole `delaybox serve`: one by one, in batches, looked up; lists and forecasts of ten million tasks."""

from __future__ import annotations

import json
import time
from http.client import HTTPConnection
from statistics import median
from typing import Any

from benchmarks import ours, workload
from benchmarks.harness import load
from benchmarks.harness.bench import Bench, Scenario
from benchmarks.harness.machine import available_gib
from benchmarks.harness.report import OURS, Row, at_least, at_most

CONNECTIONS = 64
COMPATIBLE = "POST /task"
POST, GET = "POST /v1/tasks, 64 connections", "GET /v1/tasks/{id}, 64 connections"
BATCH = "POST /v1/tasks/batch of 1,000, 4 connections"
POST_TARGET = (at_least(0.7, of=COMPATIBLE),)
BATCH_TARGET = (at_least(50_000),)
GET_TARGET = (at_least(8_000),)
LIST_TARGET = (at_most(20),)
FORECAST_TARGET = (at_most(50),)
FULL = 10_000_000
CALLS = 31
GIB_A_MILLION = 0.25


def run(bench: Bench) -> None:
    seconds = float(bench.size(8, 3))

    def one_by_one() -> list[Row]:
        # In turns on one node: the ratio is the claim, and machines drift.
        found: dict[str, list[float]] = {COMPATIBLE: [], OURS: []}
        notes: dict[str, str] = {}
        with bench.server() as server, ours.serve(server) as node:
            subjects = {
                COMPATIBLE: [("POST", node.path, body) for body in load.bodies()],
                OURS: [("POST", "/v1/tasks", json.dumps(task)) for task in _tasks(load.VARIETY)],
            }
            for turn in range(3):
                for subject, requests in subjects.items():
                    seen = load.send(node.port, requests, connections=CONNECTIONS, seconds=seconds if turn else 1)
                    if turn:
                        found[subject].append(seen.rate)
                        notes[subject] = _words(seen)
        return [
            Row(
                what=POST,
                subject=subject,
                value=max(rates),
                unit="requests/s",
                note=f"the better of {len(rates)} turns; {notes[subject]}",
                bounds=POST_TARGET if subject == OURS else (),
            )
            for subject, rates in sorted(found.items(), key=lambda item: item[0] != OURS)
        ]

    def batches() -> Row:
        with bench.server() as server, ours.serve(server) as node:
            requests = [("POST", "/v1/tasks/batch", json.dumps({"tasks": _tasks(workload.CHUNK)})) for _ in range(8)]
            load.send(node.port, requests, connections=4, seconds=1)
            before = ours.run(ours.pending(server))
            seen = load.send(node.port, requests, connections=4, seconds=seconds)
            stored = ours.run(ours.pending(server)) - before
        if stored < seen.accepted * workload.CHUNK:
            raise RuntimeError(f"{seen.accepted * workload.CHUNK} answered but only {stored} stored")
        note = f"{_words(seen)}; {stored} stored"
        return Row(
            what=BATCH, subject=OURS, value=seen.rate * workload.CHUNK, unit="tasks/s", note=note, bounds=BATCH_TARGET
        )

    def looked_up() -> Row:
        with bench.server() as server, ours.serve(server) as node:
            requests = [("POST", "/v1/tasks", json.dumps(task)) for task in _tasks(load.VARIETY)]
            load.send(node.port, requests, connections=CONNECTIONS, seconds=1)
            found = _call(node.port, "/v1/tasks?limit=1000")["tasks"]
            seen = load.send(
                node.port,
                [("GET", f"/v1/tasks/{task['id']}", "") for task in found],
                connections=CONNECTIONS,
                seconds=seconds,
            )
        note = f"{len(found)} pending tasks in turn; {_words(seen)}"
        return Row(what=GET, subject=OURS, value=seen.rate, unit="requests/s", note=note, bounds=GET_TARGET)

    bench.attempt(POST, OURS, "requests/s", one_by_one, bounds=POST_TARGET)
    bench.attempt(BATCH, OURS, "tasks/s", batches, bounds=BATCH_TARGET)
    bench.attempt(GET, OURS, "requests/s", looked_up, bounds=GET_TARGET)


def run_full(bench: Bench) -> None:
    size = bench.size(FULL, 300_000)
    pending = f"{size // 1_000_000} M" if size >= 1_000_000 else f"{size:,}"
    listing, forecast = f"list the first 100 of {pending} pending", f"forecast of 24 h at {pending} pending"

    def both() -> list[Row]:
        if available_gib() < GIB_A_MILLION * size / 1e6 + 1:
            return [
                Row(what=what, subject=OURS, value=None, unit="ms", note="not enough free memory here", bounds=bounds)
                for what, bounds in ((listing, LIST_TARGET), (forecast, FORECAST_TARGET))
            ]
        start = workload.now_ms() + workload.HOUR_MS
        with bench.server() as server:
            ours.run(
                ours.fill(
                    server, size, first_ms=start, span_ms=workload.DAY_MS, payload=workload.payload(bench.random())
                )
            )
            with ours.serve(server) as node:
                first = _timed(node.port, "/v1/tasks?limit=100")
                if len(first[1]["tasks"]) != 100:
                    raise RuntimeError(f"{len(first[1]['tasks'])} tasks listed")
                hours = _timed(node.port, f"/v1/forecast?from={start}&to={start + workload.DAY_MS}&step=1h")
                if not size * 0.99 <= hours[1]["total"] <= size:
                    raise RuntimeError(f"{hours[1]['total']} tasks in the forecast")
        # Smaller stores than the target names prove nothing about it.
        held = size >= FULL
        return [
            _latency(listing, first[0], LIST_TARGET if held else ()),
            _latency(forecast, hours[0], FORECAST_TARGET if held else ()),
        ]

    bench.attempt(listing, OURS, "ms", both, bounds=LIST_TARGET)


def _latency(what: str, times: list[float], bounds: Any) -> Row:
    note = f"median of {len(times)} calls one after the other over REST, longest {max(times):.1f} ms; due within a day"
    return Row(what=what, subject=OURS, value=median(times), unit="ms", note=note, bounds=bounds)


def _tasks(count: int) -> list[dict[str, object]]:
    """As `load.bodies`: the same payload, the same due times."""
    start = workload.now_ms() + workload.HOUR_MS
    payload = "x" * workload.PAYLOAD_BYTES
    return [{"at": start + i * workload.DAY_MS // count, "payload": payload} for i in range(count)]


def _call(port: int, path: str) -> Any:
    return _timed(port, path, calls=1)[1]


def _timed(port: int, path: str, *, calls: int = CALLS) -> tuple[list[float], Any]:
    """Milliseconds of each call over one connection, the first not counted among many; and the last answer."""
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    times: list[float] = []
    answer: Any = None
    try:
        for _ in range(calls):
            started = time.perf_counter()
            connection.request("GET", path)
            reply = connection.getresponse()
            text = reply.read()
            times.append((time.perf_counter() - started) * 1000)
            if reply.status != 200:
                raise RuntimeError(f"{path}: {reply.status} {text[:200]!r}")
            answer = json.loads(text)
    finally:
        connection.close()
    return times[1:] or times, answer


def _words(seen: load.Load) -> str:
    return f"{seen.client}; p50 {seen.p50_ms:.1f}, p99 {seen.p99_ms:.1f} ms, {seen.refused} refused"


SCENARIO = Scenario("v1", "REST /v1: one by one, in batches, looked up", run)
FULL_STORE = Scenario("v1-full", "REST /v1: lists and forecasts of ten million pending", run_full)
