"""What is counted of webhooks."""

from __future__ import annotations

import asyncio

from delaybox.metrics.exposition import REGISTRY
from delaybox.targets import http_metrics
from tests.waiting import until_async as until

HOST = "http://counted.example:8080"


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"delaybox_webhook_{name}", labels) or 0.0


async def test_requests_are_counted_together_as_they_would_be_one_by_one() -> None:
    names = ("seconds_count", "seconds_sum", "lateness_seconds_count", "lateness_seconds_sum")
    http_metrics.add()  # what other tests in this process have sent
    before = {name: value(name) for name in names}
    first, last = value("seconds_bucket", le="0.1"), value("seconds_bucket", le="+Inf")
    http_metrics.sent(HOST, "2xx", 0.1, 0.004)  # a bucket's bound belongs to the bucket
    http_metrics.sent(HOST, "2xx", 1_000.0, None)
    http_metrics.sent(HOST, "refused", None)
    http_metrics.add()
    assert {name: round(value(name) - before[name], 6) for name in names} == {
        "seconds_count": 2,
        "seconds_sum": 1_000.1,
        "lateness_seconds_count": 1,
        "lateness_seconds_sum": 0.004,
    }
    assert value("seconds_bucket", le="0.1") - first == 1 and value("seconds_bucket", le="+Inf") - last == 2
    assert value("requests_total", host=HOST, answer="2xx") == 2
    assert value("requests_total", host=HOST, answer="refused") == 1
    assert value("host_seconds_count", host=HOST) == 2 and value("host_seconds_sum", host=HOST) == 1_000.1
    assert value("host_lateness_seconds_count", host=HOST) == 1
    http_metrics.add()
    assert value("host_seconds_count", host=HOST) == 2, "nothing is counted twice"


def test_what_one_event_loop_left_behind_is_counted_in_the_next_one() -> None:
    host = "http://left.example:8080"

    async def send() -> None:
        http_metrics.sent(host, "2xx", 0.1)

    async def send_and_see() -> None:
        await send()
        await until(lambda: value("requests_total", host=host, answer="2xx") == 2)

    asyncio.run(send())
    asyncio.run(send_and_see())
