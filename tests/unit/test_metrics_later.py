"""Values that are added to the metrics several together."""

from __future__ import annotations

import asyncio
import threading
from collections import deque

from delaybox import metrics
from delaybox.metrics.exposition import REGISTRY
from delaybox.metrics.later import Later, taken
from tests.waiting import until_async as until


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"delaybox_{name}", labels) or 0.0


async def test_what_an_event_loop_counts_is_in_the_metrics_a_moment_later() -> None:
    metrics.add_all()  # what other tests in this process have counted
    late = value("lateness_seconds_count"), value("lateness_seconds_sum")
    for ms in (1, 2, 3):
        metrics.script_took("of_this_test", ms / 1000)
        metrics.observe_lateness([ms])
    assert value("script_seconds_count", script="of_this_test") == 0, "no step for each of them"
    assert value("lateness_seconds_count") == late[0]
    await until(lambda: value("script_seconds_count", script="of_this_test") == 3)
    await until(lambda: value("lateness_seconds_count") == late[0] + 3)
    assert round(value("lateness_seconds_sum") - late[1], 6) == 0.006
    assert round(value("script_seconds_sum", script="of_this_test"), 6) == 0.006
    assert value("script_seconds_bucket", script="of_this_test", le="0.002") == 2
    assert value("script_max_seconds", script="of_this_test") == 0.003
    metrics.add_all()
    assert value("script_seconds_count", script="of_this_test") == 3, "nothing is counted twice"


def test_where_no_event_loop_runs_and_where_much_waits_it_is_added_at_once() -> None:
    steps: list[int] = []
    waiting: deque[int] = deque()
    later = Later(lambda: steps.append(len(list(taken(waiting)))))
    waiting.append(1)
    later.soon(len(waiting))
    assert steps == [1]

    async def many() -> None:
        for one in range(2_500):
            waiting.append(one)
            later.soon(len(waiting))

    asyncio.run(many())
    assert steps == [1, 1_000, 1_000], "what waits is bounded"
    metrics.add_all()
    assert steps[3:] == [500], "what an event loop that ended has left is added at the end"


def test_each_value_is_taken_once_by_whichever_thread_takes_it() -> None:
    waiting: deque[int] = deque(range(50_000))
    found: list[list[int]] = []
    threads = [threading.Thread(target=lambda: found.append(list(taken(waiting)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(one for some in found for one in some) == list(range(50_000))
