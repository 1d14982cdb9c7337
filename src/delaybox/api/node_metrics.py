"""What is read for each scrape and counted nowhere: the node's version, the CPU, memory and files of all its processes
together, and the busiest queues."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from delaybox import __version__
from delaybox.core.query import QueueStats, QueueWait
from delaybox.metrics import DIRECTORY_VARIABLE

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
MOST_QUEUES: Final = 50
"""Queues with a series of their own."""
_MOST: Final = 1_000
"""Processes that are looked at: a shell command may have started any number."""


@dataclass(slots=True)
class _Used:
    cpu_s: float = 0.0
    resident: int = 0
    virtual: int = 0
    files: int = 0
    processes: int = 0
    started_s: float = 0.0


class NodeCollector(Collector):
    """The names and meanings of Prometheus's own ``process_*``, but for the whole node: its parent and all below it."""

    def __init__(self) -> None:
        # A process without the folder of a node's counters was started by itself.
        self._root = os.getppid() if os.environ.get(DIRECTORY_VARIABLE) else os.getpid()
        self._cpu_s = 0.0
        self.queues: Sequence[QueueStats] = ()
        self.waits: Sequence[QueueWait] = ()
        """The longest first."""
        self.servers: Mapping[str, bool] = {}
        """For each primary of a cluster whether it is away."""

    def collect(self) -> Iterator[Metric]:
        """Reads /proc; where there is none, only the version is shown."""
        build = GaugeMetricFamily(
            "delaybox_build_info", "1, with the versions as labels.", labels=["version", "python"]
        )
        build.add_metric([__version__, platform.python_version()], 1)
        yield build
        yield from _of_queues(self.queues)
        yield from _of_waits(self.waits, self.queues)
        if self.servers:
            away = GaugeMetricFamily(
                "delaybox_store_server_away",
                "1 while a server of the store's cluster does not answer, and none has taken its place.",
                labels=["server"],
            )
            for server, is_away in sorted(self.servers.items()):
                away.add_metric([server], is_away)
            yield away
        used = self._used()
        if not used.processes:
            return
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        # A process that ends while this is read is missed for once. A scraper would take the lower value for a restart,
        # and all that was used before for used since.
        self._cpu_s = max(self._cpu_s, used.cpu_s)
        cpu = CounterMetricFamily("process_cpu_seconds", "CPU time of this node's processes, also of those that ended.")
        cpu.add_metric([], self._cpu_s)
        yield cpu
        yield _gauge("process_resident_memory_bytes", used.resident, "Resident memory; shared pages count for each.")
        yield _gauge("process_virtual_memory_bytes", used.virtual, "Virtual memory.")
        yield _gauge("process_open_fds", used.files, "Open files.")
        yield _gauge("process_max_fds", files, "Files that one process may have open.")
        yield _gauge("process_start_time_seconds", used.started_s, "When the node started, in Unix seconds.")
        yield _gauge("delaybox_processes", used.processes, "Processes of this node, its commands and server included.")

    def _used(self) -> _Used:
        used, left = _Used(), [self._root]
        while left and used.processes < _MOST:
            pid = left.pop()
            # One that has just ended is left out.
            with contextlib.suppress(OSError, ValueError, IndexError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                # Its own, and that of its children that have ended: the sum must not fall with a process.
                used.cpu_s += sum(map(int, fields[11:15])) / _TICKS
                used.virtual += int(fields[20])
                used.resident += int(fields[21]) * _PAGE
                used.processes += 1
                if pid == self._root:
                    age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / _TICKS
                    used.started_s = time.time() - age_s
                left += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
                # Of processes of another user the files are not shown.
                used.files += len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 - names are all that is wanted
        return used


def _of_queues(stats: Sequence[QueueStats]) -> Iterator[Metric]:
    """The queues with the most tasks due or in flight by name, the others as one."""
    ready: Counter[str] = Counter()
    in_flight: Counter[str] = Counter()
    rate: defaultdict[str, float] = defaultdict(float)
    for one in stats:
        ready[one.queue] += one.ready
        in_flight[one.queue] += one.in_flight
        rate[one.queue] += one.fired_per_s
    named = {queue for queue, _ in (ready + in_flight).most_common(MOST_QUEUES)}
    for name, meaning, figures in (
        ("delaybox_queue_ready_tasks", "Tasks of a queue that are due and wait.", ready),
        ("delaybox_queue_in_flight_tasks", "Tasks of a queue that are leased right now.", in_flight),
        ("delaybox_queue_fired_per_second", "Tasks of a queue handed out a second, over the last minute.", rate),
    ):
        family = GaugeMetricFamily(name, meaning, labels=["queue"])
        for queue in sorted(named):
            family.add_metric([queue], figures[queue])
        if len(figures) > len(named):
            family.add_metric(["(others)"], sum(figures.values()) - sum(figures[queue] for queue in named))
        yield family


def _of_waits(waits: Sequence[QueueWait], stats: Sequence[QueueStats]) -> Iterator[Metric]:
    """The queues that wait longest by name, and 0 for others that are known as far as there is room, so that a line
    in a graph comes down when its queue is served again."""
    shown = waits[:MOST_QUEUES]
    waiting = {one.queue for one in waits}
    idle = sorted({one.queue for one in stats} - waiting)[: MOST_QUEUES - len(shown)]
    family = GaugeMetricFamily(
        "delaybox_queue_oldest_wait_seconds",
        "For how long the first in line of a queue's due tasks waits.",
        labels=["queue"],
    )
    paused = GaugeMetricFamily(
        "delaybox_queue_paused", "1 while due tasks of a queue wait because it is paused.", labels=["queue"]
    )
    for one in shown:
        family.add_metric([one.queue], one.wait_ms / 1_000)
        paused.add_metric([one.queue], one.paused)
    for queue in idle:
        family.add_metric([queue], 0)
    if rest := waits[MOST_QUEUES:]:
        # Of those that nobody paused, where there are such: a pause must neither raise an alert nor hide its reason.
        longest = next((one for one in rest if not one.paused), rest[0])
        family.add_metric(["(others)"], longest.wait_ms / 1_000)
        paused.add_metric(["(others)"], longest.paused)
    yield family
    yield paused


def _gauge(name: str, value: float, meaning: str) -> Metric:
    family = GaugeMetricFamily(name, meaning)
    family.add_metric([], value)
    return family
