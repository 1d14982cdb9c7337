"""Celery's side: `celery --app benchmarks.peers.python.celery_app worker`; runs in the peers' environment."""

from __future__ import annotations

import os
import sys

from celery import Celery

from benchmarks.harness import tally

app = Celery("bench", broker=f"redis+socket://{os.environ['DELAYBOX_BENCH_SOCKET']}")
app.conf.update(
    accept_content=["msgpack"],
    task_serializer="msgpack",
    task_ignore_result=True,
    task_store_errors_even_if_ignored=False,
    worker_prefetch_multiplier=1_000,
    worker_disable_rate_limits=True,
    worker_send_task_events=False,
    worker_enable_remote_control=False,
    broker_connection_retry_on_startup=True,
)
tick = tally.ticker()


@app.task(name="noop")
def noop(text: str) -> None:
    """Counts, and nothing else."""
    tick()


def fill(count: int) -> None:
    """So many tasks for now."""
    text = "x" * 108
    with app.producer_pool.acquire(block=True) as producer:
        for _ in range(count):
            noop.apply_async((text,), producer=producer)


if __name__ == "__main__":
    fill(int(sys.argv[1]))
