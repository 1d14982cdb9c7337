"""A worker's figures in Prometheus's form, and what they say of its state.

The processes of one worker share a folder (environment ``PROMETHEUS_MULTIPROC_DIR``, set before this module is
imported), and each of them can show the sum. Without the folder a process shows itself.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from delaybox import __version__
from delaybox.processes import counters, examples
from delaybox.processes.openmetrics import WithoutCreated, exposed
from delaybox.worker.attempt import Stats
from delaybox.worker.figures import BOUNDS_S, Figures, State, WorkerCondition

STANDS_S: Final = 30.0
"""A process whose event loop has not turned for this long needs a restart."""
_MOST_SERVERS: Final = 50


class WorkerMetrics:
    """The metrics of this process. One of them is made for each run of a worker."""

    def __init__(self) -> None:
        self.registry = made = CollectorRegistry()
        self._attempts = Counter(
            "delaybox_worker_attempts",
            "Attempts that ended in this worker, by function (the first 50 by name and others) and outcome: succeeded, "
            "failed, cancelled, put_off, handed_back (not run, nothing is charged) or lost (others have the task).",
            ["function", "outcome"],
            registry=made,
        )
        self._seconds = Histogram(
            "delaybox_worker_attempt_seconds",
            "How long the code of attempts ran.",
            ["function"],
            buckets=BOUNDS_S,
            registry=made,
        )
        self._places = Gauge(
            "delaybox_worker_places", "Places for functions, by kind: async, thread or cpu.", ["kind"],
            multiprocess_mode="livesum", registry=made,
        )  # fmt: skip
        self._taken = Gauge(
            "delaybox_worker_places_taken", "Places that are taken, also by code that goes on past its time.", ["kind"],
            multiprocess_mode="livesum", registry=made,
        )  # fmt: skip
        self._sessions = Gauge(
            "delaybox_worker_sessions",
            "Sessions by which tasks come, one for each kind of function, by server and state: up or down.",
            ["server", "state"],
            multiprocess_mode="livesum",
            registry=made,
        )
        self._ready = Gauge(
            "delaybox_worker_ready",
            "1 while every process of the worker has a session for each kind of function and takes tasks.",
            multiprocess_mode="livemin",
            registry=made,
        )
        self._draining = Gauge(
            "delaybox_worker_draining", "Processes of the worker that take no more tasks and end when what runs has.",
            multiprocess_mode="livesum", registry=made,
        )  # fmt: skip
        self._processes = Gauge(
            "delaybox_worker_processes", "Processes of the worker that live, but for those of cpu functions.",
            multiprocess_mode="livesum", registry=made,
        )  # fmt: skip
        self._turned = Gauge(
            "delaybox_worker_turned_seconds",
            "When the event loop of the worker's process that is furthest behind last turned, in Unix seconds.",
            multiprocess_mode="livemin",
            registry=made,
        )
        self._held = Counter(
            "delaybox_worker_loop_held_seconds",
            "How long code that did not wait kept event loops from turning, in all.",
            registry=made,
        )
        self._of_stats: dict[str, tuple[Counter, int]] = {
            name: (Counter(f"delaybox_worker_{shown}", text, registry=made), 0)
            for name, shown, text in (
                ("stale", "late_reports", "Reports of attempts whose tasks had been given to others meanwhile."),
                ("overran", "overran_attempts", "Attempts whose time was over while their code went on."),
                ("cpu_deaths", "cpu_deaths", "Processes of cpu functions that died or were killed."),
                (
                    "streams",
                    "streams",
                    "Streams that were opened to nodes: more than sessions where some were resumed.",
                ),
            )
        }
        self._known: set[tuple[str, str]] = set()
        self._processes.set(1)

    def add(self, figures: Figures, stats: Stats) -> None:
        """Adds what was counted since the last time."""
        for function, one in figures.take().items():
            for outcome, n in one.outcomes.items():
                self._attempts.labels(function, outcome).inc(n)
            seconds = self._seconds.labels(function)
            # prometheus-client has no batch observe.
            for at, n in enumerate(one.classes):
                if n:
                    seconds._buckets[at].inc(n)
            seconds._sum.inc(one.sum_s)
            if one.example is not None:
                examples.keep("delaybox_worker_attempt_seconds", {"function": function}, BOUNDS_S, *one.example)
        for name, (counter, before) in self._of_stats.items():
            now = getattr(stats, name)
            if now != before:
                counter.inc(now - before)
                self._of_stats[name] = counter, now

    def held(self, seconds: float) -> None:
        """The event loop turned so much later than it should."""
        self._held.inc(seconds)

    def show(self, state: State) -> None:
        """This process is in this state, and its event loop turns."""
        for kind, places in state.places.items():
            self._places.labels(kind).set(places.size)
            self._taken.labels(kind).set(places.taken)
        # A session that ended leaves its server at 0.
        shown = dict.fromkeys(self._known, 0)
        for server, (up, down) in list(state.sessions.items())[:_MOST_SERVERS]:
            shown |= {(server, "up"): up, (server, "down"): down}
        self._known = set(shown)
        for (server, word), n in shown.items():
            self._sessions.labels(server, word).set(n)
        self._draining.set(state.draining)
        self._ready.set(state.ready)
        self._turned.set(time.time())


class _Build(Collector):
    def collect(self) -> Iterator[Metric]:
        build = GaugeMetricFamily(
            "delaybox_build_info", "1, with the versions as labels.", labels=["version", "python"]
        )
        build.add_metric([__version__, platform.python_version()], 1)
        yield build


def render(own: CollectorRegistry) -> bytes:
    """The metrics of all processes that share the folder, else those of ``own``, in Prometheus's text."""
    return render_as("", own)[0]


def render_as(accept: str, own: CollectorRegistry) -> tuple[bytes, str]:
    """As `render`, with the content type. ``accept``: the scraper's header; OpenMetrics, with examples, if it asks for
    that."""
    return exposed(accept, _merged(own))


def collected() -> Iterator[Metric]:
    """The metrics of all processes that share the folder, family by family."""
    return iter(_merged(None).collect())


def collected_of(own: CollectorRegistry) -> Iterator[Metric]:
    """The metrics of this process alone, family by family, whatever folder the environment names."""
    return iter(_with_build(own).collect())


def _merged(own: CollectorRegistry | None) -> CollectorRegistry:
    return _with_build(_shared() or own)


def _with_build(counted: Collector | None) -> CollectorRegistry:
    merged = CollectorRegistry()
    merged.register(_Build())
    if counted is not None:
        merged.register(WithoutCreated(counted))
    return merged


def _shared() -> Collector | None:
    folder = os.environ.get(counters.VARIABLE)
    if not folder or not Path(folder).is_dir():
        return None
    return MultiProcessCollector(None, path=folder)  # type: ignore[no-untyped-call]


def condition(own: CollectorRegistry | None = None) -> WorkerCondition:
    """The state of the worker. ``own``: of this process, where no folder is shared."""
    source = _shared() or own
    return condition_of(() if source is None else source.collect(), time.time())


def condition_of(metrics: Iterable[Metric], now_s: float) -> WorkerCondition:
    """As `condition`, of these metrics at this moment (Unix seconds)."""
    plain: dict[str, float] = {}
    down: list[str] = []
    for metric in metrics:
        for sample in metric.samples:
            if sample.name == "delaybox_worker_sessions" and sample.labels["state"] == "down" and sample.value:
                down.append(sample.labels["server"])
            elif not sample.labels:
                plain[sample.name] = sample.value
    processes = round(plain.get("delaybox_worker_processes", 0))
    wrong = stands = ""
    if plain.get("delaybox_worker_draining"):
        wrong = "the worker drains: it takes no more tasks"
    elif not plain.get("delaybox_worker_ready"):
        wrong = f"no session with {', '.join(sorted(down))}" if down else "the worker has not begun"
    stood_s = now_s - plain.get("delaybox_worker_turned_seconds", now_s)
    if stood_s > STANDS_S:
        stands = f"an event loop has not turned for {stood_s:.0f} s: a function keeps it, or the process is stopped"
    return WorkerCondition(processes=processes, wrong=wrong or stands, stands=stands)
