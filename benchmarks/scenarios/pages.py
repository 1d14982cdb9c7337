"""How long each page of the dashboard takes with ten million tasks pending: no page may scan the store."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from http.client import HTTPConnection
from pathlib import Path
from statistics import median
from urllib.parse import urlencode

from benchmarks import ours, workload
from benchmarks.harness.bench import Bench, Scenario
from benchmarks.harness.report import OURS, Row, at_most
from benchmarks.harness.server import BenchServer
from benchmarks.scenarios.dashboard import rest_process

UNIT = "ms"
TARGET = (at_most(300),)
ROUNDS = 5
LABEL = "customer"
_SPANS = ("30m", "3h", "24h", "7d", "30d", "1y")
_SOON_MS = 30 * 60_000
_ID = re.compile(r"/dashboard/tasks/([0-9a-f-]{36})")
_TOKEN = re.compile(r'name="form" value="([^"]+)"')
_FURTHER = re.compile(r"<form [^>]*hx-post.*?</form>", re.DOTALL)
_HIDDEN = re.compile(r'name="([^"]+)" value="([^"]*)"')
_STEPS = 20
"""Most steps of one change that are looked at."""

CHANGES: Mapping[str, Mapping[str, str]] = {
    "cancel, nobody's queue": {"queue": "nobody"},
    "run, a label without an index": {"label": "colour=red"},
    "move, everything": {"delay": "2d"},
    "cancel, a common label": {"label": f"{LABEL}=common"},
}
"""What is asked of many tasks at a time, and by which filter."""


def run(bench: Bench) -> None:
    count = bench.size(10_000_000, 200_000)
    reads = f"slowest page of the dashboard, {count:,} pending"
    changes = f"slowest step of a change by filter, {count:,} pending"

    def measure() -> list[Row]:
        with bench.server() as server:
            _fill(bench, server, count)
            pending = ours.run(ours.pending(server))
            with ours.serve(server) as node:
                visitor = Visitor(node.port, (server.process.pid, rest_process(node.port)))
                # By then the node keeps time for its partitions, and its heartbeat is there to be shown.
                time.sleep(3.0)
                took = {path: visitor.read(path) for path in _paths(visitor)}
                posted = {name: visitor.change(name, form) for name, form in CHANGES.items()}
        dearest = max(visitor.dear, key=lambda path: median(visitor.dear[path]))
        note = f"{dearest}: of the server and the node's REST process; a page takes no less, however idle the machine"
        dear = f"processor time of the dearest page, {count:,} pending"
        return [
            _slowest(bench, reads, took, pending),
            _slowest(bench, changes, posted, pending),
            Row(what=dear, subject=OURS, value=median(visitor.dear[dearest]), unit=UNIT, note=note, bounds=TARGET),
        ]

    bench.attempt(reads, OURS, UNIT, measure, bounds=TARGET)


def _fill(bench: Bench, server: BenchServer, count: int) -> None:
    """Most tasks over a day; some in the coming half hour, some over a year, and some with a label that has an
    index."""
    rng = bench.random()
    body = workload.payload(rng)
    ours.run(ours.index_labels(server, LABEL))
    labelled, soon, thin = count // 50, count // 10, count // 20
    due = workload.spread_over(rng, workload.DAY_MS)
    ours.run(ours.schedule(server, labelled, due, payload=body, labels=lambda i: {LABEL: f"c-{i // 10}"}))
    ours.run(ours.schedule(server, labelled, due, payload=body, labels=lambda _: {LABEL: "common"}))
    later = workload.now_ms() + workload.HOUR_MS
    ours.run(ours.fill(server, thin, first_ms=later, span_ms=workload.YEAR_MS, payload=body))
    rest = count - 2 * labelled - soon - thin
    ours.run(ours.fill(server, rest, first_ms=later, span_ms=workload.DAY_MS, payload=body))
    first = workload.now_ms() + count // 200 + 60_000
    ours.run(ours.fill(server, soon, first_ms=first, span_ms=_SOON_MS, payload=body))


class Visitor:
    """Who opens pages, over one connection. ``processes``: those that make them. ``dear``: their processor time in ms
    each time a page was asked for."""

    def __init__(self, port: int, processes: Sequence[int]) -> None:
        self._connection = HTTPConnection("127.0.0.1", port, timeout=60)
        self._cookie = ""
        self._processes = processes
        self.dear: dict[str, list[float]] = {}

    def read(self, path: str) -> list[float]:
        """Ms of each time that a page was asked for."""
        return [self._ask("GET", path)[0] for _ in range(ROUNDS)]

    def change(self, name: str, form: Mapping[str, str]) -> list[float]:
        """Ms of each step of a change: what it would change is counted, and then it is changed, as often as a browser
        would go on."""
        path = f"/many/{name.partition(',')[0]}"
        took: list[float] = []
        for sure in ({}, {"sure": "yes"}):
            fields = {**form, **sure, "form": self._token()}
            for _ in range(_STEPS):
                ms, text = self._ask("POST", path, fields)
                took.append(ms)
                if (further := _FURTHER.search(text)) is None:
                    break
                fields = dict(_HIDDEN.findall(further[0]))
        return took

    def first_task(self) -> str:
        """The id of a task that waits."""
        found = _ID.search(self._ask("GET", "/tasks")[1])
        if found is None:
            raise RuntimeError("the list of tasks names none")
        return found[1]

    def _token(self) -> str:
        found = _TOKEN.search(self._ask("GET", "/schedule")[1])
        if found is None:
            raise RuntimeError("the page has no form")
        return found[1]

    def _ask(self, method: str, path: str, form: Mapping[str, str] | None = None) -> tuple[float, str]:
        headers = {"Accept": "text/html", "Cookie": self._cookie}
        if form is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        spent, began = self._spent_ms(), time.perf_counter()
        self._connection.request(method, f"/dashboard{path}", urlencode(form or {}), headers)
        answer = self._connection.getresponse()
        text = answer.read().decode()
        took = (time.perf_counter() - began) * 1000
        self.dear.setdefault(path or "/", []).append(self._spent_ms() - spent)
        for cookie in answer.headers.get_all("set-cookie", []):
            self._cookie = cookie.partition(";")[0]
        if answer.status >= 400 and answer.status != 404:
            raise RuntimeError(f"{method} {path} answered {answer.status}: {text[-300:]}")
        return took, text

    def _spent_ms(self) -> float:
        return sum(int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) for pid in self._processes) / 1e6


def _paths(visitor: Visitor) -> Iterator[str]:
    """The pages; of lists those that look at most: with filters that nothing matches."""
    yield from ("", "/queues", "/queues/default", "/nodes", "/dead", "/ended", "/ended?queue=nobody", "/schedule")
    yield from (f"/forecast?span={span}" for span in _SPANS)
    yield f"/tasks/{visitor.first_task()}"
    filters: tuple[dict[str, str], ...] = (
        {}, {"state": "ready"}, {"state": "running"}, {"state": "failed"}, {"queue": "nobody"}, {"name": "nobody"},
        {"group": "nobody"}, {"type": "worker"}, {"label": f"{LABEL}=c-77"}, {"label": f"{LABEL}=nobody"},
        {"label": f"{LABEL}=common"}, {"label": "colour=red"}, {"id": "a key that nobody has"},
        {"due_from": _in(workload.DAY_MS // 2)}, {"due_from": _in(workload.YEAR_MS // 2), "queue": "nobody"},
    )  # fmt: skip
    yield from (f"/tasks?{urlencode(one)}" for one in filters)


def _in(ms: int) -> str:
    return datetime.fromtimestamp((workload.now_ms() + ms) / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _slowest(bench: Bench, what: str, took: Mapping[str, list[float]], pending: int) -> Row:
    for name, times in took.items():
        bench.show(f"{name or '/'}: median {median(times):.0f} ms, slowest {max(times):.0f} ms of {len(times)}")
    worst = max(took, key=lambda name: max(took[name]))
    medians = max(took, key=lambda name: median(took[name]))
    note = (
        f"{worst or '/'}; the slowest median is {median(took[medians]):.0f} ms, {medians or '/'}; {len(took)} asked "
        f"{ROUNDS} times, {pending:,} pending"
    )
    return Row(what=what, subject=OURS, value=max(took[worst]), unit=UNIT, note=note, bounds=TARGET)


SCENARIO = Scenario("pages", "each page of the dashboard with 10 M tasks pending", run)
