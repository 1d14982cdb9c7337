"""What a scrape shows of queues is bounded, however many there are."""

from __future__ import annotations

from delaybox.api.node_metrics import MOST_QUEUES, NodeCollector
from delaybox.core.query import QueueStats
from delaybox.core.task import TaskType


def shown(stats: list[QueueStats]) -> dict[str, dict[str, float]]:
    """The values by metric and queue."""
    collector = NodeCollector()
    collector.queues = stats
    families = [family for family in collector.collect() if family.name.startswith("delaybox_queue_")]
    return {family.name: {s.labels["queue"]: s.value for s in family.samples} for family in families}


def queue(name: str, ready: int, *, of: TaskType = TaskType.WORKER) -> QueueStats:
    return QueueStats(queue=name, type=of, pending=ready, ready=ready, in_flight=1, fired_per_s=0.5)


def test_the_busiest_queues_have_names_and_the_rest_is_one() -> None:
    found = shown([queue(f"q{n:03}", n) for n in range(MOST_QUEUES + 10)])
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
