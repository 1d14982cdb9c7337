"""What a scrape shows of queues is bounded, however many there are."""

from __future__ import annotations

import subprocess
import sys

import pytest

from delaybox.api.node_metrics import MOST_QUEUES, NodeCollector
from delaybox.core.query import QueueStats, QueueWait
from delaybox.core.task import TaskType


def shown(stats: list[QueueStats], waits: list[QueueWait] | None = None) -> dict[str, dict[str, float]]:
    """The values by metric and queue; of figures that there are."""
    collector = NodeCollector()
    collector.queues, collector.waits = stats, waits or []
    families = [
        family for family in collector.collect() if family.name.startswith("delaybox_queue_") and family.samples
    ]
    return {family.name: {s.labels["queue"]: s.value for s in family.samples} for family in families}


def queue(name: str, ready: int, *, of: TaskType = TaskType.WORKER) -> QueueStats:
    return QueueStats(queue=name, type=of, pending=ready, ready=ready, in_flight=1, fired_per_s=0.5)


def test_the_busiest_queues_have_names_and_the_rest_is_one() -> None:
    found = shown([queue(f"q{n:03}", n) for n in range(MOST_QUEUES + 10)])
    idle = found.pop("delaybox_queue_oldest_wait_seconds")
    assert len(idle) == MOST_QUEUES and set(idle.values()) == {0}
    for values in found.values():
        assert len(values) == MOST_QUEUES + 1
    ready = found["delaybox_queue_ready_tasks"]
    assert ready["q059"] == 59 and "q009" not in ready
    assert ready["(others)"] == sum(range(10))
    assert found["delaybox_queue_in_flight_tasks"]["(others)"] == 10
    assert found["delaybox_queue_fired_per_second"]["(others)"] == 5


def test_a_queue_of_several_types_is_one_and_few_queues_have_no_others() -> None:
    found = shown([queue("mail", 2), queue("mail", 3, of=TaskType.HTTP)])
    assert found["delaybox_queue_ready_tasks"] == {"mail": 5}
    assert found["delaybox_queue_in_flight_tasks"] == {"mail": 2}


def test_the_queues_that_wait_longest_have_names_and_the_rest_is_the_longest_of_them() -> None:
    waits = [QueueWait(f"q{n:03}", 100_000 - n, n == 1) for n in range(MOST_QUEUES + 10)]
    found = shown([queue("busy", 10_000)], waits)
    oldest = found["delaybox_queue_oldest_wait_seconds"]
    assert len(oldest) == MOST_QUEUES + 1
    assert oldest["q000"] == 100 and oldest["(others)"] == (100_000 - MOST_QUEUES) / 1_000
    paused = found["delaybox_queue_paused"]
    assert len(paused) == MOST_QUEUES + 1 and [name for name, value in paused.items() if value] == ["q001"]


def test_paused_queues_without_a_name_of_their_own_raise_no_alert_and_hide_none() -> None:
    waits = [QueueWait(f"q{n:03}", 100_000 - n, True) for n in range(MOST_QUEUES + 10)]
    found = shown([], waits)
    assert found["delaybox_queue_oldest_wait_seconds"]["(others)"] == (100_000 - MOST_QUEUES) / 1_000
    assert found["delaybox_queue_paused"]["(others)"] == 1
    found = shown([], [*waits, QueueWait("slow", 2_500), QueueWait("quick", 5)])
    assert found["delaybox_queue_oldest_wait_seconds"]["(others)"] == 2.5
    assert found["delaybox_queue_paused"]["(others)"] == 0


def test_a_queue_whose_work_was_taken_waits_no_more_and_keeps_its_line() -> None:
    found = shown([queue("mail", 0), queue("slow", 3)], [QueueWait("slow", 2_500)])
    assert found["delaybox_queue_oldest_wait_seconds"] == {"slow": 2.5, "mail": 0}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_cpu_time_of_a_process_that_has_ended_still_counts() -> None:
    """A sum that falls is taken for a restart: a rate over that would count everything since the start once more."""
    collector = NodeCollector()

    def used_s() -> float:
        families = {family.name: family for family in collector.collect()}
        return families["process_cpu_seconds"].samples[0].value

    before_s = used_s()
    computes = "import time\nwhile time.process_time() < 0.3: pass"
    subprocess.run([sys.executable, "-c", computes], check=True)
    assert used_s() - before_s >= 0.25
